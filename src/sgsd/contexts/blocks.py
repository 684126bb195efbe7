"""Blocks: the pieces of text that a teacher is shown, and the functions that make them.

A maker of blocks is a function from a batch to a pool of blocks for each of its members; makers compose, and a provider
turns what comes out into prompts. There are two types of them. A `BlockMaker` is handed problems and nothing else: no
teacher made by it can know how the rollout it is going to judge came out. A `RolloutMaker` (see `rollouts`) is handed
the graded rollouts of a step, for contexts that are made of those: a sibling's success, a grader's feedback. Both are
handed the whole batch at once, so that queries are embedded together and a maker may look at its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Generic, TypeVar

from sgsd.contexts.prompts import PromptSet
from sgsd.methods.context import Shown
from sgsd.types import Problem, SkillPair, UserError

PairRetrieval = Callable[[Sequence[str]], Sequence[Sequence[SkillPair]]]
PairRendering = Callable[[SkillPair, str], str]


@dataclass(frozen=True, slots=True)
class Block:
    """What one teacher is shown, or a part of it; the weights of a pool sum to 1.

    A text of none: nothing is shown on purpose. An empty text: there is no context to show, and so no teacher. For
    that, and for a prompt that is too long, somebody is to blame, unless the block is `optional`: then what it is made
    of was sampled, and its teacher is left out without a word.
    """

    source: str  # the template it was rendered by, or several joined by "+"
    text: str | None
    weight: float = 1.0
    item_ids: tuple[str, ...] = ()
    optional: bool = False


T = TypeVar("T")
Maker = Callable[[Sequence[T]], Sequence[tuple[Block, ...]]]
BlockMaker = Callable[[Sequence[Problem]], Sequence[tuple[Block, ...]]]


@dataclass(frozen=True)
class SkillPairBlocks:
    """A block for each retrieved (skill, mistake) pair."""

    prompts: PromptSet
    retrieve: PairRetrieval
    render: PairRendering  # the bank's own: the one way its text becomes prompt text

    def __call__(self, problems: Sequence[Problem]) -> list[tuple[Block, ...]]:
        pools = self.retrieve([problem.text for problem in problems])
        return [tuple(self.block(pair) for pair in pairs) for pairs in pools]

    def block(self, pair: SkillPair, source: str = "skill_pair") -> Block:
        text = self.render(pair, self.prompts.text("skill_pair"))
        return Block(source, text, pair.weight, pair.item_ids)


@dataclass(frozen=True)
class AnswerBlocks:
    """One block with the reference: the bare answer, the solution, or the solution where there is one."""

    prompts: PromptSet
    show: Shown

    def __call__(self, problems: Sequence[Problem]) -> list[tuple[Block, ...]]:
        return [(self._block(problem),) for problem in problems]

    def _block(self, problem: Problem) -> Block:
        if problem.gold is None:
            raise UserError(f"problem {problem.id}: it has no answer to show to its teacher")
        if self.show == "solution" and problem.solution is None:
            raise UserError(
                f"problem {problem.id}: it has no solution to show to its teacher; name the column in data.solution,"
                " take the problem out, or show the answer"
            )
        if self.show == "answer" or problem.solution is None:
            return Block("answer", self.prompts.render("answer", answer=problem.gold))
        return Block("solution", self.prompts.render("solution", answer=problem.gold, solution=problem.solution))


# ── Of several ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class JoinedBlocks(Generic[T]):
    """Every block of one maker together with every block of the others: K pairs and an answer make K blocks.

    Weights multiply. An empty text leaves the whole empty: half a context is not what was asked for. A block that
    shows nothing on purpose adds nothing.
    """

    prompts: PromptSet
    makers: tuple[Maker[T], ...]

    def __call__(self, batch: Sequence[T]) -> list[tuple[Block, ...]]:
        made = [make(batch) for make in self.makers]
        return [tuple(self._join(parts) for parts in product(*pools)) for pools in zip(*made, strict=True)]

    def _join(self, parts: Sequence[Block]) -> Block:
        return Block(
            source="+".join(part.source for part in parts),
            text=self._text([part.text for part in parts if part.text is not None]),
            weight=math.prod(part.weight for part in parts),
            item_ids=tuple(item for part in parts for item in part.item_ids),
            optional=any(part.optional for part in parts),
        )

    def _text(self, texts: list[str]) -> str | None:
        if not texts:
            return None
        return self.prompts.render("join", blocks=texts) if all(text.strip() for text in texts) else ""


@dataclass(frozen=True)
class MixedBlocks(Generic[T]):
    """The pools of several makers as one pool: each weighs by its share of the teachers, n_part / Σ n."""

    makers: tuple[Maker[T], ...]

    def __call__(self, batch: Sequence[T]) -> list[tuple[Block, ...]]:
        made = [make(batch) for make in self.makers]
        return [_mixed(pools) for pools in zip(*made, strict=True)]


def _mixed(pools: Sequence[Sequence[Block]]) -> tuple[Block, ...]:
    count = sum(map(len, pools))
    return tuple(replace(block, weight=block.weight * len(pool) / count) for pool in pools for block in pool)
