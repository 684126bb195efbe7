"""The losses, as equations: tensors in, tensors out. A run executes these very functions.

Shapes: B rollouts, K teachers a rollout, T completion positions, V vocabulary. All logarithms are natural.

    Δ_t^k = stopgrad(log p_T^k(y_t)) − log p_S(y_t)             gap of teacher k at token t
    a_k   = mean_m clip(Δ^k, ±c)                                 support of teacher k for the rollout
    s_k   = sign(a_k) if |a_k| > ε else 0                        stance
    ρ_k   = r · s_k,  r ∈ {+1, −1, 0}                            polarity: validated, reversed, neutral
    ℓ(Δ)  = log 2 − log(1 + exp(−Δ²/2τ))                         bounded gate
    loss_t = Σ_k w_k ρ_k ℓ(Δ_t^k)                                 SGSD
    A_t   = Σ_k w_k ρ_k σ(−Δ²/2τ) Δ/τ                            the same gradient as a per-token advantage
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from sgsd.methods.averages import check_shape, masked_mean
from sgsd.methods.gates import Bounded
from sgsd.methods.method import ClipLevel, Gate, LossInputs, LossOutputs, Method, Stance, TopOf
from sgsd.methods.stances import VerifiedSupport

# ── Teachers' terms ────────────────────────────────────────────────────────────────────────────────────────────────


def sgsd_token_losses(inputs: LossInputs, *, stance: Stance, gate: Gate) -> LossOutputs:
    """SGSD, the loss of every token: gap → support → stance → polarity → gate → Σ_k w_k c_k ℓ(Δ_t^k).

    Where a divergence is matched, the gate acts on it in the gap's place, and there are no advantages.
    """
    gap_BKT = gaps(inputs)  # Δ_t^k
    support_BK = stance.support(gap_BKT, inputs.mask_BT, null_gaps(inputs))  # a_k
    if inputs.present_BK is not None:
        support_BK = torch.where(inputs.present_BK, support_BK, 0.0)
    stance_BK = torch.where(support_BK.abs() > stance.confidence, support_BK.sign(), 0.0)  # s_k
    polarity_BK = inputs.outcome_B[:, None] * stance_BK  # ρ_k = r s_k
    # w_k c_k. As published c_k = ρ_k; a stance may take the advantage, or what all rollouts so far say, in its place.
    coefficient_BK = inputs.weights_BK * stance.coefficients(inputs, stance_BK, polarity_BK)
    gated_BKT = gap_BKT if inputs.divergence_BKT is None else inputs.divergence_BKT
    return LossOutputs(
        losses_BT=sum_teachers(coefficient_BK, gate.loss(gated_BKT)),  # Σ_k w_k c_k ℓ(Δ_t^k)
        advantages_BT=None if gated_BKT is not gap_BKT else sum_teachers(coefficient_BK, gate.grad(gap_BKT.detach())),
        support_BK=support_BK,
        stance_BK=stance_BK,
        polarity_BK=polarity_BK,
        delta_BKT=gap_BKT.detach(),
        gate_BKT=gate.kept(gated_BKT.detach()),
    )


def imitation_token_losses(inputs: LossInputs, *, stance: Stance, gate: Gate) -> LossOutputs:
    """Σ_k w_k c_k ℓ(Δ_t^k), or of the divergence, for stances that ask for no support: c_k is 1, or 1 on successes."""
    coefficient_BK = inputs.weights_BK * stance.coefficients(inputs)
    if inputs.divergence_BKT is None:
        gap_BKT = gaps(inputs)
        return LossOutputs(
            losses_BT=sum_teachers(coefficient_BK, gate.loss(gap_BKT)),
            advantages_BT=sum_teachers(coefficient_BK, gate.grad(gap_BKT.detach())),
            delta_BKT=gap_BKT.detach(),
            gate_BKT=gate.kept(gap_BKT.detach()),
        )
    if not gate.closes:
        return LossOutputs(sum_teachers(coefficient_BK, inputs.divergence_BKT))
    losses_BT = sum_teachers(coefficient_BK, gate.loss(inputs.divergence_BKT))
    return LossOutputs(losses_BT, gate_BKT=gate.kept(inputs.divergence_BKT.detach()))


def gaps(inputs: LossInputs) -> Tensor:
    """Δ_t^k = stopgrad(log p_T^k(y_t)) − log p_S(y_t), and 0 outside the mask. Returns [B, K, T], nats."""
    if inputs.local_gap_BKT is not None:
        here_BKT = inputs.mask_BT[:, None, :]
        if inputs.present_BK is not None:
            here_BKT = here_BKT & inputs.present_BK[:, :, None]
        return torch.where(here_BKT, inputs.local_gap_BKT, 0.0)
    assert inputs.teacher_logps_BKT is not None
    return token_gaps(inputs.student_logps_BT, inputs.teacher_logps_BKT, inputs.mask_BT)


def null_gaps(inputs: LossInputs) -> Tensor | None:
    """Δ^null [B, T]: the gap of a teacher with the same template, mode and length, but an irrelevant skill."""
    if inputs.null_logps_BT is None:
        return None
    return token_gaps(inputs.student_logps_BT, inputs.null_logps_BT[:, None], inputs.mask_BT)[:, 0]


def token_gaps(student_logps_BT: Tensor, teacher_logps_BKT: Tensor, mask_BT: Tensor) -> Tensor:
    """stopgrad(log p_T^k(y_t)) − log p_S(y_t), and 0 outside the mask. Returns [B, K, T], nats."""
    delta_BKT = teacher_logps_BKT.detach() - student_logps_BT[:, None, :]
    return torch.where(mask_BT[:, None, :], delta_BKT, 0.0)


def sum_teachers(coefficient_BK: Tensor, values_BKT: Tensor) -> Tensor:
    """Σ_k c_k x_t^k: a pool's teachers as one. Returns [B, T]."""
    return torch.einsum("bk,bkt->bt", coefficient_BK, values_BKT)


