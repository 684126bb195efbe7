"""The ledger: what came of every item that a teacher showed, and how far it is trusted for that.

An item is judged by its standing, the lifetime contrast shrunk while little is known. On a policy's own tokens a
teacher that knows nothing still has a support of bias + noise, and the bias is not zero (its expectation is −KL); in
the difference of successes and failures it cancels at any success rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt, ValidationError

from sgsd.bank.item_stats import ItemStats, OutcomeStats, TeacherObservation
from sgsd.bank.text import json_type, quoted
from sgsd.types import UserError

FORMAT = 2
MEND = "take the ledger of a whole checkpoint, or begin a new one"


@dataclass(frozen=True, slots=True)
class ItemRow:
    """One item's line in the ledger's table; supports, contrast and standing in nats a token."""

    id: str
    retrieved: int
    validated: int
    reversed: int
    neutral: int
    support_on_success: float | None
    support_on_failure: float | None
    contrast: float | None
    standing: float
    trust: float


@dataclass(frozen=True)
class Ledger:
    """Statistics of all items that were ever shown. A value: `observe` returns the next ledger.

    Args:
        prior_uses: uses without support that every item starts with, so that one lucky use makes no expert.
        trust_scale: the standing, in nats a token, at which trust is tanh 1.
        items: item id → its statistics.

    Raises:
        UserError: a setting is not positive and finite.

    Example:
        >>> right = TeacherObservation(("s1",), outcome=+1, support=0.3, polarity=+1)
        >>> wrong = TeacherObservation(("s1",), outcome=-1, support=-0.1, polarity=+1)
        >>> ledger = Ledger().observe([right, wrong])
        >>> round(ledger.standing("s1"), 4), round(ledger.trust("s1"), 2)
        (0.0333, 0.58)
    """

    prior_uses: float = 5.0
    trust_scale: float = 0.05
    items: Mapping[str, ItemStats] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not (0.0 < self.prior_uses < math.inf and 0.0 < self.trust_scale < math.inf):
            raise UserError(
                f"the ledger's prior is {self.prior_uses} uses and its scale of trust {self.trust_scale}; give positive"
                " numbers"
            )

    def observe(self, observations: Iterable[TeacherObservation]) -> Ledger:
        """Return the ledger after one step's observations, of all processes together and in any order."""
        groups: dict[str, list[TeacherObservation]] = {}
        for seen in observations:
            for item_id in seen.items:
                groups.setdefault(item_id, []).append(seen)
        new = {item_id: self.stats(item_id).plus(seen) for item_id, seen in groups.items()}
        return replace(self, items={**self.items, **new})

    def stats(self, item_id: str) -> ItemStats:
        """Return the item's statistics, empty ones where it was never shown."""
        return self.items.get(item_id, ItemStats())

    def standing(self, *ids: str) -> float:
        """Contrast shrunk towards 0, in nats a token: c · n / (n + prior).

        c is half the difference of the mean supports on successes and on failures, all observations of `ids` together,
        n the smaller of the two counts; 0 until there are both. It forgets nothing: a policy that has learned heeds no
        context any more, and the last uses of an item say nothing of it (docs/LOG.md).
        """
        stats = [self.stats(name) for name in ids]
        sides: list[list[OutcomeStats]] = [[s.success for s in stats], [s.failure for s in stats]]
        uses = [sum(one.total for one in side) for side in sides]
        if not all(uses):
            return 0.0
        on_success, on_failure = (math.fsum(one.support for one in side) / n for side, n in zip(sides, uses))
        return (on_success - on_failure) / 2 * min(uses) / (min(uses) + self.prior_uses)

    def trust(self, *ids: str) -> float:
        """q = tanh(standing / scale) in (−1, 1): of an item, or of a teacher by the ids of its skill and mistake."""
        return math.tanh(self.standing(*ids) / self.trust_scale)

    def rows(self) -> list[ItemRow]:
        """Return the items' table, the highest standing first, ties by id."""
        return sorted(map(self._row, self.items), key=lambda row: (-row.standing, row.id))

    def _row(self, item_id: str) -> ItemRow:
        stats = self.stats(item_id)
        won, lost = stats.success, stats.failure
        return ItemRow(
            id=item_id,
            retrieved=stats.retrieved,
            validated=won.validated + lost.validated,
            reversed=won.reversed + lost.reversed,
            neutral=won.neutral + lost.neutral,
            support_on_success=won.mean_support,
            support_on_failure=lost.mean_support,
            contrast=stats.contrast,
            standing=self.standing(item_id),
            trust=self.trust(item_id),
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that gives back this ledger to the last bit; equal ledgers have equal texts."""
        items = {item_id: asdict(self.items[item_id]) for item_id in sorted(self.items)}
        return {"format": FORMAT, "prior_uses": self.prior_uses, "trust_scale": self.trust_scale, "items": items}

    @staticmethod
    def from_json(record: Any, source: str = "the ledger") -> Ledger:
        """Read the ledger from a parsed JSON object, of this format or of format 1 (whose further figures are dropped).

        Raises:
            UserError: it holds something else; `source`, the item and the field are named.
        """
        try:
            read = _LedgerRecord.model_validate(record)
        except ValidationError as error:
            raise UserError(f"{source}: {_problem(error.errors(include_url=False)[0])}; {MEND}") from None
        items = {
            item_id: _stats_of(item, f"{source}: item {quoted(item_id)}, ") for item_id, item in read.items.items()
        }
        return Ledger(read.prior_uses, read.trust_scale, items)


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _OutcomeRecord(_Record):
    validated: NonNegativeInt
    reversed: NonNegativeInt
    neutral: NonNegativeInt
    support: FiniteFloat


class _ItemRecord(_Record):
    retrieved: NonNegativeInt
    success: _OutcomeRecord
    failure: _OutcomeRecord
    evidence: Any = None  # of format 1: decayed sums, no longer kept
    uses: Any = None


class _LedgerRecord(_Record):
    format: Literal[1, 2]
    prior_uses: FiniteFloat
    trust_scale: FiniteFloat
    items: dict[str, _ItemRecord]
    decay: Any = None  # of format 1
    pairs: Any = None


def _stats_of(record: _ItemRecord, where: str) -> ItemStats:
    success, failure = (OutcomeStats(**side.model_dump()) for side in (record.success, record.failure))
    if record.retrieved < success.total + failure.total:
        raise UserError(f"{where}field 'retrieved' is {record.retrieved}, less than its outcomes add up to; {MEND}")
    return ItemStats(record.retrieved, success, failure)


def _problem(error: Any) -> str:
    """Pydantic's finding as item, field and reason."""
    loc: Sequence[str] = [str(part) for part in error["loc"]]
    item = f"item {quoted(loc[1])}, " if loc[:1] == ["items"] and len(loc) > 1 else ""
    rest = loc[2:] if item else loc
    place = item + (f"field {quoted('.'.join(rest))} " if rest else "")
    match error["type"]:
        case "missing":
            return f"{place}is missing"
        case "extra_forbidden":
            return f"{place}is not part of the format"
        case "literal_error":
            return f"{place}is {error['input']!r}, this version reads up to {FORMAT}"
        case "model_type" | "dict_type":
            return f"{place}must be an object, not {json_type(error['input'])}"
        case kind if kind.startswith(("float", "finite")):
            return f"{place}must be a finite number, not {quoted(repr(error['input']))}"
    return f"{place}must be a whole number from 0 on, not {quoted(repr(error['input']))}"
