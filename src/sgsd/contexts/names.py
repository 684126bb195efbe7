"""Contexts by name, for configurations: those of the package, and a user's own by `module:name`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import get_args

from sgsd.contexts.base import Context, Need
from sgsd.contexts.controls import Irrelevant, Null, RandomPairs, Shuffled
from sgsd.contexts.references import Answer, Demonstration, OtherProblem, Rubric, WrongAnswer
from sgsd.contexts.rollouts import Critique, Feedback, Sibling
from sgsd.contexts.skill_pairs import SkillPairs
from sgsd.lookup import load_attribute, nearest
from sgsd.types import UserError

#: One teacher of each kind; those of the bank are shown the best pair.
NAMES: Mapping[str, Callable[[], Context]] = {
    "null": Null,
    "irrelevant": partial(Irrelevant, SkillPairs(1)),
    "shuffled": partial(Shuffled, SkillPairs(1)),
    "random": partial(RandomPairs, 1),
    "answer": Answer,
    "wrong_answer": WrongAnswer,
    "other_problem": OtherProblem,
    "demonstration": Demonstration,
    "sibling": Sibling,
    "feedback": Feedback,
    "rubric": Rubric,
    "critique": Critique,
}


def named_context(name: str, key: str = "method.context") -> Context:
    """The context of a name: one of `NAMES`, or `module:name` of a class, a function or a context of one's own.

    >>> named_context("irrelevant")
    Irrelevant(part=SkillPairs(k=1, side='pair'))

    Raises:
        UserError: there is none; the message begins with `key`.
    """
    if not isinstance(name, str):
        raise UserError(f"{key}: name a context, not {name!r}")
    if name in NAMES:
        return NAMES[name]()
    if ":" not in name:
        raise UserError(f"{key}: there is no context {name!r}; {nearest(name, list(NAMES))}")
    found = load_attribute(name, key)
    if not isinstance(found, Context):
        if not callable(found):
            raise UserError(f"{key}: {name} is no context; name a subclass of sgsd.contexts.Context")
        try:
            found = found()
        except (TypeError, ValueError) as error:
            raise UserError(f"{key}: {name} cannot be made ({error}); give every field a default value") from error
    if not isinstance(found, Context):
        raise UserError(f"{key}: {name} makes a {type(found).__name__}, not a context; subclass sgsd.contexts.Context")
    if unknown := sorted(found.all_needs() - set(get_args(Need))):
        raise UserError(f"{key}: {name} needs {unknown[0]!r}, which no run has; {nearest(unknown[0], get_args(Need))}")
    return found
