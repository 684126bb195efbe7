"""Controls: something else in the place of the pairs, to tell what a skill is worth from what any context does.

    null        nothing: the student's own prompt, in the teachers' thinking mode
    irrelevant  for each pair one about something else, as long as it
    shuffled    the pairs of another problem
    random      pairs drawn from the bank by chance

They are contexts like any other. A run is controlled by putting one in the place of its pairs, in the declaration; all
else stays as configured: the reference beside a pair, the thinking mode, what happens to a prompt that does not fit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from sgsd.contexts.base import Block, Context, Mixed, Need, Pool, Resources
from sgsd.contexts.skill_pairs import SkillPairs, pair_block
from sgsd.types import Problem, SkillPair, UserError

Control = Literal["irrelevant", "shuffled", "null"]
CONTROLS: tuple[Control, ...] = get_args(Control)
SOURCES = frozenset({*CONTROLS, "random"})
CANDIDATES = 16  # other problems whose pairs are looked at


def is_control(source: str) -> bool:
    """Whether a teacher of this source was shown a control, alone or beside something else."""
    return not SOURCES.isdisjoint(source.split("+"))


# ── In the declaration ─────────────────────────────────────────────────────────────────────────────────────────────


def control(context: Context, name: Control) -> Context:
    """The context with a control in the place of its pairs: as many teachers, for `null` one.

    >>> control(SkillPairs(4), "shuffled")
    Shuffled(k=4, side='pair')
    """
    made: dict[Control, Callable[[SkillPairs], Context]] = {
        "irrelevant": lambda pairs: Irrelevant(pairs.k, pairs.side),
        "shuffled": lambda pairs: Shuffled(pairs.k, pairs.side),
        "null": lambda pairs: Null(),
    }
    return in_place_of_pairs(context, made[name])


def null_teacher(context: Context) -> Context:
    """The null teacher of a stance by contrast, beside whatever the pairs are joined with.

    Teachers of other kinds in the pool have no part in it.
    """
    return in_place_of_pairs(pairs_alone(context), lambda pairs: NullTeacher(pairs.k, pairs.side))


def in_place_of_pairs(context: Context, make: Callable[[SkillPairs], Context]) -> Context:
    """The context with the leaves replaced that are `SkillPairs` and no control."""
    return context.substitute(lambda leaf: make(leaf) if type(leaf) is SkillPairs else leaf)


def pairs_alone(context: Context) -> Context:
    """The context without the teachers, mixed into its pool, that are shown no pair."""
    if not isinstance(context, Mixed):
        return context
    with_pairs = [part for part in context.parts if shows_pairs(part)]
    return pairs_alone(with_pairs[0]) if with_pairs else context


def shows_pairs(context: Context) -> bool:
    """Whether some of its teachers are shown the pairs retrieved for their problem, which is no control."""
    return any(type(leaf) is SkillPairs for leaf in context.leaves())


# ── The controls ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Null(Context):
    """Control: nothing is shown. The student's own prompt, in the teachers' thinking mode."""

    def blocks(self, problems: Sequence[Problem], resources: Resources) -> list[Pool]:
        return [(Block("null", None),) for _ in problems]


@dataclass(frozen=True)
class Irrelevant(SkillPairs):
    """Control: for each retrieved pair an off-topic one of its length and weight."""

    needs: ClassVar[frozenset[Need]] = frozenset({"bank", "off_topic"})

    def blocks(self, problems: Sequence[Problem], resources: Resources) -> list[Pool]:
        pools = self.retrieved(problems, resources)
        return [
            tuple(_off_topic(pair, f"irrelevant/{problem.id}/{rank}", resources) for rank, pair in enumerate(pool))
            for problem, pool in zip(problems, pools, strict=True)
        ]


def _off_topic(pair: SkillPair, key: str, resources: Resources, source: str = "irrelevant") -> Block:
    return pair_block(resources.off_topic.like(pair, key), resources, source)


@dataclass(frozen=True)
class NullTeacher(SkillPairs):
    """The null teacher of a stance by contrast: one off-topic pair, as long as the middle one of the problem's pool."""

    needs: ClassVar[frozenset[Need]] = frozenset({"bank", "off_topic"})

    @property
    def teachers(self) -> int:
        return 1

    def blocks(self, problems: Sequence[Problem], resources: Resources) -> list[Pool]:
        pools = self.retrieved(problems, resources)
        return [(self._block(problem, pool, resources),) for problem, pool in zip(problems, pools, strict=True)]

    def _block(self, problem: Problem, pool: Sequence[SkillPair], resources: Resources) -> Block:
        by_length = sorted(pool, key=resources.off_topic.tokens)
        middle = replace(by_length[len(by_length) // 2], weight=1.0)
        return _off_topic(middle, f"null/{problem.id}", resources, "null_teacher")


@dataclass(frozen=True)
class Shuffled(SkillPairs):
    """Control: the pairs retrieved for another problem, never its own.

    Of a few problems drawn by the problem's id it takes the one whose pairs have the fewest items in common with its
    own: a problem of the same kind would retrieve the same pairs, and nothing would be shuffled.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"bank", "problems"})

    def blocks(self, problems: Sequence[Problem], resources: Resources) -> list[Pool]:
        drawn = [self._drawn(problem, resources.problems) for problem in problems]
        texts = [text for problem, others in zip(problems, drawn) for text in (problem.text, *others)]
        pools = iter(self.retrieved_for(texts, resources))
        farthest = [_farthest(next(pools), [next(pools) for _ in others]) for others in drawn]
        return [tuple(pair_block(pair, resources, "shuffled") for pair in pool) for pool in farthest]

    def _drawn(self, problem: Problem, among: Sequence[Problem]) -> list[str]:
        """The texts of other problems."""
        places = random.Random(f"shuffled/{problem.id}").sample(range(len(among)), min(CANDIDATES, len(among)))
        others = [among[place] for place in places]
        texts = [other.text for other in others if other.id != problem.id and other.text != problem.text]
        if not texts:
            raise UserError(f"problem {problem.id}: there is no other problem to take its pairs from; give more data")
        return texts


def _farthest(own: Sequence[SkillPair], pools: Sequence[Sequence[SkillPair]]) -> Sequence[SkillPair]:
    items = _item_ids(own)
    return min(pools, key=lambda pool: len(items & _item_ids(pool)))


def _item_ids(pool: Sequence[SkillPair]) -> set[str]:
    return {item for pair in pool for item in pair.item_ids}


@dataclass(frozen=True)
class RandomPairs(SkillPairs):
    """Control: pairs drawn from the bank by chance, a function of the problem and the seed."""

    def blocks(self, problems: Sequence[Problem], resources: Resources) -> list[Pool]:
        pools = self.retrieved(problems, resources)
        return [tuple(pair_block(pair, resources, "random") for pair in pool) for pool in pools]
