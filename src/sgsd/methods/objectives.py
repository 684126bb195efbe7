"""Objectives: what the student is moved towards. Each declares what it needs; the equations are in `losses`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from sgsd.contexts.controls import Null
from sgsd.contexts.rollouts import Hints
from sgsd.methods.method import ClipLevel, LossInputs, LossOutputs, Method, Objective, TopOf

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FollowOutcome(Objective):
    """The outcome alone: the clipped policy gradient, with no teacher but the reference of a divergence."""

    reads_teachers: ClassVar[bool] = False

    def check(self, method: Method) -> None:
        if method.outcome is not None and method.outcome.kl:
            if method.context != Null() or method.teacher == "live":
                raise ValueError("kl is to the policy as it was, under the plain prompt: Null() and a frozen teacher")
        elif method.has_teachers:
            raise ValueError("its teachers would be scored for nothing; give it another objective, or no context")
        if method.outcome is None:
            raise ValueError("it would learn nothing; give it another objective and a context, or an outcome to follow")

    def loss(self, inputs: LossInputs, method: Method) -> LossOutputs:
        from sgsd.methods import losses

        return losses.outcome_token_losses(inputs, method)


# ── Teachers with a loss of their own, beside the outcome's where there is one ─────────────────────────────────────


@dataclass(frozen=True)
class MatchSampledToken(Objective):
    """Moves log p_S(y_t) along each teacher's gap on the token that was sampled: Σ_k w_k c_k ℓ(Δ_t^k)."""

    def check(self, method: Method) -> None:
        super().check(method)
        if method.iterations > 1:
            raise ValueError("a teacher's own term has no correction for rollouts of an older policy; use iterations=1")

    def loss(self, inputs: LossInputs, method: Method) -> LossOutputs:
        from sgsd.methods import losses

        equation = losses.sgsd_token_losses if method.stance.needs_support else losses.imitation_token_losses
        term = equation(inputs, stance=method.stance, gate=method.gate)
        return losses.with_outcome(self._scaled(term), inputs, method)

    def _scaled(self, term: LossOutputs) -> LossOutputs:
        return term


@dataclass(frozen=True)
class MatchDistribution(MatchSampledToken):
    """Moves the whole next-token distribution towards the teacher's: generalised Jensen–Shannon divergence.

    β = 0 is KL(T ‖ S), forward; β = 1 is KL(S ‖ T), reverse. `top_k` keeps the likeliest tokens of the teacher or of
    the student (`top_of`), `tail` the rest of both as one more; `keep_sampled` the sampled token, and then the stance
    reads the gap on what is kept. `share` scales the divergence beside an outcome term.
    """

    beta: float = 0.0
    temperature: float = 1.0
    top_k: int | None = None
    tail: bool = False
    top_of: TopOf = "teacher"
    keep_sampled: bool = False
    clip: float | None = 0.05  # nats
    clip_level: ClipLevel = "token"
    share: float = 1.0
    needs_divergence: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta must lie in [0, 1], not {self.beta}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {self.top_k}")
        if self.tail and self.top_k is None:
            raise ValueError("a tail is what top_k leaves out; set top_k, or no tail")
        if self.keep_sampled and (self.top_k is None or self.tail or self.temperature != 1):
            raise ValueError("the sampled token is kept beside top_k; set top_k, no tail and temperature 1")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip must be positive, not {self.clip}")
        if self.top_of not in get_args(TopOf):
            raise ValueError(f"top_of must be 'teacher' or 'student', not {self.top_of!r}")
        if self.clip_level not in get_args(ClipLevel):
            raise ValueError(f"clip_level must be 'token' or 'vocab', not {self.clip_level!r}")
        if self.share <= 0:
            raise ValueError(f"the share of the divergence must be positive, not {self.share}")

    @property
    def needs_sampled(self) -> bool:
        return self.keep_sampled

    def _scaled(self, term: LossOutputs) -> LossOutputs:
        return replace(term, losses_BT=self.share * term.losses_BT)

    def divergence(
        self, student_logits_nV: Tensor, teacher_logits_nV: Tensor, sampled_n: Tensor | None = None
    ) -> Tensor:
        import torch

        from sgsd.methods import losses

        sampled_n = sampled_n if self.keep_sampled else None
        values_n = losses.generalized_jsd(
            student_logits=student_logits_nV,
            teacher_logits=teacher_logits_nV,
            beta=self.beta,
            temperature=self.temperature,
            top_k=self.top_k,
            tail=self.tail,
            top_of=self.top_of,
            sampled=sampled_n,
            clip=self.clip,
            clip_level=self.clip_level,
        )
        if sampled_n is None or self.top_k is None:
            return values_n
        gaps_n = losses.local_gaps(
            student_logits=student_logits_nV,
            teacher_logits=teacher_logits_nV,
            sampled=sampled_n,
            top_k=self.top_k,
            top_of=self.top_of,
        )
        return torch.stack([values_n, gaps_n])


