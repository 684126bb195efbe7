"""A method is data: context × stance × gate × objective × outcome × weights × reduce.

    loss_t = Σ_k w_k c_k ℓ(Δ_t^k) + policy gradient of A_t

c is the stance's coefficient (SGSD's polarity), ℓ the gate's loss of a gap or a divergence, A the outcome's advantage.
A `Method` holds one choice of each; every choice says by itself what it needs and what it cannot go with, and the
objective computes the loss: `LossInputs` → `Objective.loss` → `LossOutputs`. Declarations import no torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from sgsd.contexts.base import Context
from sgsd.contexts.skill_pairs import SkillPairs

if TYPE_CHECKING:
    from torch import Tensor

TeacherKind = Literal["live", "frozen", "ema", "periodic"]
Reduce = Literal["rollout", "token", "fixed"]
Tokens = Literal["teaching", "all"]  # without special tokens, think tags and empty lines, or every sampled one
ClipLevel = Literal["token", "vocab"]
TopOf = Literal["teacher", "student"]
Leaf = TypeVar("Leaf", bound=Context)


# ── What goes into a loss and what comes out ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class LossInputs:
    """One micro-batch of scored rollouts. B rollouts, K teachers, T positions; natural logarithms."""

    mask_BT: Tensor  # bool: the tokens that count; the others may hold anything
    student_logps_BT: Tensor  # the gradient flows here
    old_logps_BT: Tensor  # under the policy that began this step
    outcome_B: Tensor  # +1, −1, or 0 where it is unknown
    advantages_B: Tensor  # of the outcome within its group
    weights_BK: Tensor  # of the teachers; a row sums to 1
    teacher_logps_BKT: Tensor | None = None  # for methods that read the sampled tokens
    null_logps_BT: Tensor | None = None  # under the null teacher's prompt, for stances in contrast to it
    divergence_BKT: Tensor | None = None  # for objectives on distributions; the gradient flows here
    local_gap_BKT: Tensor | None = None  # of the sampled token on a renormalised support, where that is the gap
    entropy_BT: Tensor | None = None  # of the student; no gradient
    trust_BK: Tensor | None = None  # in the teachers' items, for stances that ask for it
    present_BK: Tensor | None = None  # teachers that were scored, None: all; an absent one has no gap and no weight


@dataclass(frozen=True)
class LossOutputs:
    """The loss of every token, not yet averaged, and the figures behind it."""

    losses_BT: Tensor
    advantages_BT: Tensor | None = None  # −∂loss/∂log p_S(y_t), where it is one number a token
    support_BK: Tensor | None = None
    stance_BK: Tensor | None = None  # −1, 0, +1
    polarity_BK: Tensor | None = None  # −1, 0, +1: reversed, neutral, validated
    delta_BKT: Tensor | None = None  # the gaps; no gradient
    gate_BKT: Tensor | None = None  # how much of what it acts on the gate lets through, in (0, ½]
    metrics: Mapping[str, Tensor] = field(default_factory=dict)  # more figures, [B, T]; a step logs the token mean


# ── What a component has to be ─────────────────────────────────────────────────────────────────────────────────────


class Objective:
    """The target that the student is moved towards. Subclasses are frozen dataclasses with a `loss`."""

    reads_teachers: ClassVar[bool] = True
    needs_divergence: ClassVar[bool] = False  # of whole distributions: the scorer calls `divergence`
    shapes_outcome: ClassVar[bool] = False  # teachers change the outcome's advantage and have no term of their own

    @property
    def needs_sampled(self) -> bool:
        """Whether `divergence` is also given the sampled tokens, and returns [2, n]: values, and gaps on them."""
        return False

    def check(self, method: Method) -> None:
        """Raises ValueError where the rest of the method does not go with it; the message says why."""
        if self.reads_teachers and not method.has_teachers:
            raise ValueError("distillation needs a context to make a teacher")

    def loss(self, inputs: LossInputs, method: Method) -> LossOutputs:
        """The loss of every token; stance, gate and outcome are the method's."""
        raise NotImplementedError

    def divergence(
        self, student_logits_nV: Tensor, teacher_logits_nV: Tensor, sampled_n: Tensor | None = None
    ) -> Tensor:
        """Values [n] of n tokens, differentiable by the student's logits; see `needs_divergence`, `needs_sampled`."""
        raise NotImplementedError


