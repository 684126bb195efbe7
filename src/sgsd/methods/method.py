"""A method is a choice at each joint: context × stance × gate × direction × outcome × weights × reduce.

    loss_t = Σ_k w_k F_k ℓ(·) + policy gradient of A_t

F is the stance's force, ℓ the gate's potential of a gap (or a divergence), A the outcome's advantage, which a
direction that shapes it makes into one a token. A `Method` holds one of each and refuses mixes that mean nothing. The
trainer asks a method for `judge(evidence)` and never for its name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch
from torch import Tensor

from sgsd.contexts.base import Context
from sgsd.contexts.skill_pairs import SkillPairs
from sgsd.methods import losses as L
from sgsd.methods.gates import Gate, NoGate, slope
from sgsd.methods.inputs import LossInputs, LossOutputs
from sgsd.methods.joints import (
    Always,
    Direction,
    FollowOutcome,
    LedgerTrust,
    MatchDistribution,
    MatchSampledToken,
    RetrievalSoftmax,
    RouteByEntropy,
    Shaping,
    Stance,
    Stances,
    Uniform,
    VerifiedSupport,
)
from sgsd.methods.mixes import broken_mix

TeacherKind = Literal["live", "frozen", "ema", "periodic"]
Reduce = Literal["rollout", "token", "fixed"]
Tokens = Literal["teaching", "all"]  # without special tokens, think tags and empty lines, or every sampled one
Leaf = TypeVar("Leaf", bound=Context)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One choice at each joint.

    Raises:
        ValueError: the choices do not make a method; the message says which two do not go together and why.
    """

    name: str
    context: Context
    direction: Direction | None = None  # none: the outcome alone
    stance: Stance = field(default_factory=Always)
    gate: Gate = field(default_factory=NoGate)
    outcome: FollowOutcome | None = None
    weights: RetrievalSoftmax | Uniform = field(default_factory=Uniform)
    inject: SkillPairs | None = None  # shown to the student itself while it trains
    reduce: Reduce = "rollout"
    tokens: Tokens = "teaching"
    teacher: TeacherKind = "live"
    group: int = 1  # rollouts of one problem in a step, unless the config says otherwise
    iterations: int = 1  # updates made with one step's rollouts
    on_policy: float = 1.0  # λ: the share of rollouts that are sampled, the others being reference solutions
    paper: str = ""

    def __post_init__(self) -> None:
        if why := broken_mix(self):
            raise ValueError(f"method {self.name}: {why}")

    # ── What a trainer has to bring ────────────────────────────────────────────────────────────────────────────────

    @property
    def has_teachers(self) -> bool:
        return self.context.teachers > 0

    @property
    def contrasts(self) -> bool:
        """Whether it needs the null teacher's log-probs."""
        return isinstance(self.stance, VerifiedSupport) and self.stance.kind == "contrast"

    @property
    def follows_trust(self) -> bool:
        return isinstance(self.stance, LedgerTrust)

    @property
    def matches_distribution(self) -> bool:
        return isinstance(self.direction, MatchDistribution)

    @property
    def reads_tokens(self) -> bool:
        """Whether it needs the teachers' log-probs of the sampled tokens."""
        return self.has_teachers and (not self.matches_distribution or isinstance(self.stance, VerifiedSupport))

    @property
    def needs_entropy(self) -> bool:
        return isinstance(self.direction, RouteByEntropy)

    @property
    def compares_siblings(self) -> bool:
        """Whether a group of one would leave it without an advantage or a context."""
        by_group = self.outcome is not None and self.outcome.baseline == "group"
        forced = getattr(self.stance, "force", None) == "advantage" or getattr(self.stance, "by", None) == "advantage"
        return by_group or forced or "group" in self.context.all_needs()

    @property
    def sees_whole_step(self) -> bool:
        """Whether an advantage depends on rollouts outside its own group."""
        return self.outcome is not None and "batch" in (self.outcome.baseline, self.outcome.scale)

    def part(self, kind: type[Leaf]) -> Leaf | None:
        """The first of its contexts that is exactly of this kind, the injected one not counted."""
        return next((leaf for leaf in self.context.leaves() if type(leaf) is kind), None)

    @property
    def retrieves(self) -> bool:
        return self.inject is not None or "bank" in self.context.all_needs()

    # ── What it makes of a step ────────────────────────────────────────────────────────────────────────────────────

    def outcome_advantages(self, outcome_B: Tensor, group_B: Tensor) -> Tensor:
        """A_b of the whole step's rollouts; within groups where only the stance asks for one; else 0. Returns [B]."""
        if self.outcome is not None:
            return self.outcome.advantages(outcome_B, group_B)
        if self.compares_siblings:
            return L.group_advantages(outcome_B, group_B, scale="group")
        return torch.zeros_like(outcome_B, dtype=torch.float32)

    def judge(self, evidence: LossInputs) -> LossOutputs:
        """The loss of every token, not yet averaged; see `token_weights`."""
        if self.direction is None:
            return self._follow_outcome(evidence)
        if isinstance(self.direction, MatchDistribution):
            return self._match_distribution(self.direction, evidence)
        if isinstance(self.direction, MatchSampledToken):
            return self._match_sampled_token(evidence)
        return self._shape_outcome(self.direction, evidence)

    def _follow_outcome(self, e: LossInputs) -> LossOutputs:
        losses_BT, advantages_BT = self._outcome_term(e)
        return LossOutputs(losses_BT, advantages_BT=advantages_BT)

    def _match_sampled_token(self, e: LossInputs) -> LossOutputs:
        assert e.teacher_logps_BKT is not None
        delta_BKT = L.gaps(e.student_logps_BT, e.teacher_logps_BKT, e.mask_BT)
        stances = self._stances(delta_BKT, e)
        losses_BT = weigh(self.gate.potential(delta_BKT), stances.force_BK, e.weights_BK)
        advantages_BT = weigh(self.gate.pull(delta_BKT.detach()), stances.force_BK, e.weights_BK)
        if self.outcome is not None:
            outcome_BT, of_outcome_BT = self._outcome_term(e)
            losses_BT, advantages_BT = losses_BT + outcome_BT, advantages_BT + of_outcome_BT
        return self._judged(losses_BT, advantages_BT, stances, delta_BKT.detach())

    def _match_distribution(self, direction: MatchDistribution, e: LossInputs) -> LossOutputs:
        assert e.divergence_BKT is not None
        delta_BKT = None
        if self.reads_tokens:
            assert e.teacher_logps_BKT is not None
            delta_BKT = L.gaps(e.student_logps_BT, e.teacher_logps_BKT, e.mask_BT).detach()
        stances = self._stances(delta_BKT, e)
        gated = not isinstance(self.gate, NoGate)
        values_BKT = self.gate.potential(e.divergence_BKT) if gated else e.divergence_BKT
        losses_BT = direction.share * weigh(values_BKT, stances.force_BK, e.weights_BK)
        if self.outcome is not None:
            losses_BT = losses_BT + self._outcome_term(e)[0]
        return self._judged(losses_BT, None, stances, delta_BKT, e.divergence_BKT.detach() if gated else None)

    def _shape_outcome(self, direction: Shaping, e: LossInputs) -> LossOutputs:
        assert e.teacher_logps_BKT is not None
        assert self.outcome is not None
        delta_BKT = L.gaps(e.student_logps_BT, e.teacher_logps_BKT, e.mask_BT).detach()
        stances = self._stances(delta_BKT, e)
        advantages_BT = direction.advantages(delta_BKT, e)
        if e.present_BK is not None:  # without its teachers a rollout has the outcome's own advantage
            advantages_BT = torch.where(e.present_BK.any(-1)[:, None], advantages_BT, e.advantages_B[:, None])
        losses_BT = self.outcome.losses(e, advantages_BT)
        return self._judged(losses_BT, advantages_BT, stances, delta_BKT)

    def _outcome_term(self, e: LossInputs) -> tuple[Tensor, Tensor]:
        """The policy gradient's losses and its advantages, both [B, T]."""
        assert self.outcome is not None
        advantages_BT = e.advantages_B[:, None].expand_as(e.student_logps_BT)
        return self.outcome.losses(e, advantages_BT), advantages_BT

    def _stances(self, delta_BKT: Tensor | None, e: LossInputs) -> Stances:
        if isinstance(self.stance, VerifiedSupport):
            assert delta_BKT is not None
            return self.stance.judge(delta_BKT, e)
        return self.stance.judge(e)

    def _judged(
        self,
        losses_BT: Tensor,
        advantages_BT: Tensor | None,
        stances: Stances,
        delta_BKT: Tensor | None,
        gated_BKT: Tensor | None = None,  # what the gate acted on, where that is not the gap
    ) -> LossOutputs:
        gated_BKT = delta_BKT if gated_BKT is None else gated_BKT
        return LossOutputs(
            losses_BT=losses_BT,
            advantages_BT=advantages_BT,
            support_BK=stances.support_BK,
            stance_BK=stances.stance_BK,
            polarity_BK=stances.polarity_BK,
            delta_BKT=delta_BKT,
            slope_BKT=None if gated_BKT is None else slope(self.gate, gated_BKT),
        )


def weigh(values_BKT: Tensor, force_BK: Tensor, weights_BK: Tensor) -> Tensor:
    """Σ_k w_k F_k x_t^k: a pool's teachers as one. Returns [B, T]."""
    return torch.einsum("bk,bkt->bt", weights_BK * force_BK, values_BKT)


def token_weights(mask_BT: Tensor, reduce: Reduce, *, rollouts: int, tokens: int, max_tokens: int) -> Tensor:
    """The share of each token in the step's loss, Σ share · loss; micro-batches of a step simply add up.

        rollout: m / (B · max(1, Σ_t m))        token: m / Σ_bt m        fixed: m / (B · max_tokens)

    `rollouts` and `tokens` count the whole step over all processes. Returns [B, T].
    """
    mask = mask_BT.float()
    if reduce == "rollout":
        return mask / (rollouts * mask.sum(-1, keepdim=True).clamp(min=1))
    return mask / (max(1, tokens) if reduce == "token" else rollouts * max_tokens)
