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

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, not {self.k}")
        if self.side not in get_args(PairSide):
            raise ValueError(f"a teacher is shown a pair, its skill or its mistake, not {self.side!r}")

    @property
    def teachers(self) -> int:
        return self.k

    def blocks(self, problems: Sequence[Problem], resources: Resources) -> list[Pool]:
        return [tuple(pair_block(pair, resources) for pair in pairs) for pairs in self.retrieved(problems, resources)]

    def retrieved(self, problems: Sequence[Problem], resources: Resources) -> Sequence[Sequence[SkillPair]]:
        """The pool of pairs of each problem."""
        return self.retrieved_for([problem.text for problem in problems], resources)

    def retrieved_for(self, queries: Sequence[str], resources: Resources) -> Sequence[Sequence[SkillPair]]:
        assert resources.retrieve is not None, "the configuration has been checked for a bank"
        return resources.retrieve(self, queries)


def pair_block(pair: SkillPair, resources: Resources, source: str = "skill_pair") -> Block:
    return Block(source, pair_text(pair, resources), pair.weight, pair.item_ids)


def pair_text(pair: SkillPair, resources: Resources) -> str:
    assert resources.render_pair is not None, "a run with a bank renders its pairs"
    return resources.render_pair(pair, resources.prompts.text("skill_pair"))
