"""A run's files as frozen values, read leniently; the drawing part of the report knows nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import pydantic
from pydantic import BeforeValidator, Field

from sgsd.records.lenient import IsTrue, Line, Number, NumberOrNan, Objects, Text, Texts, Whole, WholeOrNone
from sgsd.records.rollout_schema import RolloutRecord


@pydantic.dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """A share of correct answers and its interval, each in 0..1 (NaN where unknown)."""

    accuracy: Number
    low: NumberOrNan = math.nan
    high: NumberOrNan = math.nan

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


class Evaluation(Line):
    """One evaluation of one split; measures are named as a reader says them: "greedy", "avg@4"."""

    step: Whole
    split: Text = ""
    problems: Whole = 0
    measures: dict[str, Estimate]


@dataclass(frozen=True, slots=True)
class Measurements:
    """The numbers of one step; absent keys were not measured, NaN was measured and is not a number."""

    step: int
    values: Mapping[str, float]


class BankItem(Line):
    """One item of the bank, and how its teachers were judged."""

    id: Text = ""
    kind: Text = ""
    says: Text = ""
    learned: WholeOrNone = None
    """The step that it came in; None: the run began with it."""
    kept: IsTrue = False
    """True where the bank holds it at the end."""
    retrieved: Whole
    validated: Whole
    reversed: Whole
    neutral: Whole
    standing: Number
    """Nats a token."""
    share: NumberOrNan = Field(default=math.nan, alias="posterior_mean")
    """The share validated as runs of before wrote it, and its interval."""
    low: NumberOrNan = Field(default=math.nan, alias="posterior_low")
    high: NumberOrNan = Field(default=math.nan, alias="posterior_high")


class BankItems(Line):
    """items.json."""

    items: Annotated[tuple[BankItem, ...], Objects] = ()


class BankUpdate(Line):
    """One update of the bank: its changes, or the reason that it `failed`."""

    step: Whole
    failed: Text = ""
    success: NumberOrNan = math.nan
    """Share of right answers in the window that was read."""
    proposals: Whole = 0
    reasons: Annotated[dict[str, Whole], BeforeValidator(lambda value: value if isinstance(value, Mapping) else {})] = (
        Field(default={}, alias="refused")
    )
    added: Texts = ()
    removed: Texts = ()

    @property
    def refused(self) -> int:
        return sum(self.reasons.values())


class Fired(Line):
    """One guard at the step where it began to fire."""

    step: Whole
    guard: Text = ""
    message: Text = ""
    action: Text = ""
    examples: Texts = ()

    @property
    def stops(self) -> bool:
        """True where it was configured to end the session."""
        return self.action == "stop"


@dataclass(frozen=True, slots=True)
class GuardSetting:
    """The setting of a guard: its window in steps, and whether it is on."""

    name: str
    window: int
    on: bool


class Summary(Line):
    """The results of a finished run; `facts` are the remaining entries, as text.

    A run that trained nothing has one measurement, `before`.
    """

    name: Text = ""
    method: Text = ""
    seed: Text = ""
    before: dict[str, Estimate]
    after: dict[str, Estimate]
    train_seconds: NumberOrNan = math.nan
    facts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Run:
    """Everything the page is made of; `remarks` are what a reader should know about the files."""

    name: str
    method: str
    seed: str
    planned_steps: int | None
    skills: int | None  # pairs of the bank that a held-out prompt may show; None: not known
    config: str
    metrics: tuple[Measurements, ...]
    timings: tuple[Measurements, ...]
    evaluations: tuple[Evaluation, ...]
    rollouts: tuple[RolloutRecord, ...]
    items: tuple[BankItem, ...]
    updates: tuple[BankUpdate, ...]
    guards: tuple[GuardSetting, ...]
    fired: tuple[Fired, ...]
    summary: Summary | None
    remarks: tuple[str, ...]

    @property
    def step(self) -> int:
        """The last step that was written down; 0 before the first."""
        return self.metrics[-1].step if self.metrics else 0