def sgsd_loss(
    *,
    student_logps_BT: Tensor,
    teacher_logps_BKT: Tensor,
    mask_BT: Tensor,
    weights_BK: Tensor,
    outcome_B: Tensor,
    tau: float = 1.0,
    clip: float = 3.0,
    confidence: float = 0.05,
) -> tuple[Tensor, LossOutputs]:
    """Skill-conditioned gated self-distillation on the sampled tokens.

        Loss = mean_b Σ_k w_k ρ_k mean_m ℓ(Δ^k),    ∂Loss/∂log p_S(y_t) = −A_t m_t / (B · max(1, Σ m))

    The equation is `sgsd_token_losses`, which a run of method `sgsd` executes; this adds the mean.

    Args:
        student_logps_BT: log p_S(y_t) under the plain prompt, [B, T], nats; the gradient flows here.
        teacher_logps_BKT: log p_T^k(y_t) under each teacher's prompt, [B, K, T], nats; no gradient.
        mask_BT: the tokens that count, [B, T]; the others may hold anything.
        weights_BK: weights of the teachers, [B, K]; a row sums to 1.
        outcome_B: +1 correct, −1 incorrect, 0 unknown (that rollout teaches nothing), [B].
        tau: width of the gate, nats².
        clip: bound on one token's share in the support, nats.
        confidence: supports at or below it take no stance, nats.

    Returns:
        The loss, a scalar, and its parts [B, T], [B, K] and [B, K, T]: see `LossOutputs`.

    Raises:
        ValueError: a tensor whose shape does not fit, by its name, or a bound that is not positive.

    Example:
        >>> import torch
        >>> student, teachers = torch.tensor([[-1.0, -2.0]]), torch.tensor([[[-0.5, -1.0], [-1.5, -2.5]]])
        >>> mask, weights, correct = torch.ones(1, 2), torch.full((1, 2), 0.5), torch.ones(1)
        >>> loss, outputs = sgsd_loss(student_logps_BT=student, teacher_logps_BKT=teachers, mask_BT=mask,
        ...                           weights_BK=weights, outcome_B=correct)
        >>> outputs.polarity_BK.tolist()
        [[1.0, -1.0]]

    Source: arXiv 2605.28791.
    """
    B, T = check_shape("student_logps_BT", student_logps_BT, (None, None))
    K = check_shape("teacher_logps_BKT", teacher_logps_BKT, (B, None, T))[1]
    check_shape("weights_BK", weights_BK, (B, K))
    check_shape("mask_BT", mask_BT, (B, T))
    check_shape("outcome_B", outcome_B, (B,))
    inputs = LossInputs(
        mask_BT=mask_BT.bool(),
        student_logps_BT=student_logps_BT,
        old_logps_BT=student_logps_BT.detach(),
        outcome_B=outcome_B,
        advantages_B=torch.zeros_like(student_logps_BT[:, 0]),
        weights_BK=weights_BK,
        teacher_logps_BKT=teacher_logps_BKT,
    )
    outputs = sgsd_token_losses(inputs, stance=VerifiedSupport(clip, confidence), gate=Bounded(tau))
    return masked_mean(outputs.losses_BT, inputs.mask_BT).mean(), outputs


