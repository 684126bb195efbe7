"""Teachers that are shown rollouts: a sibling's attempt, the verifier's feedback, a critic's words.

A choice depends on the rollout's index and its group, never on the other groups of the batch: whole groups stay on one
process, and a resumed run chooses as it did before. Where there is nothing to show (no sibling succeeded, the verifier
could not say, the critic failed) nobody is to blame, so these blocks are optional.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sgsd.contexts.base import Block, Graded, Need, Pool, Resources, RolloutContext

# ── Siblings ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Sibling(RolloutContext):
    """A successful rollout of the same problem, never the one that is scored; left out where there is none."""

    needs: ClassVar[frozenset[Need]] = frozenset({"group"})

    def blocks(self, rollouts: Sequence[Graded], resources: Resources) -> list[Pool]:
        return [(self._block(rollout, others, resources),) for rollout, others in with_siblings(rollouts)]

    def _block(self, rollout: Graded, others: Sequence[Graded], resources: Resources) -> Block:
        right = showable(others, 1, resources)
        chosen = draw("sibling", rollout, right, 1, resources)
        text = resources.render("sibling", **attempt(chosen[0], resources)) if chosen else ""
        return Block("sibling", text, optional=True)


@dataclass(frozen=True)
class Hints(RolloutContext):
    """One teacher shown a successful sibling and `wrong` teachers each shown a failed one, all in the same words.

    Failed siblings whose answer could be read are shown. Of fewer than `wrong` all are shown and the missing left out;
    without any, or without a success, the whole pool is.
    """

    wrong: int = 1
    needs: ClassVar[frozenset[Need]] = frozenset({"group"})

    def __post_init__(self) -> None:
        if self.wrong < 1:
            raise ValueError(f"a contrast needs at least 1 wrong hint, not {self.wrong}")

    @property
    def teachers(self) -> int:
        return 1 + self.wrong

    def blocks(self, rollouts: Sequence[Graded], resources: Resources) -> list[Pool]:
        return [self._pool(rollout, others, resources) for rollout, others in with_siblings(rollouts)]

    def _pool(self, rollout: Graded, others: Sequence[Graded], resources: Resources) -> Pool:
        right = draw("hint", rollout, showable(others, 1, resources), 1, resources)
        failed = showable(others, -1, resources)
        if right and right[0].verdict.answer is not None:  # this verifier names the answer it has read
            failed = [other for other in failed if other.verdict.answer is not None]
        wrong = draw("wrong hint", rollout, failed, self.wrong, resources)
        shown: list[Graded | None] = [*right, *wrong] if right and wrong else []
        shown += [None] * (1 + self.wrong - len(shown))
        return tuple(self._block(other, resources) for other in shown)

    def _block(self, other: Graded | None, resources: Resources) -> Block:
        text = "" if other is None else resources.render("hint", **attempt(other, resources))
        return Block("hint", text, 1 / (1 + self.wrong), optional=True)


def with_siblings(rollouts: Sequence[Graded]) -> Iterable[tuple[Graded, list[Graded]]]:
    """Each rollout with the others of its group, in the order of their indices."""
    groups: dict[int, list[Graded]] = {}
    for rollout in sorted(rollouts, key=lambda rollout: rollout.index):
        groups.setdefault(rollout.rollout.group, []).append(rollout)
    for rollout in rollouts:
        yield rollout, [other for other in groups[rollout.rollout.group] if other.index != rollout.index]


def showable(rollouts: Sequence[Graded], outcome: int, resources: Resources) -> list[Graded]:
    return [rollout for rollout in rollouts if rollout.outcome == outcome and quoted(rollout, resources)]


def draw(kind: str, rollout: Graded, among: Sequence[Graded], count: int, resources: Resources) -> list[Graded]:
    """`count` of them or, of fewer, all: a function of the seed, the rollout's index and its group."""
    return random.Random(f"{kind}/{resources.seed}/{rollout.index}").sample(among, min(count, len(among)))


def quoted(rollout: Graded, resources: Resources) -> str:
    return resources.quote.text(rollout.rollout.completion.text)


def attempt(rollout: Graded, resources: Resources) -> dict[str, Any]:
    """The variables of a template that shows a rollout: its text and the answer that was read, which may be none."""
    answer = rollout.verdict.answer
    read = None if answer is None else resources.quote.text(answer) or None
    return {"attempt": quoted(rollout, resources), "answer": read}


# ── The rollout that is scored ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Feedback(RolloutContext):
    """The rollout itself, the answer that the verifier read and whether it was right; never the reference.

    Where the verifier could not say right or wrong there is no feedback, and the teacher is left out.
    """

    def block(self, rollout: Graded, resources: Resources) -> Block:
        if not rollout.outcome:
            return Block("feedback", "", optional=True)
        text = resources.render("feedback", **attempt(rollout, resources), right=rollout.outcome > 0)
        return Block("feedback", text, optional=True)


@dataclass(frozen=True)
class Critique(RolloutContext):
    """A critique of the rollout, step by step, by a critic who sees problem, reference and attempt.

    Where the critic has no answer the teacher is left out.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"answer", "writer"})

    def blocks(self, rollouts: Sequence[Graded], resources: Resources) -> list[Pool]:
        assert resources.critic is not None, "a run whose context needs a writer has a critic"
        asked = [rollout for rollout in rollouts if quoted(rollout, resources)]
        replies = resources.critic(asked, [self._question(rollout, resources) for rollout in asked])
        texts = {rollout.index: self._text(reply, resources) for rollout, reply in zip(asked, replies, strict=True)}
        return [(Block("critique", texts.get(rollout.index, ""), optional=True),) for rollout in rollouts]

    def _question(self, rollout: Graded, resources: Resources) -> str:
        problem = rollout.problem
        shown = {"problem": problem.text, "answer": problem.gold, "solution": problem.solution}
        return resources.render("critique", **shown, attempt=quoted(rollout, resources))

    def _text(self, reply: str | None, resources: Resources) -> str:
        critique = resources.quote.text(reply or "")
        return resources.render("critiqued", critique=critique) if critique else ""
