"""What a run says about itself, as frozen values: the only thing that the drawing part of the room knows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share of correct answers and its interval, each in 0..1 (NaN where unknown)."""

    accuracy: float
    low: float = math.nan
    high: float = math.nan

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of one split; measures are named as a reader says them: "greedy", "avg@4"."""

    step: int
    split: str
    problems: int
    measures: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Measurements:
    """The numbers of one step; absent keys were not measured, NaN was measured and is not a number."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TeacherTrace:
    """What one teacher said about one rollout; `delta` and `gate` have one value a token, or none at all.

    Stance and polarity are None where the method judges no teacher. One that was `left_out` said nothing.
    """

    source: str
    items: tuple[str, ...]
    weight: float
    support: float
    stance: int | None
    polarity: int | None
    delta: tuple[float, ...]
    gate: tuple[float, ...]
    left_out: bool = False


@dataclass(frozen=True, slots=True)
class RolloutTrace:
    """One sampled completion; `mask` and `advantages` have one value a token, or none at all."""

    step: int
    index: int
    problem_id: str
    problem: str
    gold: str
    completion: str
    tokens: tuple[str, ...]
    status: str
    answer: str
    outcome: int
    mask: tuple[bool, ...]
    advantages: tuple[float, ...]
    teachers: tuple[TeacherTrace, ...]


@dataclass(frozen=True, slots=True)
class BankItem:
    """What came of one item: how its teachers were judged, and the share validated with its interval, in 0..1."""

    id: str
    kind: str
    says: str
    learned: int | None  # at which step; None: the run began with it
    kept: bool  # whether the bank holds it at the end
    retrieved: int
    validated: int
    reversed: int
    neutral: int
    standing: float  # nats a token
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class BankUpdate:
    """What one update of the bank did, or why it `failed`."""

    step: int
    failed: str
    success: float  # share of right answers in the window that was read
    proposals: int
    refused: int
    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fired:
    """One guard at the step where it began to fire; `stops` where it was told to end the session."""

    step: int
    guard: str
    message: str
    stops: bool


@dataclass(frozen=True, slots=True)
class GuardSetting:
    """How a guard was set: over how many steps it looks, and whether it looks at all."""

    name: str
    window: int
    on: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """What a finished run says about itself; `facts` are the remaining entries, as text.

    Of a run that trained nothing there is one measurement, `before`.
    """

    name: str
    method: str
    seed: str
    before: Mapping[str, Estimate]
    after: Mapping[str, Estimate]
    train_seconds: float
    facts: Mapping[str, str]


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
    rollouts: tuple[RolloutTrace, ...]
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