class Stance:
    """The sign of a teacher's support on a rollout, and the coefficient that it gives the teacher's loss."""

    needs_support: ClassVar[bool] = False  # it reads the teachers' log-probs of the sampled tokens
    confidence: float = 0.0  # supports of at most this size take no stance
    needs_trust: ClassVar[bool] = False  # it reads the evidence log's trust in the teachers' items

    @property
    def needs_null(self) -> bool:
        """Whether it reads the null teacher's log-probs."""
        return False

    @property
    def by_group(self) -> bool:
        """Whether it compares rollouts of one problem."""
        return False

    def check(self, method: Method) -> None:
        """Raises ValueError where the rest of the method does not go with it; the message says why."""

    def support(self, delta_BKT: Tensor, mask_BT: Tensor, null_delta_BT: Tensor | None = None) -> Tensor:
        """a [B, K] of the gaps, for stances that need it."""
        raise NotImplementedError

    def coefficients(
        self, inputs: LossInputs, stance_BK: Tensor | None = None, polarity_BK: Tensor | None = None
    ) -> Tensor:
        """c [B, K]; stances that need the support get its sign and, as `polarity_BK`, the outcome's times that."""
        raise NotImplementedError


class Gate:
    """ℓ(Δ) and its derivative, element by element; Δ is a gap or a divergence, nats."""

    closes: ClassVar[bool] = True  # it holds some gaps back

    def check(self, method: Method) -> None:
        """Raises ValueError where the rest of the method does not go with it; the message says why."""

    def loss(self, delta: Tensor) -> Tensor:
        """ℓ(Δ)."""
        raise NotImplementedError

    def grad(self, delta: Tensor) -> Tensor:
        """∂ℓ/∂Δ."""
        raise NotImplementedError

    def kept(self, delta: Tensor) -> Tensor:
        """How much of the gap it lets through, in [0, ½], ½ being all of it: ½ min(1, |∂ℓ/∂Δ| / |Δ|)."""
        through = (self.grad(delta).abs() / delta.abs().clamp(min=1e-12)).where(delta != 0, 1.0)
        return 0.5 * through.clamp(max=1.0)


@dataclass(frozen=True)
class Always(Stance):
    """Coefficient 1: every teacher is followed, whatever the outcome."""

    def coefficients(
        self, inputs: LossInputs, stance_BK: Tensor | None = None, polarity_BK: Tensor | None = None
    ) -> Tensor:
        return inputs.weights_BK.new_ones(inputs.weights_BK.shape)


@dataclass(frozen=True)
class NoGate(Gate):
    """Every gap counts as it is; `clip` bounds the gradient of one token (Huber's loss)."""

    clip: float | None = None
    closes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"the clip of the gate must be positive, not {self.clip}")

    def check(self, method: Method) -> None:
        if method.objective.needs_divergence and self.clip is not None:
            raise ValueError("a divergence is clipped by the objective's own clip; leave the gate's out")

    def loss(self, delta: Tensor) -> Tensor:
        if self.clip is None:
            return 0.5 * delta.square()
        from torch.nn import functional as F

        return F.huber_loss(delta, delta.new_zeros(delta.shape), reduction="none", delta=self.clip)

    def grad(self, delta: Tensor) -> Tensor:
        return delta if self.clip is None else delta.clamp(-self.clip, self.clip)


@dataclass(frozen=True)
class PolicyGradient:
    """The clipped policy gradient of the outcome's advantage: −min(q A, clip(q, 1−ε, 1+ε_high) A).

    `baseline` says over which rollouts the mean is taken, `scale` whose standard deviation divides; `share` weighs the
    term beside the teachers'. `dual_clip` bounds it at −c A where A < 0 (arXiv 1912.09729); `kl` adds that share of
    e^{−d} + d − 1, d = log p_S(y_t) − log p_ref(y_t), whose mean is the divergence from the policy at the start.
    """

    scale: Literal["group", "batch", "none"] = "group"
    epsilon: float = 0.2
    epsilon_high: float | None = None
    baseline: Literal["group", "batch"] = "group"
    share: float = 1.0
    dual_clip: float | None = None
    kl: float = 0.0

    def __post_init__(self) -> None:
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ValueError(f"dual_clip is a bound on the ratio above 1, not {self.dual_clip}")
        if self.kl < 0:
            raise ValueError(f"kl is a share of the loss, 0 or more, not {self.kl}")
        if self.epsilon <= 0 or (self.epsilon_high is not None and self.epsilon_high <= 0):
            raise ValueError("epsilon and epsilon_high must be positive")
        if self.share <= 0:
            raise ValueError(f"the share of the outcome must be positive, not {self.share}; leave the term out instead")
        if self.baseline == "batch" and self.scale == "group":
            raise ValueError(
                "a mean over the batch goes with a deviation over the batch, or none; use scale batch or none"
            )


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