# ── Teachers that shape the outcome's advantage ────────────────────────────────────────────────────────────────────


class ShapeOutcome(Objective):
    """The policy gradient of advantages that the teachers made into one a token; subclasses say how."""

    shapes_outcome: ClassVar[bool] = True

    def check(self, method: Method) -> None:
        super().check(method)
        if method.outcome is None:
            raise ValueError(f"{type(self).__name__} shapes the outcome's advantage; give it an outcome to follow")
        if method.gate.closes:
            raise ValueError(
                "the gate is on a gap that is matched; a shaped advantage has bounds of its own, use no gate"
            )

    def loss(self, inputs: LossInputs, method: Method) -> LossOutputs:
        from sgsd.methods import losses

        gap_BKT = losses.gaps(inputs).detach()
        advantages_BT = self.advantages(gap_BKT, inputs)
        if inputs.present_BK is not None:  # without its teachers a rollout has the outcome's own advantage
            taught_B1 = inputs.present_BK.any(-1)[:, None]
            advantages_BT = advantages_BT.where(taught_B1, inputs.advantages_B[:, None])
        losses_BT = losses.policy_losses(inputs, method, advantages_BT)
        return LossOutputs(losses_BT, advantages_BT, delta_BKT=gap_BKT, gate_BKT=method.gate.kept(gap_BKT))

    def advantages(self, gap_BKT: Tensor, inputs: LossInputs) -> Tensor:
        """A_t [B, T]; no gradient."""
        raise NotImplementedError


@dataclass(frozen=True)
class RouteByEntropy(ShapeOutcome):
    """A_t = A + β ω_t δ̄_t: where the student is sure it is drawn to the teachers, where it is not, pushed away.

        ω_t = tanh((τ_ρ − H_t) / σ_H) · σ(|δ̄_t| − 1),    δ̄ = Σ_k w_k Δ^k over its mean size within the rollout

    τ_ρ is the `quantile` of the student's entropy H within the rollout, σ_H its mean absolute deviation.
    """

    beta: float = 0.02
    quantile: float = 0.8

    def __post_init__(self) -> None:
        if self.beta <= 0 or not 0 < self.quantile < 1:
            raise ValueError(f"beta must be positive and the quantile within (0, 1): {self.beta}, {self.quantile}")

    def advantages(self, gap_BKT: Tensor, inputs: LossInputs) -> Tensor:
        from sgsd.methods import advantages, losses

        assert inputs.entropy_BT is not None
        gap_BT = losses.sum_teachers(inputs.weights_BK, gap_BKT)
        routed_BT = advantages.entropy_routed(gap_BT, inputs.entropy_BT, inputs.mask_BT, quantile=self.quantile)
        return inputs.advantages_B[:, None] + self.beta * routed_BT


@dataclass(frozen=True)
class ContrastHints(ShapeOutcome):
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

    def check(self, method: Method) -> None:
        super().check(method)
        if not isinstance(method.context, Hints):
            raise ValueError("it contrasts a right hint with wrong ones; the context must be Hints()")

    def advantages(self, gap_BKT: Tensor, inputs: LossInputs) -> Tensor:
        from sgsd.methods import advantages

        added_BT = self.strength * (advantages.hint_contrast(gap_BKT, inputs.present_BK) / self.tau).tanh()
        return advantages.held_to_sign(inputs.advantages_B[:, None], added_BT.where(added_BT.abs() > self.least, 0.0))


@dataclass(frozen=True)
class WeighByTeacher(ShapeOutcome):
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
        if not 0 < self.strength <= 1 or not 0 < self.epsilon <= 1 or self._high <= 0:
            raise ValueError("strength and epsilon must lie in (0, 1], epsilon_high must be positive")

    @property
    def _high(self) -> float:
        return self.epsilon if self.epsilon_high is None else self.epsilon_high

    def advantages(self, gap_BKT: Tensor, inputs: LossInputs) -> Tensor:
        from sgsd.methods import advantages, losses

        outcome_B1 = inputs.advantages_B[:, None]
        gap_BT, low, high = losses.sum_teachers(inputs.weights_BK, gap_BKT), 1 - self.epsilon, 1 + self._high
        weight_BT = advantages.gap_weights(gap_BT, inputs.advantages_B, sign=self.sign, low=low, high=high)
        advantages_BT = outcome_B1 * (1 - self.strength + self.strength * weight_BT)
        if not self.successes_only:
            return advantages_BT
        return advantages_BT.where((inputs.outcome_B > 0)[:, None], outcome_B1)