# ── Whole distributions ────────────────────────────────────────────────────────────────────────────────────────────


def generalized_jsd(
    *,
    student_logits: Tensor,
    teacher_logits: Tensor,
    beta: float,
    temperature: float = 1.0,
    top_k: int | None = None,
    tail: bool = False,
    top_of: TopOf = "teacher",
    sampled: Tensor | None = None,
    clip: float | None = None,
    clip_level: ClipLevel = "token",
) -> Tensor:
    """Generalised Jensen–Shannon divergence of every token's two distributions.

        M = (1−β) S + β T,    JSD_β = β KL(T ‖ M) + (1−β) KL(S ‖ M);    β = 0 is KL(T ‖ S), β = 1 is KL(S ‖ T)

    Args:
        student_logits: [..., V], leading axes are free; the gradient flows here.
        teacher_logits: the same shape; no gradient.
        beta: from 0 to 1.
        temperature: divides both logits; there is no factor T².
        top_k: both are renormalised on this many likeliest entries of one of them; None: all entries.
        tail: the rest of each counts as one more entry, so that mass outside the top k is not lost.
        top_of: whose top k, "teacher" or "student".
        sampled: ids [...] of tokens that are kept beside the top k.
        clip: bound on a token's divergence from above, nats.
        clip_level: "token", or "vocab": each entry's term, as published, which can turn a gradient (arXiv 2609.38995).

    Returns:
        The divergences, [...] without V, nats.

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> import torch
        >>> flat, sure = torch.zeros(1, 2), torch.tensor([[0.0, 100.0]])
        >>> generalized_jsd(student_logits=flat, teacher_logits=sure, beta=0.0)  # log 2
        tensor([0.6931])

    Source: arXiv 2601.18734.
    """
    check_shape("teacher_logits", teacher_logits, student_logits.shape)
    student, teacher = student_logits / temperature, teacher_logits.detach() / temperature
    if top_k is not None:
        kept = (teacher if top_of == "teacher" else student.detach()).topk(top_k, -1).indices
        student, teacher = (_entries(logits, kept, tail, sampled) for logits in (student, teacher))
    log_s, log_t = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
    if beta == 0:
        terms = log_t.exp() * (log_t - log_s)
    elif beta == 1:
        terms = log_s.exp() * (log_s - log_t)
    else:
        log_m = torch.logaddexp(log_s + math.log1p(-beta), log_t + math.log(beta))
        terms = beta * log_t.exp() * (log_t - log_m) + (1 - beta) * log_s.exp() * (log_s - log_m)
    if clip is not None and clip_level == "vocab":
        terms = terms.clamp(max=clip)
    values = terms.sum(-1)
    return values.clamp(max=clip) if clip is not None and clip_level == "token" else values


def local_gaps(
    *, student_logits: Tensor, teacher_logits: Tensor, sampled: Tensor, top_k: int, top_of: TopOf = "teacher"
) -> Tensor:
    """log T(y) − log S(y) of the sampled token, T and S renormalised on the top k and that token; no gradient. [...]"""
    student, teacher = student_logits.detach(), teacher_logits.detach()
    kept = (teacher if top_of == "teacher" else student).topk(top_k, -1).indices
    log_s, log_t = (F.log_softmax(_entries(logits, kept, False, sampled), -1)[..., -1] for logits in (student, teacher))
    return log_t - log_s


def _entries(logits_nV: Tensor, kept_nk: Tensor, tail: bool, sampled_n: Tensor | None) -> Tensor:
    """The kept entries, and as one more the sampled token's or, with a tail, the logsumexp of all others."""
    kept = logits_nV.gather(-1, kept_nk)
    if not tail and sampled_n is None:
        return kept
    nothing = kept.detach().amax(-1, keepdim=True) - 80.0  # a logit that no float32 softmax can tell from no mass
    if sampled_n is None:
        others = logits_nV.scatter(-1, kept_nk, -math.inf).logsumexp(-1, keepdim=True)
        return torch.cat([kept, torch.maximum(others, nothing)], -1)
    # The sampled token stands last; where it is one of the top k as well, it counts once.
    kept = torch.where(kept_nk == sampled_n[..., None], nothing, kept)
    return torch.cat([kept, logits_nV.gather(-1, sampled_n[..., None])], -1)


# ── Policy gradients ──────────────────────────────────────────────────────────────────────────────────────────────────