# ── The method ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Method:
    """One choice of each component.

    Raises:
        ValueError: the choices do not make a method; the message says which two do not go together and why.

    Example:
        >>> from sgsd.methods import build
        >>> method = build("sgsd", k=4, confidence=0.01)
        >>> method.context.teachers, method.stance.confidence, method.gate.tau
        (4, 0.01, 1.0)
    """

    name: str
    context: Context
    objective: Objective
    stance: Stance = field(default_factory=Always)
    gate: Gate = field(default_factory=NoGate)
    outcome: PolicyGradient | None = None
    weights: RetrievalSoftmax | Uniform = field(default_factory=Uniform)
    student_context: SkillPairs | None = None  # shown to the student itself while it trains
    reduce: Reduce = "rollout"
    tokens: Tokens = "teaching"
    teacher: TeacherKind = "live"
    group: int = 1  # rollouts of one problem in a step, unless the config says otherwise
    iterations: int = 1  # updates made with one step's rollouts
    on_policy: float = 1.0  # λ: the share of rollouts that are sampled, the others being reference solutions
    paper: str = ""

    def __post_init__(self) -> None:
        try:
            for component in (self.objective, self.stance, self.gate):
                component.check(self)
            self._check()
        except ValueError as error:
            raise ValueError(f"method {self.name}: {error}") from None

    def _check(self) -> None:
        if isinstance(self.weights, RetrievalSoftmax) and "bank" not in self.context.all_needs():
            raise ValueError("RetrievalSoftmax() weighs retrieved pairs; this context retrieves nothing, use Uniform()")
        if not self.has_teachers and self.teacher != "live":
            raise ValueError(f"there is no teacher to be {self.teacher}; leave it live")
        if not 0 < self.on_policy <= 1:
            raise ValueError(f"on_policy is a share in (0, 1], not {self.on_policy}")
        if self.on_policy < 1 and (not self.objective.needs_divergence or self.outcome is not None):
            raise ValueError(
                "a reference solution has no outcome of the policy's own; only a distribution matched without one goes"
                " with on_policy below 1"
            )
        if self.compares_siblings and self.group < 2:
            raise ValueError("an advantage or a context within a group needs group ≥ 2")
        if self.iterations < 1:
            raise ValueError("iterations must be at least 1")
        if self.iterations > 1 and self.outcome is None:
            raise ValueError(
                "only the clipped policy gradient corrects for rollouts of an older policy; use iterations=1"
            )

    @property
    def has_teachers(self) -> bool:
        return self.context.teachers > 0

    @property
    def retrieves(self) -> bool:
        return self.student_context is not None or "bank" in self.context.all_needs()

    @property
    def reads_tokens(self) -> bool:
        """Whether teachers' log-probs of the sampled tokens are needed."""
        return self.has_teachers and (not self.objective.needs_divergence or self.stance.needs_support)

    @property
    def compares_siblings(self) -> bool:
        """Whether a group of one would leave it without an advantage or a context."""
        by_group = self.outcome is not None and self.outcome.baseline == "group"
        return by_group or self.stance.by_group or "group" in self.context.all_needs()

    @property
    def takes_rewards(self) -> bool:
        """True where its loss holds advantages, and so the reward where a verifier gives one, not the verdict alone."""
        return self.outcome is not None or self.stance.by_group

    def part(self, kind: type[Leaf]) -> Leaf | None:
        """The first of its contexts that is exactly of this kind, the student's own not counted."""
        return next((leaf for leaf in self.context.leaves() if type(leaf) is kind), None)


RENAMED = {"direction": "objective", "inject": "student_context"}


def _with_old_names(init: Callable[..., None]) -> Callable[..., None]:
    """Reads the fields' names of before 0.2 as well, with one line that names the new."""

    @wraps(init)
    def read(self: Method, **fields: Any) -> None:
        for old in fields.keys() & RENAMED.keys():
            warnings.warn(f"Method({old}=…) is now Method({RENAMED[old]}=…)", DeprecationWarning, stacklevel=2)
            fields[RENAMED[old]] = fields.pop(old)
        init(self, **fields)

    return read


Method.__init__ = _with_old_names(Method.__init__)  # type: ignore[method-assign]
