"""Contexts about the rollouts: what a sibling wrote, what a grader found, what a critic says, what the model thinks.

Their makers are handed graded rollouts. What a maker chooses for a rollout depends on its index and its group, never
on the other groups of the batch: whole groups stay on one process, and a resumed run chooses as it did before.

A rollout may have nothing to be shown: no sibling succeeded, the verifier could not say, the critic failed. That is
nobody's fault, so such blocks are optional: their teachers are left out and counted.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sgsd.contexts.blocks import Block, BlockMaker
from sgsd.contexts.prompts import PromptSet
from sgsd.types import Problem, Rollout, Verdict

THINK, END_THINK = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Graded:
    """A rollout and what the verifier made of it."""

    rollout: Rollout
    verdict: Verdict

    @property
    def problem(self) -> Problem:
        return self.rollout.problem

    @property
    def index(self) -> int:
        return self.rollout.completion.index

    @property
    def outcome(self) -> int:
        return self.verdict.outcome


RolloutMaker = Callable[[Sequence[Graded]], Sequence[tuple[Block, ...]]]
Critic = Callable[[Sequence[Graded], Sequence[str]], Sequence[str | None]]
Reasoner = Callable[[Sequence[Graded], Sequence[Block]], Sequence[str]]


@dataclass(frozen=True)
class OfProblems:
    """A maker that is handed problems, among makers that are handed rollouts: it still sees problems and no more."""

    make: BlockMaker

    def __call__(self, rollouts: Sequence[Graded]) -> list[tuple[Block, ...]]:
        return list(self.make([rollout.problem for rollout in rollouts]))


@dataclass(frozen=True)
class Quote:
    """What a rollout wrote, fit to be shown: without its thinking, and empty where a control token is left."""

    control_tokens: Sequence[str]

    def __call__(self, rollout: Graded) -> str:
        return self.text(rollout.rollout.completion.text)

    def text(self, written: str) -> str:
        """Empty, too, where the thinking never ends."""
        said = written.rpartition(END_THINK)[2].strip()
        return "" if THINK in said or any(token in said for token in self.control_tokens) else said

    def thoughts(self, written: str) -> str:
        """All of it, thinking included, up to the first control token other than a think tag."""
        said = written.replace(THINK, "\n").replace(END_THINK, "\n")
        ends = [place for token in self.control_tokens if (place := said.find(token)) >= 0]
        return said[: min(ends, default=len(said))].strip()


# ── Siblings ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class SiblingBlocks:
    """One block with another, successful rollout of the same group; without one the teacher is left out."""

    prompts: PromptSet
    quote: Quote
    seed: int

    def __call__(self, rollouts: Sequence[Graded]) -> list[tuple[Block, ...]]:
        return [(self._block(rollout, others),) for rollout, others in with_siblings(rollouts)]

    def _block(self, rollout: Graded, others: Sequence[Graded]) -> Block:
        right = showable(others, self.quote, 1)
        chosen = draw("sibling", self.seed, rollout, right, 1)
        text = self.prompts.render("sibling", **attempt(chosen[0], self.quote)) if chosen else ""
        return Block("sibling", text, optional=True)


@dataclass(frozen=True)
class HintBlocks:
    """1 + `wrong` blocks in the same words: the first with a successful sibling, the others each with a failed one.

    Failed siblings whose answer could be read are asked for. Of fewer than `wrong` all are shown and the missing left
    out; without any, or without a success, the whole pool is.
    """

    prompts: PromptSet
    quote: Quote
    wrong: int
    seed: int

    def __call__(self, rollouts: Sequence[Graded]) -> list[tuple[Block, ...]]:
        return [self._pool(rollout, others) for rollout, others in with_siblings(rollouts)]

    def _pool(self, rollout: Graded, others: Sequence[Graded]) -> tuple[Block, ...]:
        right = draw("hint", self.seed, rollout, showable(others, self.quote, 1), 1)
        failed = showable(others, self.quote, -1)
        if right and right[0].verdict.answer is not None:  # this verifier says what it has read
            failed = [other for other in failed if other.verdict.answer is not None]
        wrong = draw("wrong hint", self.seed, rollout, failed, self.wrong)
        shown: list[Graded | None] = [*right, *wrong] if right and wrong else []
        shown += [None] * (1 + self.wrong - len(shown))
        return tuple(self._block(other) for other in shown)

    def _block(self, other: Graded | None) -> Block:
        text = "" if other is None else self.prompts.render("hint", **attempt(other, self.quote))
        return Block("hint", text, 1 / (1 + self.wrong), optional=True)


def with_siblings(rollouts: Sequence[Graded]) -> Iterable[tuple[Graded, list[Graded]]]:
    """Each rollout with the others of its group, in the order of their indices."""
    groups: dict[int, list[Graded]] = {}
    for rollout in sorted(rollouts, key=lambda rollout: rollout.index):
        groups.setdefault(rollout.rollout.group, []).append(rollout)
    for rollout in rollouts:
        yield rollout, [other for other in groups[rollout.rollout.group] if other.index != rollout.index]


def showable(rollouts: Sequence[Graded], quote: Quote, outcome: int) -> list[Graded]:
    return [rollout for rollout in rollouts if rollout.outcome == outcome and quote(rollout)]


def draw(kind: str, seed: int, rollout: Graded, among: Sequence[Graded], count: int) -> list[Graded]:
    """`count` of them or, of fewer, all: a function of the seed, the rollout's index and its group."""
    return random.Random(f"{kind}/{seed}/{rollout.index}").sample(among, min(count, len(among)))


