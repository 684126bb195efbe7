"""The methods, each a few declarative lines; the defaults are the published setting.

`build("sgsd", k=4)` makes one by name; `build("my_module:my_method")` makes one of your own.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

from sgsd.method.joints import (
    Always,
    Answer,
    Bounded,
    FollowOutcome,
    FollowTrust,
    MatchDistribution,
    MatchSampledToken,
    NoContext,
    NoGate,
    RetrievalSoftmax,
    Shown,
    SkillPairs,
    StanceKind,
    Uniform,
    VerifiedSupport,
)
from sgsd.method.losses import ClipLevel
from sgsd.method.spec import Method, Reduce, TeacherKind
from sgsd.types import UserError


def sgsd(
    k: int = 8,
    tau: float = 1.0,
    clip: float = 3.0,
    confidence: float = 0.05,
    teacher: TeacherKind = "live",
    also: Shown | None = None,
    stance: StanceKind = "raw",
) -> Method:
    """Skill-conditioned gated self-distillation, arXiv 2605.28791."""
    return Method(
        name="sgsd",
        context=SkillPairs(k, also),
        stance=VerifiedSupport(clip=clip, confidence=confidence, kind=stance),
        gate=Bounded(tau),
        direction=MatchSampledToken(),
        weights=RetrievalSoftmax(),
        teacher=teacher,
        paper="arXiv 2605.28791",
    )


def trusted(
    k: int = 8,
    clip: float = 3.0,
    confidence: float = 0.01,
    outcome: float = 1.0,
    floor: float = -1.0,
    teacher: TeacherKind = "live",
) -> Method:
    """Ledger-trusted SGSD, ours: what all rollouts say of an item decides, and the outcome carries the rest."""
    return Method(
        name="trusted",
        context=SkillPairs(k),
        stance=VerifiedSupport(clip=clip, confidence=confidence),
        gate=NoGate(),
        direction=FollowTrust(clip=clip, outcome=outcome, floor=floor),
        weights=RetrievalSoftmax(),
        teacher=teacher,
        paper="ours",
    )


def grpo(
    group: int = 8,
    iterations: int = 2,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    scale_rewards: Literal["group", "batch", "none"] = "group",
    reduce: Reduce = "rollout",
) -> Method:
    """Group-relative policy optimisation of the outcome alone, arXiv 2402.03300."""
    return Method(
        name="grpo",
        context=NoContext(),
        stance=Always(),
        gate=NoGate(),
        direction=FollowOutcome(scale=scale_rewards, epsilon=epsilon, epsilon_high=epsilon_high),
        reduce=reduce,
        tokens="all",  # the outcome says when to stop, too: the end token is learned
        group=group,
        iterations=iterations,
        paper="arXiv 2402.03300",
    )


def opsd(
    show: Shown = "solution_or_answer",
    beta: float = 0.0,
    clip: float | None = 0.05,
    clip_level: ClipLevel = "token",
    top_k: int | None = None,
    teacher: TeacherKind = "frozen",
) -> Method:
    """Answer-conditioned on-policy self-distillation of whole distributions, arXiv 2601.18734."""
    return Method(
        name="opsd",
        context=Answer(show),
        stance=Always(),
        gate=NoGate(),
        direction=MatchDistribution(beta=beta, clip=clip, clip_level=clip_level, top_k=top_k),
        weights=Uniform(),
        reduce="token",
        teacher=teacher,
        paper="arXiv 2601.18734",
    )


ZOO: Mapping[str, Callable[..., Method]] = {"sgsd": sgsd, "trusted": trusted, "grpo": grpo, "opsd": opsd}


def nearest(word: str, known: list[str]) -> str:
    """A hint for a misspelt word: the nearest known one, or all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"


def recipe(name: str) -> Callable[..., Method]:
    """The function behind a method's name: one of the zoo, or `module:function` of one's own.

    Raises:
        UserError: there is no such method.
    """
    if name in ZOO:
        return ZOO[name]
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise UserError(f"method.name: there is no method {name!r}; {nearest(name, list(ZOO))}")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"method.name: {name} cannot be imported ({error}); is its folder on PYTHONPATH?") from error
    if not callable(found):
        raise UserError(f"method.name: {name} is not a function that returns a Method")
    return found


def defaults(name: str) -> dict[str, Any]:
    """The options of a method with their default values."""
    return {key: p.default for key, p in inspect.signature(recipe(name)).parameters.items()}


def build(name: str, **options: Any) -> Method:
    """Make a method by name with some options changed.

    Raises:
        UserError: no such method, no such option, or options that do not make a method.
    """
    known = defaults(name)
    if unknown := [key for key in options if key not in known]:
        raise UserError(f"method.{unknown[0]}: {name} has no such option; {nearest(unknown[0], list(known))}")
    try:
        method = recipe(name)(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"method: {error}") from error
    if not isinstance(method, Method):
        raise UserError(f"method.name: {name} returned {type(method).__name__}, not a Method")
    return method
