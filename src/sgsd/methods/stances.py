"""Stances: what multiplies a teacher's loss on a rollout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from sgsd.contexts.skill_pairs import SkillPairs
from sgsd.methods.averages import masked_mean
from sgsd.methods.method import Always, LossInputs, Method, Stance

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Always", "CoefficientOf", "LedgerTrust", "OnSuccess", "Stance", "StanceKind", "VerifiedSupport"]

StanceKind = Literal["raw", "contrast", "ratio"]
CoefficientOf = Literal["verdict", "advantage"]
MAX_RATIO_CLIP = 10.0  # nats; beyond it the support of a rollout is that of its one most surprising token


@dataclass(frozen=True)
class VerifiedSupport(Stance):
    """s = sign(a) if |a| > ε; polarity = outcome × s: what the verifier confirms is followed, the rest reversed.

        raw        a = mean_m clip(Δ, ±c)
        ratio      a = mean_m exp(clip(Δ, ±c)) − 1
        contrast   a = mean_m clip(Δ − Δ^null, ±c)

    `kind` says what the support a is; the gate keeps the gap whatever it is. On the student's own untruncated samples
    E[Δ] = −KL(S ‖ T) ≤ 0, so that a teacher that knows nothing reads as "suppress"; E[exp Δ] = 1 takes this bias out
    (clipping the ratio instead of Δ would bring it back), and so does a null teacher of the same template, mode and
    length. `coefficient` says what a stance is multiplied with: the verdict ±1, or the rollout's advantage within its
    group, so that a rollout counts more the rarer its outcome is among its siblings.
    """

    clip: float = 3.0  # nats
    confidence: float = 0.05  # ε; nats, or a relative change
    kind: StanceKind = "raw"
    coefficient: CoefficientOf = "verdict"
    needs_support: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.clip <= 0 or self.confidence < 0:
            raise ValueError(f"clip must be positive and confidence not negative: {self.clip}, {self.confidence}")
        if self.kind not in get_args(StanceKind):
            raise ValueError(f"the stance is raw, contrast or ratio, not {self.kind!r}")
        if self.kind == "ratio" and self.clip > MAX_RATIO_CLIP:
            raise ValueError(f"in a ratio one token would weigh e^{self.clip:g}; use clip ≤ {MAX_RATIO_CLIP:g}")
        if self.coefficient not in get_args(CoefficientOf):
            raise ValueError(f"the coefficient of a stance is the verdict or the advantage, not {self.coefficient!r}")

    @property
    def needs_null(self) -> bool:
        return self.kind == "contrast"

    @property
    def by_group(self) -> bool:
        return self.coefficient == "advantage"

    def check(self, method: Method) -> None:
        if not method.objective.reads_teachers:
            raise ValueError("without teachers there is no support to verify; use Always()")
        if method.objective.shapes_outcome:
            raise ValueError("the outcome's advantage already says which way a rollout counts; use Always()")
        if method.objective.needs_divergence and not method.gate.closes:
            raise ValueError("a reversed divergence without a gate has no bound; use a bounded gate")
        if self.needs_null and method.part(SkillPairs) is None:
            raise ValueError(
                "a contrast is with an irrelevant skill in a pair's place; this context shows none, use raw or ratio"
            )

    def support(self, delta_BKT: Tensor, mask_BT: Tensor, null_delta_BT: Tensor | None = None) -> Tensor:
        """a [B, K], by the equation of its kind; no gradient."""
        delta_BKT = delta_BKT.detach()
        if self.needs_null:
            assert null_delta_BT is not None, "a contrast needs the null teacher's gap"
            delta_BKT = delta_BKT - null_delta_BT[:, None, :].detach()
        delta_BKT = delta_BKT.clamp(-self.clip, self.clip)
        return masked_mean(delta_BKT.expm1() if self.kind == "ratio" else delta_BKT, mask_BT[:, None, :])

    def coefficients(
        self, inputs: LossInputs, stance_BK: Tensor | None = None, polarity_BK: Tensor | None = None
    ) -> Tensor:
        assert stance_BK is not None
        assert polarity_BK is not None
        return polarity_BK if self.coefficient == "verdict" else inputs.advantages_B[:, None] * stance_BK


@dataclass(frozen=True)
class LedgerTrust(VerifiedSupport):
    """Coefficient q_k ∈ [floor, 1): the evidence log's trust in the teacher's items. Ours.

    One rollout speaks for itself alone; whether a teacher is to be followed is learned over all of them, from the
    verified support.
    """

    floor: float = -1.0  # how far a refuted teacher is inverted
    needs_trust: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -1 <= self.floor <= 0:
            raise ValueError(f"the floor of the trust must lie within [-1, 0], not {self.floor}")

    def check(self, method: Method) -> None:
        if method.objective.needs_divergence:
            raise ValueError("trust may be negative, and a divergence pushed up has no bound; match the sampled token")
        if method.has_teachers and "bank" not in method.context.all_needs():
            raise ValueError("trust is in a bank's items and is learned from their support; show skill pairs")
        super().check(method)

    def coefficients(
        self, inputs: LossInputs, stance_BK: Tensor | None = None, polarity_BK: Tensor | None = None
    ) -> Tensor:
        assert inputs.trust_BK is not None
        return inputs.trust_BK.clamp(min=self.floor)


@dataclass(frozen=True)
class OnSuccess(Stance):
    """Coefficient 1 on rollouts better than their group (or, without groups, correct), 0 on the others."""

    by: CoefficientOf = "verdict"

    @property
    def by_group(self) -> bool:
        return self.by == "advantage"

    def coefficients(
        self, inputs: LossInputs, stance_BK: Tensor | None = None, polarity_BK: Tensor | None = None
    ) -> Tensor:
        better_B = (inputs.outcome_B if self.by == "verdict" else inputs.advantages_B) > 0
        return better_B[:, None].to(inputs.weights_BK.dtype).expand_as(inputs.weights_BK)
