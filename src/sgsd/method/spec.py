"""A method is a choice at each joint: context × stance × gate × direction × weights × reduce.

Every joint is a small frozen value that knows its own equation; a `Method` holds one of each and refuses mixes that
mean nothing. The trainer asks a method for `judge(evidence)` and never for its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sgsd.method import losses as L
from sgsd.method.evidence import Evidence, Judgement

TeacherKind = Literal["live", "frozen", "ema", "periodic"]
Reduce = Literal["rollout", "token", "fixed"]
Tokens = Literal["teaching", "all"]  # without special tokens, think tags and empty lines, or every sampled one
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


# ── The method ─────────────────────────────────────────────────────────────────────────────────────────────────────


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
    direction: MatchSampledToken | MatchDistribution | FollowOutcome
    weights: RetrievalSoftmax | Uniform = Uniform()
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
    def matches_distribution(self) -> bool:
        return isinstance(self.direction, MatchDistribution)

    def outcome_advantages(self, outcome_B: Tensor, group_B: Tensor) -> Tensor:
        """A_b of the whole step's rollouts; 0 for methods that do not follow the outcome itself. Returns [B]."""
        if isinstance(self.direction, FollowOutcome):
            return L.group_advantages(outcome_B, group_B, scale=self.direction.scale)
        return torch.zeros_like(outcome_B, dtype=torch.float32)

    def judge(self, evidence: Evidence) -> Judgement:
        """The loss of every token, not yet averaged; see `token_weights`."""
        if isinstance(self.direction, FollowOutcome):
            return self._follow_outcome(self.direction, evidence)
        if isinstance(self.direction, MatchDistribution):
            assert evidence.divergence_BKT is not None
            return Judgement(torch.einsum("bk,bkt->bt", evidence.weights_BK, evidence.divergence_BKT))
        return self._match_sampled_token(evidence)

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
