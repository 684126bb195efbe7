"""A method is a choice at each joint: context × stance × gate × direction × weights × reduce.

A `Method` holds one of each and refuses mixes that mean nothing. The trainer asks a method for `judge(evidence)` and
never for its name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from sgsd.method import losses as L
from sgsd.method.evidence import Evidence, Judgement
from sgsd.method.joints import (
    Always,
    Answer,
    Bounded,
    FollowOutcome,
    FollowTrust,
    MatchDistribution,
    MatchSampledToken,
    NoContext,
    NoGate,
    RetrievalSoftmax,
    SkillPairs,
    Uniform,
    VerifiedSupport,
)

TeacherKind = Literal["live", "frozen", "ema", "periodic"]
Reduce = Literal["rollout", "token", "fixed"]
Tokens = Literal["teaching", "all"]  # without special tokens, think tags and empty lines, or every sampled one


@dataclass(frozen=True)
class Method:
    """One choice at each joint.

    Raises:
        ValueError: the choices do not make a method; the message says which two do not go together and why.
    """

    name: str
    context: NoContext | SkillPairs | Answer
    stance: VerifiedSupport | Always
    gate: Bounded | NoGate
    direction: MatchSampledToken | MatchDistribution | FollowOutcome | FollowTrust
    weights: RetrievalSoftmax | Uniform = field(default_factory=Uniform)
    reduce: Reduce = "rollout"
    tokens: Tokens = "teaching"
    teacher: TeacherKind = "live"
    group: int = 1  # rollouts of one problem in a step, unless the config says otherwise
    iterations: int = 1  # updates made with one step's rollouts
    paper: str = ""

    def __post_init__(self) -> None:
        for broken, why in (
            (
                self.follows_outcome and self.has_teachers,
                "a policy gradient of the outcome has no use for a context",
            ),
            (
                not self.follows_outcome and not self.has_teachers,
                "distillation needs a context to make a teacher",
            ),
            (
                isinstance(self.direction, MatchSampledToken) and not isinstance(self.gate, Bounded),
                "matching the sampled token without a gate has no bound; use bounded()",
            ),
            (
                self.follows_trust
                and not (isinstance(self.context, SkillPairs) and isinstance(self.stance, VerifiedSupport)),
                "trust is in a bank's items and is learned from their support; use skill_pairs and verified_support()",
            ),
            (
                not isinstance(self.direction, MatchSampledToken) and isinstance(self.gate, Bounded),
                "the gate is on the sampled token's gap; another direction has none, use no_gate()",
            ),
            (
                isinstance(self.direction, MatchDistribution) and isinstance(self.stance, VerifiedSupport),
                "the stance is read from sampled tokens; a distribution is matched always(), whatever the outcome",
            ),
            (
                isinstance(self.weights, RetrievalSoftmax) and not isinstance(self.context, SkillPairs),
                "retrieval_softmax() weighs retrieved pairs; this context retrieves nothing, use uniform()",
            ),
            (
                self.follows_outcome and isinstance(self.stance, VerifiedSupport),
                "without teachers there is no support to verify; use always()",
            ),
            (
                self.contrasts and not isinstance(self.context, SkillPairs),
                "a contrast is with an irrelevant skill in a pair's place; this context shows none, use raw or ratio",
            ),
            (
                not self.has_teachers and self.teacher != "live",
                f"there is no teacher to be {self.teacher}; leave it live",
            ),
            (self.follows_outcome and self.group < 2, "an advantage within a group needs group ≥ 2"),
            (self.iterations < 1, "iterations must be at least 1"),
            (
                self.iterations > 1 and not self.follows_outcome,
                "only the clipped policy gradient corrects for rollouts of an older policy; use iterations=1",
            ),
        ):
            if broken:
                raise ValueError(f"method {self.name}: {why}")

    @property
    def has_teachers(self) -> bool:
        return self.context.teachers > 0

    @property
    def contrasts(self) -> bool:
        """Whether it needs the null teacher's log-probs."""
        return isinstance(self.stance, VerifiedSupport) and self.stance.kind == "contrast"

    @property
    def follows_outcome(self) -> bool:
        return isinstance(self.direction, FollowOutcome)

    @property
    def follows_trust(self) -> bool:
        return isinstance(self.direction, FollowTrust)

    @property
    def matches_distribution(self) -> bool:
        return isinstance(self.direction, MatchDistribution)

    def outcome_advantages(self, outcome_B: Tensor, group_B: Tensor) -> Tensor:
        """A_b of the whole step's rollouts; 0 for methods that do not follow the outcome itself. Returns [B]."""
        if isinstance(self.direction, FollowOutcome):
            return L.group_advantages(outcome_B, group_B, scale=self.direction.scale)
        if isinstance(self.direction, FollowTrust):  # rewards of 1 and 0 about the step's mean: half of ±1 about theirs
            centred_B = L.group_advantages(outcome_B, torch.zeros_like(group_B), scale="none")
            return 0.5 * self.direction.outcome * centred_B
        return torch.zeros_like(outcome_B, dtype=torch.float32)

    def judge(self, evidence: Evidence) -> Judgement:
        """The loss of every token, not yet averaged; see `token_weights`."""
        if isinstance(self.direction, FollowOutcome):
            return self._follow_outcome(self.direction, evidence)
        if isinstance(self.direction, MatchDistribution):
            assert evidence.divergence_BKT is not None
            return Judgement(torch.einsum("bk,bkt->bt", evidence.weights_BK, evidence.divergence_BKT))
        if isinstance(self.direction, FollowTrust):
            return self._follow_trust(self.direction, evidence)
        return self._match_sampled_token(evidence)

    def _follow_trust(self, direction: FollowTrust, e: Evidence) -> Judgement:
        assert e.teacher_logps_BKT is not None
        assert e.trust_BK is not None
        assert isinstance(self.stance, VerifiedSupport)
        delta_BKT = L.gaps(e.student_logps_BT, e.teacher_logps_BKT, e.mask_BT).detach()
        support_BK, stance_BK, polarity_BK = self.stance.judge(delta_BKT, e)
        trust_BK = e.trust_BK.clamp(min=direction.floor)
        taught_BT = L.trusted_advantages(delta_BKT, trust_BK, e.weights_BK, clip=direction.clip)
        advantages_BT = taught_BT + e.advantages_B[:, None]
        return Judgement(
            losses_BT=-advantages_BT * e.student_logps_BT,
            advantages_BT=advantages_BT,
            support_BK=support_BK,
            stance_BK=stance_BK,
            polarity_BK=polarity_BK,
            delta_BKT=delta_BKT,
        )

    def _follow_outcome(self, direction: FollowOutcome, e: Evidence) -> Judgement:
        losses_BT = L.clipped_policy_losses(
            e.student_logps_BT,
            e.old_logps_BT,
            e.advantages_B,
            epsilon=direction.epsilon,
            epsilon_high=direction.epsilon_high,
        )
        return Judgement(losses_BT, advantages_BT=e.advantages_B[:, None].expand_as(losses_BT))

    def _match_sampled_token(self, e: Evidence) -> Judgement:
        assert e.teacher_logps_BKT is not None
        assert isinstance(self.gate, Bounded)
        delta_BKT = L.gaps(e.student_logps_BT, e.teacher_logps_BKT, e.mask_BT)
        support_BK: Tensor | None = None
        stance_BK: Tensor | None = None
        polarity_BK = torch.ones_like(e.weights_BK)
        if isinstance(self.stance, VerifiedSupport):
            support_BK, stance_BK, polarity_BK = self.stance.judge(delta_BKT, e)
        return Judgement(
            losses_BT=L.gated_token_losses(delta_BKT, polarity_BK, e.weights_BK, tau=self.gate.tau),
            advantages_BT=L.gated_advantages(delta_BKT, polarity_BK, e.weights_BK, tau=self.gate.tau),
            support_BK=support_BK,
            stance_BK=stance_BK,
            polarity_BK=polarity_BK,
            delta_BKT=delta_BKT.detach(),
            slope_BKT=L.gate_slope(delta_BKT.detach().square(), tau=self.gate.tau),
        )


def token_weights(mask_BT: Tensor, reduce: Reduce, *, rollouts: int, tokens: int, max_tokens: int) -> Tensor:
    """The share of each token in the step's loss, Σ share · loss; micro-batches of a step simply add up.

        rollout: m / (B · max(1, Σ_t m))        token: m / Σ_bt m        fixed: m / (B · max_tokens)

    `rollouts` and `tokens` count the whole step over all processes. Returns [B, T].
    """
    mask = mask_BT.float()
    if reduce == "rollout":
        return mask / (rollouts * mask.sum(-1, keepdim=True).clamp(min=1))
    return mask / (max(1, tokens) if reduce == "token" else rollouts * max_tokens)