def clipped_policy_losses(
    *,
    logps_BT: Tensor,
    old_logps_BT: Tensor,
    advantages_BT: Tensor,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    dual_clip: float | None = None,
) -> Tensor:
    """PPO's loss of every token: −min(q A, clip(q, 1−ε, 1+ε_high) A) with q = p_S(y_t) / p_old(y_t).

    Args:
        logps_BT: log p_S(y_t), [B, T], nats; the gradient flows here. At q = 1 it is −A ∂log p_S(y_t).
        old_logps_BT: the same under the policy that sampled, [B, T]; no gradient.
        advantages_BT: A_t, [B, T], or [B, 1] where all tokens of a rollout have one.
        epsilon: how far the ratio may fall below 1, and rise above it.
        epsilon_high: how far it may rise above 1, where that is another bound.
        dual_clip: c > 1, for A < 0 at most −c A: a token that has become much likelier than it was when sampled does
            not outweigh all others (arXiv 1912.09729).

    Returns:
        [B, T].

    Raises:
        ValueError: a tensor whose shape does not fit, by its name.

    Example:
        >>> import torch
        >>> logps, A = torch.tensor([[-1.0, -1.0]]), torch.tensor([[2.0, -2.0]])
        >>> clipped_policy_losses(logps_BT=logps, old_logps_BT=logps - 1, advantages_BT=A)
        tensor([[-2.4000,  5.4366]])

    Source: arXiv 1707.06347, 2402.03300.
    """
    B, T = check_shape("logps_BT", logps_BT, (None, None))
    check_shape("old_logps_BT", old_logps_BT, (B, T))
    check_shape("advantages_BT", advantages_BT, (B, 1) if advantages_BT.shape[-1:] == (1,) else (B, T))
    ratio_BT = (logps_BT - old_logps_BT.detach()).exp()
    clipped_BT = ratio_BT.clamp(1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high))
    gain_BT = torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)
    if dual_clip is not None:
        gain_BT = torch.where(advantages_BT < 0, torch.maximum(gain_BT, dual_clip * advantages_BT), gain_BT)
    return -gain_BT


def policy_losses(inputs: LossInputs, method: Method, advantages_BT: Tensor) -> Tensor:
    """The clipped policy gradient as the method's outcome declares it. Returns [B, T]."""
    assert method.outcome is not None
    return clipped_policy_losses(
        logps_BT=inputs.student_logps_BT,
        old_logps_BT=inputs.old_logps_BT,
        advantages_BT=advantages_BT,
        epsilon=method.outcome.epsilon,
        epsilon_high=method.outcome.epsilon_high,
        dual_clip=method.outcome.dual_clip,
    )


def outcome_token_losses(inputs: LossInputs, method: Method) -> LossOutputs:
    """The policy gradient of the outcome alone: all tokens of a rollout have its advantage."""
    advantages_BT = inputs.advantages_B[:, None].expand_as(inputs.student_logps_BT)
    losses_BT = policy_losses(inputs, method, advantages_BT)
    if method.outcome is not None and method.outcome.kl:
        gap_BT = gaps(inputs)[:, 0]  # log p_ref − log p_S
        losses_BT = losses_BT + method.outcome.kl * (gap_BT.exp() - gap_BT - 1)
    return LossOutputs(losses_BT, advantages_BT)


def with_outcome(outputs: LossOutputs, inputs: LossInputs, method: Method) -> LossOutputs:
    """The teachers' term and, where the method follows the outcome as well, the outcome's."""
    if method.outcome is None:
        return outputs
    ours, theirs = outcome_token_losses(inputs, method), outputs.advantages_BT
    advantages_BT = None if theirs is None or ours.advantages_BT is None else theirs + ours.advantages_BT
    return replace(outputs, losses_BT=outputs.losses_BT + ours.losses_BT, advantages_BT=advantages_BT)


# ── The sampler ────────────────────────────────────────────────────────────────────────────────────────────────────


def importance_weights(logps_BT: Tensor, sampler_logps_BT: Tensor, *, cap: float) -> Tensor:
    """w_t = min(p_S(y_t) / p_sampler(y_t), cap), token by token; no gradient. Returns [B, T], without a unit.

    Tokens were drawn from the sampler's law and not quite from the student's: weighed so, and where the cap does not
    cut, the gradient's mean is again the student's. Both log-probabilities are the models' own, at temperature 1.

    Raises:
        ValueError: a cap that is not positive.

    Source: Yao et al., On the Rollout-Training Mismatch in Modern RL Systems, 2025 (TIS).
    """
    if cap <= 0:
        raise ValueError(f"cap must be positive, not {cap}")
    return (logps_BT - sampler_logps_BT).detach().exp().clamp(max=cap)
