"""The joints of a method: what a teacher's support means, where the student is moved, what the outcome adds.

Every joint is a small frozen value that knows its own equation; contexts and gates have files of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from sgsd.methods import losses as L
from sgsd.methods import shaping
from sgsd.methods.inputs import LossInputs

StanceKind = Literal["raw", "contrast", "ratio"]
ForceOf = Literal["verdict", "advantage"]
MAX_RATIO_CLIP = 10.0  # nats; beyond it the support of a rollout is that of its one most surprising token


# ── Stances: what a teacher's support means ────────────────────────────────────────────────────────────────────────


class Stances(NamedTuple):
    """How each teacher of each rollout is judged, all [B, K]."""

    force_BK: Tensor  # what multiplies its loss: a polarity, a trust, an advantage
    support_BK: Tensor | None = None
    stance_BK: Tensor | None = None
    polarity_BK: Tensor | None = None  # −1, 0, +1: reversed, silent, validated


@dataclass(frozen=True)
class VerifiedSupport:
    """s = sign(a) if |a| > ε; polarity = outcome × s: what the verifier confirms is followed, the rest reversed.

    `kind` says what the support a is: "raw" the mean clipped gap, "ratio" the mean of exp(clipped gap) − 1, "contrast"
    the mean clipped difference to the gap of a null teacher. It changes the stance alone; the gate keeps the gap.
    `force` says what a stance is multiplied with: the verdict ±1, or the rollout's advantage within its group, so that
    a rollout tells more the rarer its outcome is among its siblings, and nothing where all came out alike.
    """

    clip: float = 3.0
    confidence: float = 0.05
    kind: StanceKind = "raw"
    force: ForceOf = "verdict"

    def __post_init__(self) -> None:
        if self.clip <= 0 or self.confidence < 0:
            raise ValueError(f"clip must be positive and confidence not negative: {self.clip}, {self.confidence}")
        if self.kind not in get_args(StanceKind):
            raise ValueError(f"the stance is raw, contrast or ratio, not {self.kind!r}")
        if self.kind == "ratio" and self.clip > MAX_RATIO_CLIP:
            raise ValueError(f"in a ratio one token would weigh e^{self.clip:g}; use clip ≤ {MAX_RATIO_CLIP:g}")
        if self.force not in get_args(ForceOf):
            raise ValueError(f"the force of a stance is the verdict or the advantage, not {self.force!r}")

    def support(self, delta_BKT: Tensor, mask_BT: Tensor, null_delta_BT: Tensor | None = None) -> Tensor:
        """a [B, K], by the equation of its kind."""
        if self.kind == "raw":
            return L.support(delta_BKT, mask_BT, clip=self.clip)
        if self.kind == "ratio":
            return L.ratio_support(delta_BKT, mask_BT, clip=self.clip)
        assert null_delta_BT is not None, "a contrast needs the null teacher's gap"
        return L.contrast_support(delta_BKT, null_delta_BT, mask_BT, clip=self.clip)

    def judge(self, delta_BKT: Tensor, e: LossInputs) -> Stances:
        """A teacher that was left out has no support and no stance."""
        null_delta_BT = None
        if e.null_logps_BT is not None:
            null_delta_BT = L.gaps(e.student_logps_BT, e.null_logps_BT[:, None], e.mask_BT)[:, 0]
        support_BK = self.support(delta_BKT, e.mask_BT, null_delta_BT)
        if e.present_BK is not None:
            support_BK = torch.where(e.present_BK, support_BK, 0.0)
        stance_BK = L.stance(support_BK, confidence=self.confidence)
        polarity_BK = e.outcome_B[:, None] * stance_BK
        force_BK = polarity_BK if self.force == "verdict" else e.advantages_B[:, None] * stance_BK
        return Stances(force_BK, support_BK, stance_BK, polarity_BK)


@dataclass(frozen=True)
class LedgerTrust(VerifiedSupport):
    """Force q_k ∈ [floor, 1): the ledger's trust in the teacher's items. Ours.

    One rollout speaks for itself alone; whether a teacher is to be followed is learned over all of them. The verified
    support is what the ledger learns from.
    """

    floor: float = -1.0  # how far a refuted teacher is inverted

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -1 <= self.floor <= 0:
            raise ValueError(f"the floor of the trust must lie within [-1, 0], not {self.floor}")

    def judge(self, delta_BKT: Tensor, e: LossInputs) -> Stances:
        assert e.trust_BK is not None
        return super().judge(delta_BKT, e)._replace(force_BK=e.trust_BK.clamp(min=self.floor))


@dataclass(frozen=True)
class Always:
    """Force 1: every teacher is followed, whatever the outcome."""

    def judge(self, e: LossInputs) -> Stances:
        return Stances(torch.ones_like(e.weights_BK))


@dataclass(frozen=True)
class OnSuccess:
    """Force 1 on rollouts better than their group (or, without groups, correct), 0 on the others."""

    by: ForceOf = "verdict"

    def judge(self, e: LossInputs) -> Stances:
        better_B = (e.outcome_B if self.by == "verdict" else e.advantages_B) > 0
        return Stances(better_B[:, None].to(e.weights_BK.dtype).expand_as(e.weights_BK))


Stance = VerifiedSupport | Always | OnSuccess


# ── Directions: what the student is moved towards ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class MatchSampledToken:
    """Move log p_S(y_t) along each judged teacher's gap on the token that was sampled."""


