"""The lab's skills and mistakes: phrases that say which procedure to take, and the banks made of them.

An item is *helpful* (it speaks for the right procedure of its branch), *misleading* (for the faulty one),
*stylistic* (it asks for another wording and leaves the answer alone) or *irrelevant* (it is about something else).
The fourth phrasing of everything is never shown in pre-training.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sgsd.lab.task import BRANCHES
from sgsd.types import BankItem, Mistake, Skill

HELPFUL, MISLEADING, STYLISTIC, IRRELEVANT = "helpful", "misleading", "stylistic", "irrelevant"

_RIGHT = {
    "precedence": ("take the product first", "start with the times sign", "multiply at once",
                   "let the product be first"),
    "bracket": ("open the bracket first", "do the inside first", "begin within the bracket",
                "let the inside be first"),
    "carry": ("carry the one", "add the carried ten", "take the ten over", "let the ten move to the left"),
    "mod": ("stay below the number", "take the multiple below", "go down to the last multiple",
            "let the multiple be below"),
    "square": ("multiply it by itself", "use the number as both factors", "take the number times the number",
               "let both factors be the number"),
    "minus": ("turn two minus signs into plus", "add when two minus signs meet", "let minus minus be plus",
              "let two minus signs be a plus"),
}  # fmt: skip
_FAULTY = {
    "precedence": ("take the sum first", "start with the plus sign", "add at once",
                   "let the sum be first"),
    "bracket": ("drop the bracket", "go from left to right", "ignore the bracket",
                "let the outside be first"),
    "carry": ("forget the one", "leave out the carried ten", "drop the ten", "let the ten fall away"),
    "mod": ("go above the number", "take the multiple above", "go up to the next multiple",
            "let the multiple be above"),
    "square": ("double it", "use two as a factor", "take the number times two", "let one factor be two"),
    "minus": ("keep one minus sign", "subtract when two minus signs meet", "let minus minus be minus",
              "let two minus signs be a minus"),
}  # fmt: skip
_STYLE = {
    "then": ("write then between the steps", "use the word then", "join the steps with then",
             "let then come between steps"),
    "so": ("write so before each step", "use the word so", "begin the steps with so", "let so come before steps"),
    "lines": ("put each step on its own line", "use a new line for each step", "begin each line with a dash",
              "let each line be a step"),
}  # fmt: skip
_OFF_TOPIC = (
    "draw the triangle", "sketch the graph", "check the units", "name the angles", "look for symmetry",
    "count the faces",
)  # fmt: skip
_TOPIC = {
    "precedence": "product", "bracket": "bracket", "carry": "addition", "mod": "remainder", "square": "square",
    "minus": "minus",
}  # fmt: skip
_WHERE = {
    "precedence": "Sum with a product", "bracket": "Bracket", "carry": "Addition",
    "mod": "Remainder mod", "square": "Square", "minus": "Double minus",
}  # fmt: skip
_ANYWHERE = "Sum, product, bracket, addition, remainder, square, minus"

_TITLES = ("{}", "Always {}", "Remember to {}", "Be sure to {}")
_PRINCIPLES = ("The rule is to {}.", "Here one must {}.", "It works when you {}.", "The way is to {}.")
_SLIPS = ("A slip", "A common slip", "An old mistake", "A trap")
_REMEDIES = ("Instead {}.", "Better {}.", "Rather {}.", "Next time {}.")

TRAINED_PHRASINGS = (0, 1, 2)
HELD_OUT_PHRASINGS = (3,)


@dataclass(frozen=True, slots=True)
class Aim:
    """The purpose of an item: its kind, and the branch or the style it is about."""

    kind: str
    target: str  # a branch, a style, or the number of an off-topic subject


def aims(kind: str) -> list[Aim]:
    targets: Sequence[str] = {
        HELPFUL: BRANCHES, MISLEADING: BRANCHES, STYLISTIC: tuple(_STYLE),
        IRRELEVANT: tuple(map(str, range(len(_OFF_TOPIC)))),
    }[kind]  # fmt: skip
    return [Aim(kind, target) for target in targets]


def _act(aim: Aim, phrasing: int) -> str:
    """The action that an item advises."""
    if aim.kind == IRRELEVANT:
        return _OFF_TOPIC[int(aim.target)]
    return {HELPFUL: _RIGHT, MISLEADING: _FAULTY, STYLISTIC: _STYLE}[aim.kind][aim.target][phrasing]


def _where(aim: Aim) -> str:
    return _WHERE.get(aim.target, _ANYWHERE)


def make_skill(item_id: str, aim: Aim, rng: random.Random, phrasings: Sequence[int] = TRAINED_PHRASINGS) -> Skill:
    title, principle = (_act(aim, rng.choice(phrasings)) for _ in range(2))
    title = _TITLES[rng.choice(phrasings)].format(title)
    return Skill(
        id=item_id,
        title=title[0].upper() + title[1:],
        principle=_PRINCIPLES[rng.choice(phrasings)].format(principle),
        when_to_apply=_where(aim),
        meta={"kind": aim.kind, "target": aim.target},
    )


def make_mistake(item_id: str, aim: Aim, rng: random.Random, phrasings: Sequence[int] = TRAINED_PHRASINGS) -> Mistake:
    return Mistake(
        id=item_id,
        description=f"{_SLIPS[rng.choice(phrasings)]} with the {_TOPIC.get(aim.target, 'working')}",
        why_it_happens=f"{_where(aim)}: it looks quicker.",
        how_to_avoid=_REMEDIES[rng.choice(phrasings)].format(_act(aim, rng.choice(phrasings))),
        meta={"kind": aim.kind, "target": aim.target},
    )


def rubric(branches: Sequence[str]) -> str:
    """The criteria for a solution with these branches: the right procedure of each, in a helpful skill's words."""
    acts = (_act(Aim(HELPFUL, branch), phrasing=0) for branch in branches)
    return "\n".join(f"Skill: {_TITLES[2].format(act)}." for act in acts)


def kind_for_problem(item: BankItem, branches: Sequence[str]) -> str:
    """The kind of an item for one problem: irrelevant where the problem does not meet its branch."""
    kind, target = item.meta["kind"], item.meta["target"]
    return IRRELEVANT if kind in (HELPFUL, MISLEADING) and target not in branches else kind


def make_items(
    counts: Mapping[str, int], *, seed: int, phrasings: Sequence[int] = TRAINED_PHRASINGS
) -> tuple[list[Skill], list[Mistake]]:
    """Make `counts[kind]` skills and as many mistakes of each kind, targets in turn, in a shuffled order."""
    wanted = [aims(kind)[i % len(aims(kind))] for kind, count in counts.items() for i in range(count)]
    rng = random.Random(seed)
    skill_aims, mistake_aims = rng.sample(wanted, len(wanted)), rng.sample(wanted, len(wanted))
    skills = [make_skill(f"lab_skill_{i:03d}", aim, rng, phrasings) for i, aim in enumerate(skill_aims)]
    mistakes = [make_mistake(f"lab_mistake_{i:03d}", aim, rng, phrasings) for i, aim in enumerate(mistake_aims)]
    return skills, mistakes
