"""The joints of a method: what a teacher is shown, what its support means, how much of a gap counts, where to move.

Every joint is a small frozen value that knows its own equation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sgsd.method import losses as L
from sgsd.method.evidence import Evidence

StanceKind = Literal["raw", "contrast", "ratio"]
Shown = Literal["answer", "solution", "solution_or_answer"]  # the last: the answer where a problem has no solution
MAX_RATIO_CLIP = 10.0  # nats; beyond it the support of a rollout is that of its one most surprising token


# ── Contexts: what the teacher is shown ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class NoContext:
    """There is no teacher."""

    teachers: int = 0

    @property
    def shown(self) -> Shown | None:
        return None


@dataclass(frozen=True)
class SkillPairs:
    """K teachers, each shown one retrieved (skill, common mistake) pair; `also`: and the reference beside it."""

    k: int = 8
    also: Shown | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, not {self.k}")

    @property
    def teachers(self) -> int:
        return self.k

    @property
    def shown(self) -> Shown | None:
        return self.also


@dataclass(frozen=True)
class Answer:
    """One teacher, shown the reference: the bare answer, the solution, or the solution where there is one."""

    show: Shown = "solution_or_answer"
    teachers: int = 1

    @property
    def shown(self) -> Shown | None:
        return self.show


# ── Stances: what a teacher's support means ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class VerifiedSupport:
    """s = sign(a) if |a| > ε; polarity = outcome × s: what the verifier confirms is followed, the rest reversed.

    `kind` says what the support a is: "raw" the mean clipped gap, "ratio" the mean of exp(clipped gap) − 1, "contrast"
    the mean clipped difference to the gap of a null teacher. It changes the stance alone; the gate keeps the gap.
    """

    clip: float = 3.0
    confidence: float = 0.05
    kind: StanceKind = "raw"

    def __post_init__(self) -> None:
        if self.clip <= 0 or self.confidence < 0:
            raise ValueError(f"clip must be positive and confidence not negative: {self.clip}, {self.confidence}")
        if self.kind not in ("raw", "contrast", "ratio"):
            raise ValueError(f"the stance is raw, contrast or ratio, not {self.kind!r}")
        if self.kind == "ratio" and self.clip > MAX_RATIO_CLIP:
            raise ValueError(f"in a ratio one token would weigh e^{self.clip:g}; use clip ≤ {MAX_RATIO_CLIP:g}")

    def support(self, delta_BKT: Tensor, mask_BT: Tensor, null_delta_BT: Tensor | None = None) -> Tensor:
        """a [B, K], by the equation of its kind."""
        if self.kind == "raw":
            return L.support(delta_BKT, mask_BT, clip=self.clip)
        if self.kind == "ratio":
            return L.ratio_support(delta_BKT, mask_BT, clip=self.clip)
        assert null_delta_BT is not None, "a contrast needs the null teacher's gap"
        return L.contrast_support(delta_BKT, null_delta_BT, mask_BT, clip=self.clip)

    def judge(self, delta_BKT: Tensor, e: Evidence) -> tuple[Tensor, Tensor, Tensor]:
        """Support, stance and polarity, each [B, K]; a teacher that was left out has none."""
        null_delta_BT = None
        if e.null_logps_BT is not None:
            null_delta_BT = L.gaps(e.student_logps_BT, e.null_logps_BT[:, None], e.mask_BT)[:, 0]
        support_BK = self.support(delta_BKT, e.mask_BT, null_delta_BT)
        if e.present_BK is not None:
            support_BK = torch.where(e.present_BK, support_BK, 0.0)
        stance_BK = L.stance(support_BK, confidence=self.confidence)
        return support_BK, stance_BK, e.outcome_B[:, None] * stance_BK


@dataclass(frozen=True)
class Always:
    """Every teacher is followed, whatever the outcome."""


# ── Gates: how much of a gap counts ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Bounded:
    """ℓ(Δ) = log 2 − log(1 + exp(−Δ²/2τ)): uncertain gaps weigh little, extreme ones nothing."""

    tau: float = 1.0

    def __post_init__(self) -> None:
        if self.tau <= 0:
            raise ValueError(f"tau must be positive, not {self.tau}")


@dataclass(frozen=True)
class NoGate:
    """Every gap counts as it is."""


# ── Directions: what the student is moved towards ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class MatchSampledToken:
    """Move log p_S(y_t) along each judged teacher's gap on the token that was sampled."""


@dataclass(frozen=True)
class MatchDistribution:
    """Move the whole next-token distribution towards the teacher's: generalised Jensen–Shannon divergence."""

    beta: float = 0.0
    temperature: float = 1.0
    top_k: int | None = None
    clip: float | None = 0.05
    clip_level: L.ClipLevel = "token"

    def __post_init__(self) -> None:
        L.check_jsd(
            beta=self.beta,
            temperature=self.temperature,
            top_k=self.top_k,
            clip=self.clip,
            clip_level=self.clip_level,
        )

    def __call__(self, student_logits_nV: Tensor, teacher_logits_nV: Tensor) -> Tensor:
        return L.token_jsd(
            student_logits_nV,
            teacher_logits_nV,
            beta=self.beta,
            temperature=self.temperature,
            top_k=self.top_k,
            clip=self.clip,
            clip_level=self.clip_level,
        )


@dataclass(frozen=True)
class FollowOutcome:
    """The clipped policy gradient of the outcome's advantage within its group."""

    scale: Literal["group", "batch", "none"] = "group"
    epsilon: float = 0.2
    epsilon_high: float | None = None

    def __post_init__(self) -> None:
        if self.epsilon <= 0 or (self.epsilon_high is not None and self.epsilon_high <= 0):
            raise ValueError("epsilon and epsilon_high must be positive")


@dataclass(frozen=True)
class FollowTrust:
    """A_t = Σ_k w_k q_k clip(Δ_t^k, ±clip) + λ (r − mean r): q is the ledger's trust in teacher k, r is 1 or 0.

    One rollout speaks for itself alone; whether a teacher is to be followed is learned over all of them.
    """

    clip: float = 3.0
    outcome: float = 1.0  # λ
    floor: float = -1.0  # of q: how far a refuted teacher is inverted

    def __post_init__(self) -> None:
        if self.clip <= 0 or self.outcome < 0 or not -1 <= self.floor <= 0:
            raise ValueError("clip must be positive, the outcome's share not negative and the floor within [-1, 0]")


# ── Weights of the teachers ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class RetrievalSoftmax:
    """w = softmax over the pairs of the mean retrieval score / temperature."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"the temperature of the weights must be positive, not {self.temperature}")


@dataclass(frozen=True)
class Uniform:
    """w = 1/K."""
