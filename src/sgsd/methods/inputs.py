"""What a method is shown, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LossInputs:
    """One micro-batch of scored rollouts. B rollouts, K teachers, T positions; natural logarithms."""

    mask_BT: Tensor
    student_logps_BT: Tensor  # the gradient flows here
    old_logps_BT: Tensor  # under the policy that began this step
    outcome_B: Tensor  # +1, −1, 0
    advantages_B: Tensor  # of the outcome within its group
    weights_BK: Tensor
    teacher_logps_BKT: Tensor | None = None  # for methods on sampled tokens
    null_logps_BT: Tensor | None = None  # under the null teacher's prompt, for stances in contrast to it
    divergence_BKT: Tensor | None = None  # for methods on distributions; the gradient flows here
    entropy_BT: Tensor | None = None  # of the student; no gradient
    trust_BK: Tensor | None = None  # in the teachers' items, by the ledger, for methods that ask for it
    present_BK: Tensor | None = None  # teachers that were scored, None: all; an absent one has no gap and no weight


@dataclass(frozen=True)
class LossOutputs:
    """What a method makes of the evidence: a loss for every token, and why."""

    losses_BT: Tensor
    advantages_BT: Tensor | None = None  # −∂loss/∂log p_S(y_t), where it is one number a token
    support_BK: Tensor | None = None
    stance_BK: Tensor | None = None
    polarity_BK: Tensor | None = None
    delta_BKT: Tensor | None = None
    slope_BKT: Tensor | None = None  # what the gate lets through of what it acts on, in (0, ½]
