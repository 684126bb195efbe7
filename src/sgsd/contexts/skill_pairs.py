"""Teachers that are shown pairs from the skill bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from sgsd.contexts.base import Block, Context, Need, Pool, Resources
from sgsd.types import Problem, SkillPair

PairSide = Literal["pair", "skill", "mistake"]


@dataclass(frozen=True)
class SkillPairs(Context):
    """K teachers, each shown one retrieved (skill, common mistake) pair, or one side of it."""

    k: int = 8
    side: PairSide = "pair"
    needs: ClassVar[frozenset[Need]] = frozenset({"bank"})
    source: ClassVar[str] = "skill_pair"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, not {self.k}")
        if self.side not in get_args(PairSide):
            raise ValueError(f"a teacher is shown a pair, its skill or its mistake, not {self.side!r}")

    @property
    def teachers(self) -> int:
        return self.k

    def blocks(self, problems: Sequence[Problem], resources: Resources) -> list[Pool]:
        assert resources.retrieve is not None, "the configuration has been checked for a bank"
        pools = resources.retrieve(self, [problem.text for problem in problems])
        return [tuple(self.pair_block(pair, resources) for pair in pool) for pool in pools]

    def pair_block(self, pair: SkillPair, resources: Resources) -> Block:
        return Block(self.source, pair_text(pair, resources), pair.weight, pair.item_ids, pair=pair)


def pair_text(pair: SkillPair, resources: Resources) -> str:
    assert resources.render_pair is not None, "a run renders its pairs"
    return resources.render_pair(pair, resources.templates.text("skill_pair"))