@dataclass(frozen=True)
class MatchDistribution:
    """Move the whole next-token distribution towards the teacher's: generalised Jensen–Shannon divergence.

    β = 0 is KL(T ‖ S), forward; β = 1 is KL(S ‖ T), reverse. `top_k` keeps the likeliest tokens of the teacher or of
    the student (`top_of`), `tail` the rest of both as one more; `share` scales it beside an outcome term.
    """

    beta: float = 0.0
    temperature: float = 1.0
    top_k: int | None = None
    tail: bool = False
    top_of: L.TopOf = "teacher"
    clip: float | None = 0.05
    clip_level: L.ClipLevel = "token"
    share: float = 1.0

    def __post_init__(self) -> None:
        L.check_jsd(
            beta=self.beta,
            temperature=self.temperature,
            top_k=self.top_k,
            tail=self.tail,
            clip=self.clip,
            clip_level=self.clip_level,
            top_of=self.top_of,
        )
        if self.share <= 0:
            raise ValueError(f"the share of the divergence must be positive, not {self.share}")

    def __call__(self, student_logits_nV: Tensor, teacher_logits_nV: Tensor) -> Tensor:
        return L.token_jsd(
            student_logits_nV,
            teacher_logits_nV,
            beta=self.beta,
            temperature=self.temperature,
            top_k=self.top_k,
            tail=self.tail,
            top_of=self.top_of,
            clip=self.clip,
            clip_level=self.clip_level,
        )


@dataclass(frozen=True)
class RouteByEntropy:
    """A_t = A + β ω_t δ̄_t: where the student is sure it is drawn to the teachers, where it is not, pushed away.

        ω_t = tanh((τ_ρ − H_t) / σ_H) · σ(|δ̄_t| − 1),    δ̄ = Σ_k w_k Δ^k over its mean size within the rollout

    τ_ρ is the `quantile` of the student's entropy H within the rollout, σ_H its mean absolute deviation.
    """

    beta: float = 0.02
    quantile: float = 0.8

    def __post_init__(self) -> None:
        if self.beta <= 0 or not 0 < self.quantile < 1:
            raise ValueError(f"beta must be positive and the quantile within (0, 1): {self.beta}, {self.quantile}")

    def advantages(self, delta_BKT: Tensor, e: LossInputs) -> Tensor:
        assert e.entropy_BT is not None
        gap_BT = torch.einsum("bk,bkt->bt", e.weights_BK, delta_BKT)
        routed_BT = shaping.entropy_routed(gap_BT, e.entropy_BT, e.mask_BT, quantile=self.quantile)
        return e.advantages_B[:, None] + self.beta * routed_BT


