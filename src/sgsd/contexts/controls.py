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
from sgsd.contexts.skill_pairs import SkillPairs
from sgsd.types import Problem, UserError

Control = Literal["irrelevant", "shuffled", "null"]
CONTROLS: tuple[Control, ...] = get_args(Control)
SOURCES = frozenset({*CONTROLS, "random"})
CANDIDATES = 16  # other problems whose blocks are looked at


def is_control(source: str) -> bool:
    """True where a teacher of this source was shown a control, alone or beside something else."""
    return not SOURCES.isdisjoint(source.split("+"))


# ── In the declaration ─────────────────────────────────────────────────────────────────────────────────────────────


def control(context: Context, name: Control) -> Context:
    """The context with a control in the place of its pairs: as many teachers, for `null` one.

    >>> control(SkillPairs(4), "shuffled")
    Shuffled(part=SkillPairs(k=4, side='pair'))
    """
    made: dict[Control, Callable[[Context], Context]] = {
        "irrelevant": Irrelevant,
        "shuffled": Shuffled,
        "null": lambda part: Null(),
    }
    return in_place(context, made[name])


def null_teacher(context: Context) -> Context:
    """The null teacher of a stance by contrast, beside whatever the pairs are joined with.

    Teachers of other kinds in the pool have no part in it.
    """
    return in_place(controlled_alone(context), NullTeacher)


def in_place(context: Context, make: Callable[[Context], Context]) -> Context:
    """The context with `make` of each leaf that a control takes the place of; see `has_controls`."""
    own = not _shows_pairs(context)
    return context.substitute(lambda leaf: make(leaf) if _is_controlled(leaf, own=own) else leaf)


def controlled_alone(context: Context) -> Context:
    """The context without the teachers, mixed into its pool, that no control takes the place of."""
    if not isinstance(context, Mixed):
        return context
    own = not _shows_pairs(context)
    kept = [part for part in context.parts if any(_is_controlled(leaf, own=own) for leaf in part.leaves())]
    return controlled_alone(kept[0]) if kept else context


def has_controls(context: Context) -> bool:
    """True where a control can take a place: that of retrieved pairs or, without those, of a user's own contexts."""
    return any(_is_controlled(leaf, own=True) for leaf in context.leaves())


def _is_controlled(leaf: Context, *, own: bool) -> bool:
    return type(leaf) is SkillPairs or (own and leaf.controlled and not leaf.sees_rollouts)


def _shows_pairs(context: Context) -> bool:
    return any(type(leaf) is SkillPairs for leaf in context.leaves())


# ── The controls ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Null(Context):
    """Control: nothing is shown. The student's own prompt, in the teachers' thinking mode."""

    controlled: ClassVar[bool] = False

    def block(self, problem: Problem, resources: Resources) -> Block:
        return Block("null", None)


@dataclass(frozen=True)
class RandomPairs(SkillPairs):
    """Control: pairs drawn from the bank by chance, a function of the problem and the seed."""

    source: ClassVar[str] = "random"
    controlled: ClassVar[bool] = False


@dataclass(frozen=True)
class InPlaceOf(Context):
    """A control of the teachers of another context, which is made from problems."""

    part: Context
    controlled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.part.sees_rollouts:
            raise ValueError("a control stands in the place of a context that is made from problems")

    @property
    def teachers(self) -> int:
        return self.part.teachers

    def all_needs(self) -> frozenset[Need]:
        return self.needs | self.part.all_needs()


@dataclass(frozen=True)
class Irrelevant(InPlaceOf):
    """Control: for each block, a retrieved pair for instance, an off-topic one of its length and weight."""

    needs: ClassVar[frozenset[Need]] = frozenset({"off_topic"})

    def blocks(self, problems: Sequence[Problem], resources: Resources) -> list[Pool]:
        pools = self.part.blocks(problems, resources)
        return [
            tuple(_off_topic(block, "irrelevant", f"{problem.id}/{rank}", resources) for rank, block in enumerate(pool))
            for problem, pool in zip(problems, pools, strict=True)
        ]


@dataclass(frozen=True)
class NullTeacher(InPlaceOf):
    """The null teacher of a stance by contrast: one off-topic block, as long as its pool's middle one."""

    needs: ClassVar[frozenset[Need]] = frozenset({"off_topic"})

    @property
    def teachers(self) -> int:
        return 1

    def blocks(self, problems: Sequence[Problem], resources: Resources) -> list[Pool]:
        pools = self.part.blocks(problems, resources)
        return [(self._block(problem, pool, resources),) for problem, pool in zip(problems, pools, strict=True)]

    def _block(self, problem: Problem, pool: Pool, resources: Resources) -> Block:
        by_length = sorted(pool, key=lambda block: resources.count_tokens(block.text or ""))
        middle = replace(by_length[len(by_length) // 2], weight=1.0)
        return replace(_off_topic(middle, "null", problem.id, resources), source="null_teacher")


def _off_topic(block: Block, source: str, key: str, resources: Resources) -> Block:
    """An off-topic block in the place of this one; where nothing is shown, nothing still."""
    shown = resources.off_topic.like(block, f"{source}/{key}") if block.text else block
    return replace(shown, source=source)


@dataclass(frozen=True)
class Shuffled(InPlaceOf):
    """Control: the blocks of another problem, never its own; for instance the pairs retrieved for that.

    Of a few problems drawn by the problem's id it takes the one whose blocks have the fewest items in common with its
    own: a problem of the same kind would retrieve the same pairs, and nothing would be shuffled.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"problems"})

    def blocks(self, problems: Sequence[Problem], resources: Resources) -> list[Pool]:
        drawn = [self._drawn(problem, resources.problems) for problem in problems]
        batch = [shown for problem, others in zip(problems, drawn) for shown in (problem, *others)]
        pools = iter(self.part.blocks(batch, resources))
        farthest = [_farthest(next(pools), [next(pools) for _ in others]) for others in drawn]
        return [tuple(replace(block, source="shuffled") for block in pool) for pool in farthest]

    def _drawn(self, problem: Problem, among: Sequence[Problem]) -> list[Problem]:
        places = random.Random(f"shuffled/{problem.id}").sample(range(len(among)), min(CANDIDATES, len(among)))
        others = [among[place] for place in places]
        others = [other for other in others if other.id != problem.id and other.text != problem.text]
        if not others:
            raise UserError(f"problem {problem.id}: there is no other problem to take its pairs from; give more data")
        return others


def _farthest(own: Pool, pools: Sequence[Pool]) -> Pool:
    items = _item_ids(own)
    return min(pools, key=lambda pool: len(items & _item_ids(pool)))


def _item_ids(pool: Pool) -> set[str]:
    return {item for block in pool for item in block.item_ids}