def attempt(rollout: Graded, quote: Quote) -> dict[str, Any]:
    """What a template may show of a rollout: its text and the answer that was read, which may be none."""
    answer = rollout.verdict.answer
    return {"attempt": quote(rollout), "answer": None if answer is None else quote.text(answer) or None}


# ── Of the rollout that is judged ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class FeedbackBlocks:
    """One block with the rollout itself and the verifier's word on it, never the reference.

    Where the verifier could not say right or wrong there is no feedback, and the teacher is left out.
    """

    prompts: PromptSet
    quote: Quote

    def __call__(self, rollouts: Sequence[Graded]) -> list[tuple[Block, ...]]:
        return [(self._block(rollout),) for rollout in rollouts]

    def _block(self, rollout: Graded) -> Block:
        if not rollout.outcome:
            return Block("feedback", "", optional=True)
        shown = {**attempt(rollout, self.quote), "right": rollout.outcome > 0}
        return Block("feedback", self.prompts.render("feedback", **shown), optional=True)


@dataclass(frozen=True)
class CritiqueBlocks:
    """One block with what a critic writes about the rollout, who is shown problem, reference and attempt.

    `critic` answers each question, or gives none where it fails; then that teacher is left out.
    """

    prompts: PromptSet
    quote: Quote
    critic: Critic

    def __call__(self, rollouts: Sequence[Graded]) -> list[tuple[Block, ...]]:
        asked = [rollout for rollout in rollouts if self.quote(rollout)]
        replies = self.critic(asked, [self._question(rollout) for rollout in asked])
        said = {rollout.index: self._said(reply) for rollout, reply in zip(asked, replies, strict=True)}
        return [(Block("critique", said.get(rollout.index, ""), optional=True),) for rollout in rollouts]

    def _question(self, rollout: Graded) -> str:
        problem = rollout.problem
        return self.prompts.render(
            "critique",
            problem=problem.text,
            answer=problem.gold,
            solution=problem.solution,
            attempt=self.quote(rollout),
        )

    def _said(self, reply: str | None) -> str:
        said = self.quote.text(reply or "")
        return self.prompts.render("critiqued", critique=said) if said else ""


@dataclass(frozen=True)
class ReasonedBlocks:
    """What another maker shows of the problem, and under it how the model itself explains it, drawn by the index.

    `reasoner` is asked under the very prompt that the teacher would have without this; like the teacher it is told
    nothing of the rollout.
    """

    prompts: PromptSet
    make: BlockMaker
    quote: Quote
    reasoner: Reasoner

    def __call__(self, rollouts: Sequence[Graded]) -> list[tuple[Block, ...]]:
        blocks = [block for (block,) in self.make([rollout.problem for rollout in rollouts])]
        written = self.reasoner(rollouts, blocks)
        return [(self._block(*parts),) for parts in zip(blocks, written, strict=True)]

    def _block(self, block: Block, written: str) -> Block:
        reasons = self.quote.thoughts(written)
        if not reasons:
            return block
        text = self.prompts.render("reasoned", context=block.text, reasons=reasons)
        return Block(f"{block.source}+reasons", text, block.weight, block.item_ids, optional=True)
