"""Counts and supports of one bank item: how its teachers were judged, on right rollouts and on wrong ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sgsd.bank.text import quoted
from sgsd.types import UserError


@dataclass(frozen=True, slots=True)
class TeacherObservation:
    """One teacher on one rollout.

    Args:
        items: ids that its context showed, the skill's before the mistake's where it has both.
        outcome: +1 or −1 by the verifier, 0 where it could not tell.
        support: mean clipped gap of the teacher on the rollout, in nats a token.
        polarity: +1 validated, −1 reversed, 0 neutral, as the method decided.

    Raises:
        UserError: outcome or polarity is not −1, 0 or 1, the support is not finite, a polarity has no outcome, or there
            are no items, two equal ones or more than two.
    """

    items: tuple[str, ...]
    outcome: int
    support: float
    polarity: int

    def __post_init__(self) -> None:
        where = f"an observation of {' + '.join(quoted(item) for item in self.items)}"
        if not 1 <= len(self.items) <= 2 or len(set(self.items)) < len(self.items):
            raise UserError(f"{where}: a teacher shows a skill, a mistake, or one of each; give one or two ids")
        if self.outcome not in (-1, 0, 1) or self.polarity not in (-1, 0, 1):
            raise UserError(f"{where}: outcome {self.outcome} and polarity {self.polarity}; both are -1, 0 or 1")
        if self.polarity and not self.outcome:
            raise UserError(f"{where}: a polarity of {self.polarity} needs an outcome; without one it is 0")
        if not math.isfinite(self.support):
            raise UserError(f"{where}: the support is {self.support}; it must be finite")


@dataclass(frozen=True, slots=True)
class OutcomeStats:
    """Counts of polarities on rollouts of one outcome, and the sum of the supports there in nats a token."""

    validated: int = 0
    reversed: int = 0
    neutral: int = 0
    support: float = 0.0

    @property
    def total(self) -> int:
        return self.validated + self.reversed + self.neutral

    @property
    def mean_support(self) -> float | None:
        return self.support / self.total if self.total else None

    def plus(self, seen: Sequence[TeacherObservation]) -> OutcomeStats:
        count = [sum(s.polarity == polarity for s in seen) for polarity in (1, -1, 0)]
        support = math.fsum([self.support, *(s.support for s in seen)])
        return OutcomeStats(self.validated + count[0], self.reversed + count[1], self.neutral + count[2], support)


@dataclass(frozen=True, slots=True)
class ItemStats:
    """Statistics of one item: how many teachers showed it, and how they were judged by outcome."""

    retrieved: int = 0
    success: OutcomeStats = OutcomeStats()
    failure: OutcomeStats = OutcomeStats()

    @property
    def contrast(self) -> float | None:
        """½ (mean support on successes − on failures), in nats a token; None until there are both."""
        on_success, on_failure = self.success.mean_support, self.failure.mean_support
        return None if on_success is None or on_failure is None else (on_success - on_failure) / 2.0

    def plus(self, seen: Sequence[TeacherObservation]) -> ItemStats:
        """Add one step's observations; sums are correctly rounded (fsum), hence the same in every order."""
        return ItemStats(
            retrieved=self.retrieved + len(seen),
            success=self.success.plus([s for s in seen if s.outcome > 0]),
            failure=self.failure.plus([s for s in seen if s.outcome < 0]),
        )
