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
    "precedence": ("multiply before you add", "take the product first", "do times before plus",
                   "let the product come before the sum"),
    "bracket": ("close the bracket first", "do the inside first", "start with the bracket",
                "let the inside come before the outside"),
    "carry": ("carry the one", "add the carried ten", "take the ten over", "let the ten move to the left"),
    "mod": ("stay below the number", "take the multiple below", "go down to the last multiple",
            "let the multiple be below"),
    "square": ("multiply it by itself", "use the number as both factors", "take the number times the number",
               "let both factors be the number"),
    "minus": ("turn two minus signs into plus", "add when two minus signs meet", "let minus minus be plus",
              "let two minus signs be a plus"),
}  # fmt: skip
_FAULTY = {
    "precedence": ("add before you multiply", "take the sum first", "do plus before times",
                   "let the sum come before the product"),
    "bracket": ("drop the bracket", "go straight from left to right", "ignore the bracket",
                "let the outside come before the inside"),
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
    ("draw the triangle", "leave out the drawing"), ("sketch the graph", "skip the graph"),
    ("check the units", "forget the units"), ("name the angles", "mix up the angles"),
    ("look for symmetry", "miss the symmetry"), ("count the faces", "lose a face"),
)  # fmt: skip
_WHERE = {
    "precedence": "Sum with a product", "bracket": "Bracket", "carry": "Addition",
    "mod": "Remainder mod", "square": "Square", "minus": "Double minus",
}  # fmt: skip
_ANYWHERE = "Sum, product, bracket, addition, remainder, square, minus"

_TITLES = ("{}", "Always {}", "Remember to {}", "Be sure to {}")
_PRINCIPLES = ("The rule is to {}.", "Here one must {}.", "It works when you {}.", "The way is to {}.")
_SLIPS = ("The slip was to {}", "It is wrong to {}", "A common slip is to {}", "The trap is to {}")
_REMEDIES = ("Instead {}.", "Better {}.", "Rather {}.", "Next time {}.")

TRAINED_PHRASINGS = (0, 1, 2)
HELD_OUT_PHRASINGS = (3,)


@dataclass(frozen=True, slots=True)
class Aim:
    """What an item speaks for: its kind, and the branch or the style it is about."""

    kind: str
    target: str  # a branch, a style, or the number of an off-topic subject


def aims(kind: str) -> list[Aim]:
    targets: Sequence[str] = {
        HELPFUL: BRANCHES, MISLEADING: BRANCHES, STYLISTIC: tuple(_STYLE),
        IRRELEVANT: tuple(map(str, range(len(_OFF_TOPIC)))),
    }[kind]  # fmt: skip
    return [Aim(kind, target) for target in targets]


def _good_and_bad(aim: Aim, phrasing: int) -> tuple[str, str]:
    """The act an item recommends and the act it warns against."""
    if aim.kind == HELPFUL:
        return _RIGHT[aim.target][phrasing], _FAULTY[aim.target][phrasing]
    if aim.kind == MISLEADING:
        return _FAULTY[aim.target][phrasing], _RIGHT[aim.target][phrasing]
    if aim.kind == STYLISTIC:
        return _STYLE[aim.target][phrasing], "write in the usual way"
    return _OFF_TOPIC[int(aim.target)]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _where(aim: Aim) -> str:
    return _WHERE.get(aim.target, _ANYWHERE)


def make_skill(item_id: str, aim: Aim, rng: random.Random, phrasings: Sequence[int] = TRAINED_PHRASINGS) -> Skill:
    title, principle = (_good_and_bad(aim, rng.choice(phrasings))[0] for _ in range(2))
    return Skill(
        id=item_id,
        title=_capital(_TITLES[rng.choice(phrasings)].format(title)),
        principle=_PRINCIPLES[rng.choice(phrasings)].format(principle),
        when_to_apply=_where(aim),
        meta={"kind": aim.kind, "target": aim.target},
    )


def make_mistake(item_id: str, aim: Aim, rng: random.Random, phrasings: Sequence[int] = TRAINED_PHRASINGS) -> Mistake:
    bad = _good_and_bad(aim, rng.choice(phrasings))[1]
    good = _good_and_bad(aim, rng.choice(phrasings))[0]
    return Mistake(
        id=item_id,
        description=_SLIPS[rng.choice(phrasings)].format(bad),
        why_it_happens=f"{_where(aim)}: it looks quicker.",
        how_to_avoid=_REMEDIES[rng.choice(phrasings)].format(good),
        meta={"kind": aim.kind, "target": aim.target},
    )


def kind_for_problem(item: BankItem, branches: Sequence[str]) -> str:
    """What an item is for one problem: an item about a branch the problem does not meet is irrelevant there."""
    kind, target = item.meta["kind"], item.meta["target"]
    return IRRELEVANT if kind in (HELPFUL, MISLEADING) and target not in branches else kind


def make_items(
    counts: Mapping[str, int], *, seed: int, phrasings: Sequence[int] = TRAINED_PHRASINGS
) -> tuple[list[Skill], list[Mistake]]:
    """As many skills, and as many mistakes, of each kind as `counts` says, targets in turn, in a shuffled order."""
    wanted = [aims(kind)[i % len(aims(kind))] for kind, count in counts.items() for i in range(count)]
    rng = random.Random(seed)
    skill_aims, mistake_aims = rng.sample(wanted, len(wanted)), rng.sample(wanted, len(wanted))
    skills = [make_skill(f"lab_skill_{i:03d}", aim, rng, phrasings) for i, aim in enumerate(skill_aims)]
    mistakes = [make_mistake(f"lab_mistake_{i:03d}", aim, rng, phrasings) for i, aim in enumerate(mistake_aims)]
    return skills, mistakes
