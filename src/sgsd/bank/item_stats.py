"""What is written down of one item: how often its teachers were right, by outcome, and the decayed sums of evidence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from sgsd.bank.text import json_type, quoted
from sgsd.types import UserError

_JUDGEMENTS = ("validated", "reversed", "neutral")
MEND = "take the ledger of a whole checkpoint, or begin a new one"


@dataclass(frozen=True, slots=True)
class TeacherObservation:
    """One teacher on one rollout.

    Args:
        items: the ids its context showed, the skill's before the mistake's where it has both.
        outcome: +1 or −1 by the verifier, 0 where nothing is known of the rollout.
        support: the mean clipped gap of the teacher on the rollout, in nats a token.
        polarity: +1 validated, −1 reversed, 0 neutral, as the method decided.

    Raises:
        UserError: an outcome or polarity that is none, a support that is not finite, a polarity without an outcome,
            and one, the same or more than two items.
    """

    items: tuple[str, ...]
    outcome: int
    support: float
    polarity: int

    def __post_init__(self) -> None:
        where = f"a sighting of {' + '.join(quoted(item) for item in self.items)}"
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
    """How often each thing happened on rollouts of one outcome, and the sum of the supports there."""

    validated: int = 0
    reversed: int = 0
    neutral: int = 0
    support: float = 0.0

    @property
    def judged(self) -> int:
        return self.validated + self.reversed

    @property
    def total(self) -> int:
        return self.judged + self.neutral

    @property
    def mean_support(self) -> float | None:
        return self.support / self.total if self.total else None

    def plus(self, seen: Sequence[TeacherObservation]) -> OutcomeStats:
        count = [sum(s.polarity == polarity for s in seen) for polarity in (1, -1, 0)]
        support = math.fsum([self.support, *(s.support for s in seen)])
        return OutcomeStats(self.validated + count[0], self.reversed + count[1], self.neutral + count[2], support)


@dataclass(frozen=True, slots=True)
class ItemStats:
    """Everything the ledger knows of one item or pair; `evidence` and `uses` are the decayed sums S and N."""

    retrieved: int = 0
    success: OutcomeStats = OutcomeStats()
    failure: OutcomeStats = OutcomeStats()
    evidence: float = 0.0
    uses: float = 0.0

    @property
    def contrast(self) -> float | None:
        """Half the difference of the mean supports on successes and on failures; None until there are both."""
        on_success, on_failure = self.success.mean_support, self.failure.mean_support
        return None if on_success is None or on_failure is None else (on_success - on_failure) / 2.0

    def plus(self, seen: Sequence[TeacherObservation], balance: Mapping[int, float], decay: float) -> ItemStats:
        """The account after one step's sightings, in whatever order they stand.

        A step's uses have no order, so each gets the mean of the weights 1, γ, …, γ^(m−1) that it would get over all
        orders: S ← γ^m S + w Σ x and N ← γ^m N + w m, w = (1 + γ + … + γ^(m−1)) / m. So the memory is 1/(1−γ) uses
        long whatever the size of a batch. Sums are correctly rounded (fsum), hence the same in every order.
        """
        wins, losses = [s for s in seen if s.outcome > 0], [s for s in seen if s.outcome < 0]
        grown = replace(
            self,
            retrieved=self.retrieved + len(seen),
            success=self.success.plus(wins),
            failure=self.failure.plus(losses),
        )
        m = len(wins) + len(losses)
        if not balance or not m:
            return grown
        gain = balance[1] * math.fsum(s.support for s in wins) - balance[-1] * math.fsum(s.support for s in losses)
        kept, weight = decay**m, math.fsum(decay**age for age in range(m)) / m
        return replace(grown, evidence=kept * self.evidence + weight * gain, uses=kept * self.uses + weight * m)


def class_balance(sightings: Iterable[TeacherObservation]) -> dict[int, float]:
    """The weight of each outcome, 0.5 / (its share of a step's known outcomes); empty where they are all alike."""
    count = Counter(s.outcome for s in sightings if s.outcome)
    return {outcome: 0.5 * count.total() / count[outcome] for outcome in count} if len(count) == 2 else {}


def account_record(account: ItemStats) -> dict[str, Any]:
    """The account as a JSON object."""
    return asdict(account)


def account_of(record: Any, where: str) -> ItemStats:
    """The account a JSON object holds. `where` begins the refusal, a `UserError` that names the field."""
    given = members(record, _names(ItemStats), where)
    account = ItemStats(
        retrieved=count_of(given["retrieved"], f"{where}field 'retrieved'"),
        success=_tally_of(given["success"], where, "success"),
        failure=_tally_of(given["failure"], where, "failure"),
        evidence=real_of(given["evidence"], f"{where}field 'evidence'"),
        uses=real_of(given["uses"], f"{where}field 'uses'"),
    )
    if account.uses < 0.0:
        raise UserError(f"{where}field 'uses' is {account.uses}, below 0; {MEND}")
    if account.retrieved < account.success.total + account.failure.total:
        raise UserError(f"{where}field 'retrieved' is {account.retrieved}, less than its outcomes add up to; {MEND}")
    return account


def members(record: Any, names: Sequence[str], where: str, within: str = "") -> dict[str, Any]:
    """The members of a JSON object that must have these names; `within` is the field that holds it, with a dot."""
    if not isinstance(record, dict):
        named = f"field {within[:-1]!r} " if within else ""
        raise UserError(f"{where}{named}must be an object, not {json_type(record)}; {MEND}")
    if missing := [name for name in names if name not in record]:
        raise UserError(f"{where}field {within + missing[0]!r} is missing; {MEND}")
    if unknown := [name for name in record if name not in names]:
        raise UserError(f"{where}field {quoted(within + str(unknown[0]))} is not part of the format; {MEND}")
    return record


def count_of(value: Any, field: str) -> int:
    """A whole number from 0 on; `field` begins the refusal."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"{field} must be a whole number from 0 on, not {quoted(repr(value))}; {MEND}")
    return value


def real_of(value: Any, field: str) -> float:
    """A finite number; `field` begins the refusal."""
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**53:
        return float(value)
    raise UserError(f"{field} must be a finite number, not {quoted(repr(value))}; {MEND}")


def _tally_of(record: Any, where: str, name: str) -> OutcomeStats:
    given = members(record, _names(OutcomeStats), where, f"{name}.")
    good, bad, idle = (count_of(given[key], f"{where}field '{name}.{key}'") for key in _JUDGEMENTS)
    return OutcomeStats(good, bad, idle, real_of(given["support"], f"{where}field '{name}.support'"))


def _names(of: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(of))