@dataclass(frozen=True)
class ContrastHints:
    """A_t = A + r_t where |r_t| > `least`, else A, held to the sign of A;  r_t = λ tanh(c_t/τ).

    c_t = log p_T^right(y_t) − log of the mean of p_T^wrong(y_t): the first teacher of a pool is shown what is right,
    the others what is wrong, and what any hint does to the style cancels.
    """

    strength: float = 0.5  # λ
    tau: float = 0.02
    least: float = 0.02

    def __post_init__(self) -> None:
        if self.strength <= 0 or self.tau <= 0 or self.least < 0:
            raise ValueError(f"strength and tau must be positive: {self.strength}, {self.tau}; least 0 or more")

    def advantages(self, delta_BKT: Tensor, e: LossInputs) -> Tensor:
        added_BT = self.strength * torch.tanh(shaping.hint_contrast(delta_BKT, e.present_BK) / self.tau)
        added_BT = torch.where(added_BT.abs() > self.least, added_BT, 0.0)
        return shaping.held_to_sign(e.advantages_B[:, None], added_BT)


@dataclass(frozen=True)
class WeighByTeacher:
    """A_t = A · [(1 − λ) + λ clip(u_t, 1 − ε, 1 + ε_high)],  u_t = (p_T/p_S)^{± sign A}.

    With "+" tokens count more that the teacher confirms: likelier under it on a success, less likely on a failure.
    With "−" those that the student found and the teacher would not have said. With `successes_only` a failure keeps
    its plain advantage.
    """

    sign: Literal["+", "-"] = "+"
    strength: float = 0.5  # λ
    epsilon: float = 0.2
    epsilon_high: float | None = None
    successes_only: bool = False

    def __post_init__(self) -> None:
        if self.sign not in ("+", "-"):
            raise ValueError(f"the sign of the exponent is + or -, not {self.sign!r}")
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        if not 0 < self.strength <= 1 or not 0 < self.epsilon <= 1 or high <= 0:
            raise ValueError("strength and epsilon must lie in (0, 1], epsilon_high must be positive")

    def advantages(self, delta_BKT: Tensor, e: LossInputs) -> Tensor:
        gap_BT = torch.einsum("bk,bkt->bt", e.weights_BK, delta_BKT)
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        weight_BT = shaping.gap_weights(gap_BT, e.advantages_B, sign=self.sign, low=1 - self.epsilon, high=1 + high)
        advantages_BT = e.advantages_B[:, None] * (1 - self.strength + self.strength * weight_BT)
        if not self.successes_only:
            return advantages_BT
        return torch.where((e.outcome_B > 0)[:, None], advantages_BT, e.advantages_B[:, None])


Shaping = RouteByEntropy | ContrastHints | WeighByTeacher
Direction = MatchSampledToken | MatchDistribution | Shaping


# ── The outcome's own term ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class FollowOutcome:
    """The clipped policy gradient of the outcome's advantage: −min(q A, clip(q, 1−ε, 1+ε_high) A).

    `baseline` says over which rollouts the mean is taken, `scale` whose standard deviation divides; `share` weighs the
    term beside the teachers'.
    """

    scale: Literal["group", "batch", "none"] = "group"
    epsilon: float = 0.2
    epsilon_high: float | None = None
    baseline: Literal["group", "batch"] = "group"
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.epsilon <= 0 or (self.epsilon_high is not None and self.epsilon_high <= 0):
            raise ValueError("epsilon and epsilon_high must be positive")
        if self.share <= 0:
            raise ValueError(f"the share of the outcome must be positive, not {self.share}; leave the term out instead")
        if self.baseline == "batch" and self.scale == "group":
            raise ValueError(
                "a mean over the batch goes with a deviation over the batch, or none; use scale batch or none"
            )

    def advantages(self, outcome_B: Tensor, group_B: Tensor) -> Tensor:
        groups_B = torch.zeros_like(group_B) if self.baseline == "batch" else group_B
        return self.share * L.group_advantages(outcome_B, groups_B, scale=self.scale)

    def losses(self, e: LossInputs, advantages_BT: Tensor) -> Tensor:
        return L.clipped_policy_losses(
            e.student_logps_BT, e.old_logps_BT, advantages_BT, epsilon=self.epsilon, epsilon_high=self.epsilon_high
        )


# ── Weights of the teachers ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class RetrievalSoftmax:
    """w = softmax over the pairs of the mean retrieval score / temperature; `bank.reweigh` adds the ledger's trust."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"the temperature of the weights must be positive, not {self.temperature}")


@dataclass(frozen=True)
class Uniform:
    """w = 1/K."""
