"""The objectives, as equations: tensors in, tensors out.

Shapes: B rollouts, K teachers a rollout, T completion positions, V vocabulary. All log-probabilities are natural.

    Δ_t^k = stopgrad(log p_T^k(y_t)) − log p_S(y_t)             gap of teacher k at token t
    a_k   = mean_m clip(Δ^k, ±c)                                 support of teacher k for the rollout: raw
            mean_m exp(clip(Δ^k, ±c)) − 1                          or as a ratio
            mean_m clip(Δ^k − Δ^null, ±c)                          or in contrast to a teacher with an irrelevant skill
    s_k   = sign(a_k) if |a_k| > ε else 0                        stance
    ρ_k   = r · s_k,  r ∈ {+1, −1, 0}                            polarity: validated, reversed, silent
    ℓ(Δ)  = log 2 − log(1 + exp(−Δ²/2τ))                         bounded gate
    A_t   = Σ_k w_k ρ_k σ(−Δ²/2τ) Δ/τ                            the same gradient as a per-token advantage

A run asks `Method.judge`, which is made of the pieces here. `sgsd_loss`, `sgsd_topk_loss` and `generalized_jsd` are
published equations as a whole, for loops of one's own and to be held against published numbers; a test holds the first
to the declared SGSD, bit by bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

ClipLevel = Literal["token", "vocab"]
TopOf = Literal["teacher", "student"]


@dataclass(frozen=True)
class SgsdResult:
    """What `sgsd_loss` computes: the objective and how every teacher was judged."""

    loss: Tensor  # scalar
    polarity_BK: Tensor  # −1, 0, +1
    support_BK: Tensor  # nats, at most `clip` in size
    advantages_BT: Tensor | None  # nats; None for the top-k objective, whose gradient is not one number a token


# ── The pieces ─────────────────────────────────────────────────────────────────────────────────────────────────────


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last axis where `mask` is set; 0 where it is set nowhere: Σ m·x / max(1, Σ m)."""
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)


def gaps(student_logps_BT: Tensor, teacher_logps_BKT: Tensor, mask_BT: Tensor) -> Tensor:
    """Δ_t^k = stopgrad(log p_T^k(y_t)) − log p_S(y_t), and 0 outside the mask. Returns [B, K, T], nats."""
    delta_BKT = teacher_logps_BKT.detach() - student_logps_BT[:, None, :]
    return torch.where(mask_BT[:, None, :], delta_BKT, 0.0)


def support(delta_BKT: Tensor, mask_BT: Tensor, *, clip: float) -> Tensor:
    """a_k = mean over the mask of clip(Δ^k, ±clip). Returns [B, K], nats; no gradient."""
    return masked_mean(delta_BKT.detach().clamp(-clip, clip), mask_BT[:, None, :])


def ratio_support(delta_BKT: Tensor, mask_BT: Tensor, *, clip: float) -> Tensor:
    """a_k = mean over the mask of exp(clip(Δ^k, ±clip)) − 1. Returns [B, K], a relative change; no gradient.

    On the student's own untruncated samples E[exp(Δ)] = 1, where E[Δ] = −KL(S ‖ T) ≤ 0: a teacher that knows nothing
    reads as 0 and not as "suppress". Clipping the ratio instead of Δ would bring that bias back.
    """
    return masked_mean(torch.expm1(delta_BKT.detach().clamp(-clip, clip)), mask_BT[:, None, :])


def contrast_support(delta_BKT: Tensor, null_delta_BT: Tensor, mask_BT: Tensor, *, clip: float) -> Tensor:
    """a_k = mean over the mask of clip(Δ^k − Δ^null, ±clip). Returns [B, K], nats; no gradient.

    Δ^null [B, T] is the gap of a teacher with the same template, mode and length but an irrelevant skill: what it and
    teacher k share, the bias −KL and the template included, cancels as far as both move the model alike.
    """
    return support(delta_BKT - null_delta_BT[:, None, :], mask_BT, clip=clip)


def stance(support_BK: Tensor, *, confidence: float) -> Tensor:
    """s_k = sign(a_k) where |a_k| > confidence, else 0: a teacher that hardly moved the rollout says nothing."""
    return torch.where(support_BK.abs() > confidence, support_BK.sign(), 0.0)


def gate(squared_gap: Tensor, *, tau: float) -> Tensor:
    """ℓ = log 2 − log(1 + exp(−Δ²/2τ)): quadratic near 0, bounded by log 2 far out."""
    return math.log(2) - F.softplus(-squared_gap / (2 * tau))


def gate_slope(squared_gap: Tensor, *, tau: float) -> Tensor:
    """σ(−Δ²/2τ) ∈ (0, ½]: how much of the gap the gate lets through; ∂ℓ/∂Δ = σ(−Δ²/2τ)·Δ/τ."""
    return torch.sigmoid(-squared_gap / (2 * tau))


def gated_advantages(delta_BKT: Tensor, polarity_BK: Tensor, weights_BK: Tensor, *, tau: float) -> Tensor:
    """A_t = Σ_k w_k ρ_k σ(−Δ²/2τ) Δ/τ; no gradient. Returns [B, T], nats.

    For τ = 1 one teacher contributes at most 0.393, at |Δ| ≈ 1.22.
    """
    delta_BKT = delta_BKT.detach()
    pull_BKT = gate_slope(delta_BKT.square(), tau=tau) * delta_BKT / tau
    return torch.einsum("bk,bkt->bt", weights_BK * polarity_BK, pull_BKT)


def gated_token_losses(delta_BKT: Tensor, polarity_BK: Tensor, weights_BK: Tensor, *, tau: float) -> Tensor:
    """Σ_k w_k ρ_k ℓ(Δ_t^k): what each token contributes before the mean over the mask. Returns [B, T]."""
    return torch.einsum("bk,bkt->bt", weights_BK * polarity_BK, gate(delta_BKT.square(), tau=tau))


# ── SGSD ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def sgsd_loss(
    student_logps_BT: Tensor,
    teacher_logps_BKT: Tensor,
    mask_BT: Tensor,
    weights_BK: Tensor,
    outcome_B: Tensor,
    *,
    tau: float = 1.0,
    clip: float = 3.0,
    confidence: float = 0.05,
) -> SgsdResult:
    """Skill-conditioned gated self-distillation on the sampled tokens, by itself; a run has it from `build("sgsd")`.

        Loss = mean_b Σ_k w_k ρ_k mean_m ℓ(Δ^k),    ∂Loss/∂log p_S(y_t) = −A_t m_t / (B · max(1, Σ m))

    Args:
        student_logps_BT: log p_S(y_t) under the plain prompt; the gradient flows here.
        teacher_logps_BKT: log p_T^k(y_t) under each teacher's prompt; no gradient.
        mask_BT: which tokens count; the others may hold anything.
        weights_BK: teacher weights; a row sums to 1.
        outcome_B: +1 correct, −1 incorrect, 0 unknown: that rollout teaches nothing.
        tau: width of the gate, nats².
        clip: bound on one token's share in the support, nats.
        confidence: supports at or below it take no stance, nats.

    Raises:
        ValueError: shapes that do not fit, or a bound that is not positive.

    Source: arXiv 2605.28791.
    """
    _check_shapes(student_logps_BT, teacher_logps_BKT, mask_BT, weights_BK, outcome_B)
    _check_bounds(tau, clip, confidence)
    mask_BT = mask_BT.bool()
    delta_BKT = gaps(student_logps_BT, teacher_logps_BKT, mask_BT)
    support_BK = support(delta_BKT, mask_BT, clip=clip)
    polarity_BK = outcome_B[:, None] * stance(support_BK, confidence=confidence)
    losses_BT = gated_token_losses(delta_BKT, polarity_BK, weights_BK, tau=tau)
    return SgsdResult(
        loss=masked_mean(losses_BT, mask_BT).mean(),
        polarity_BK=polarity_BK,
        support_BK=support_BK,
        advantages_BT=gated_advantages(delta_BKT, polarity_BK, weights_BK, tau=tau),
    )


def sgsd_topk_loss(
    student_logits_BTV: Tensor,
    teacher_logits_BKTV: Tensor,
    token_ids_BT: Tensor,
    mask_BT: Tensor,
    weights_BK: Tensor,
    outcome_B: Tensor,
    *,
    top_k: int,
    tau: float = 1.0,
    clip: float = 3.0,
    confidence: float = 0.05,
) -> SgsdResult:
    """SGSD on a local support: each teacher's top-k tokens and the sampled one; no run has this form.

    Both distributions are renormalised on that support, S and T; the support score is measured on them, and the
    gate closes on the divergence instead of the log-ratio:

        Loss = mean_b Σ_k w_k ρ_k mean_m [log 2 − log(1 + exp(−D²/2τ))],    D_t^k = KL(T ‖ S)

    Raises:
        ValueError: shapes that do not fit, a bound that is not positive, or top_k outside 1…V.

    Source: arXiv 2605.28791; the logits hold every vocabulary entry, so this is for short texts and for reference.
    """
    _check_bounds(tau, clip, confidence)
    if not 1 <= top_k <= teacher_logits_BKTV.shape[-1]:
        raise ValueError(f"top_k must be between 1 and the vocabulary, {teacher_logits_BKTV.shape[-1]}, not {top_k}")
    _check_shapes(student_logits_BTV[..., 0], teacher_logits_BKTV[..., 0], mask_BT, weights_BK, outcome_B)
    mask_BT = mask_BT.bool()
    teacher_logits_BKTV = teacher_logits_BKTV.detach()
    kept_BKTV = _local_support(teacher_logits_BKTV, token_ids_BT, top_k)
    student_BKTV = F.log_softmax(student_logits_BTV[:, None].masked_fill(~kept_BKTV, -math.inf), -1)
    teacher_BKTV = F.log_softmax(teacher_logits_BKTV.masked_fill(~kept_BKTV, -math.inf), -1)

    tokens_BKT1 = token_ids_BT[:, None, :, None].expand(*teacher_BKTV.shape[:-1], 1)
    gap_BKT = (teacher_BKTV - student_BKTV.detach()).gather(-1, tokens_BKT1).squeeze(-1)
    support_BK = support(torch.where(mask_BT[:, None], gap_BKT, 0.0), mask_BT, clip=clip)
    polarity_BK = outcome_B[:, None] * stance(support_BK, confidence=confidence)

    # The two −inf outside the support would make NaN; they carry no mass, so they leave before the difference.
    log_ratio_BKTV = teacher_BKTV.masked_fill(~kept_BKTV, 0.0) - student_BKTV.masked_fill(~kept_BKTV, 0.0)
    divergence_BKT = (teacher_BKTV.exp() * log_ratio_BKTV).sum(-1)
    rows_BK = masked_mean(gate(divergence_BKT.square(), tau=tau), mask_BT[:, None, :])
    return SgsdResult((weights_BK * polarity_BK * rows_BK).sum(-1).mean(), polarity_BK, support_BK, None)


def _local_support(teacher_logits_BKTV: Tensor, token_ids_BT: Tensor, top_k: int) -> Tensor:
    """Which entries stand in a teacher's top-k or are the sampled token."""
    kept = torch.zeros_like(teacher_logits_BKTV, dtype=torch.bool)
    kept.scatter_(-1, teacher_logits_BKTV.topk(top_k, -1).indices, True)
    return kept.scatter_(-1, token_ids_BT[:, None, :, None].expand(*kept.shape[:-1], 1), True)


# ── Distillation on whole distributions ────────────────────────────────────────────────────────────────────────────


def token_jsd(
    student_logits_nV: Tensor,
    teacher_logits_nV: Tensor,
    *,
    beta: float,
    temperature: float = 1.0,
    top_k: int | None = None,
    tail: bool = False,
    top_of: TopOf = "teacher",
    clip: float | None = None,
    clip_level: ClipLevel = "token",
) -> Tensor:
    """Generalised Jensen–Shannon divergence of every token; leading axes are free, the result drops V. Nats.

        M = (1−β) S + β T,    JSD_β = β KL(T ‖ M) + (1−β) KL(S ‖ M);    β = 0 is KL(T ‖ S), β = 1 is KL(S ‖ T)

    `top_k` renormalises both on the top-k entries of one of them or, with `tail`, adds the rest of each as one more
    entry, so that mass outside them counts. `clip` bounds a token's divergence from above, or, with
    `clip_level="vocab"`, each vocabulary entry's term: the published form, which can reverse a logit's gradient
    (arXiv 2609.38995). No factor T². Source: arXiv 2601.18734.
    """
    student, teacher = student_logits_nV / temperature, teacher_logits_nV.detach() / temperature
    if top_k is not None:
        kept = (teacher if top_of == "teacher" else student.detach()).topk(top_k, -1).indices
        student, teacher = (_entries(logits, kept, tail) for logits in (student, teacher))
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


def _entries(logits_nV: Tensor, kept_nk: Tensor, tail: bool) -> Tensor:
    """The kept entries and, with a tail, the logsumexp of all others as one more: softmax then gives their mass."""
    kept = logits_nV.gather(-1, kept_nk)
    if not tail:
        return kept
    others = logits_nV.scatter(-1, kept_nk, -math.inf).logsumexp(-1, keepdim=True)
    # No mass at all outside the kept entries: a floor that no float32 softmax can tell from nothing.
    return torch.cat([kept, torch.maximum(others, kept.detach().amax(-1, keepdim=True) - 80.0)], -1)


def generalized_jsd(
    student_logits_BTV: Tensor,
    teacher_logits_BTV: Tensor,
    mask_BT: Tensor,
    *,
    beta: float,
    temperature: float = 1.0,
    top_k: int | None = None,
    clip: float | None = None,
    clip_level: ClipLevel = "token",
) -> Tensor:
    """Mean of `token_jsd` over the unmasked positions, by itself; a scalar, nats. Runs ask `MatchDistribution`.

    Raises:
        ValueError: beta outside [0, 1], an unknown clip level, or a temperature, top_k or clip that is not positive.
    """
    check_jsd(beta=beta, temperature=temperature, top_k=top_k, clip=clip, clip_level=clip_level)
    values_BT = token_jsd(
        student_logits_BTV,
        teacher_logits_BTV,
        beta=beta,
        temperature=temperature,
        top_k=top_k,
        clip=clip,
        clip_level=clip_level,
    )
    return masked_mean(values_BT.flatten(), mask_BT.bool().flatten())


# ── Outcome advantages ─────────────────────────────────────────────────────────────────────────────────────────────


def group_advantages(
    outcome_B: Tensor,
    group_B: Tensor,
    *,
    scale: Literal["group", "batch", "none"] = "group",
    floor: float = 1e-4,
) -> Tensor:
    """A_b = (r_b − mean_group r) / (std + floor), over the rollouts of the group whose outcome is known. Returns [B].

    `scale` says whose standard deviation (unbiased) divides: the group's, the batch's, or nobody's. A rollout of
    unknown outcome gets 0 and counts nowhere; so does one alone in its group. Source: arXiv 2402.03300.
    """
    known_B = outcome_B != 0
    same_BB = (group_B[:, None] == group_B[None, :]) & known_B[None, :]
    count_B = same_BB.sum(-1).clamp(min=1)
    rewards_BB = torch.where(same_BB, outcome_B[None, :].float(), 0.0)
    centred_B = outcome_B.float() - rewards_BB.sum(-1) / count_B
    if scale == "none":
        return torch.where(known_B, centred_B, 0.0)
    if scale == "group":
        deviation_BB = torch.where(same_BB, rewards_BB - (rewards_BB.sum(-1) / count_B)[:, None], 0.0)
        std_B = (deviation_BB.square().sum(-1) / (count_B - 1).clamp(min=1)).sqrt()
    else:
        known = torch.where(known_B, outcome_B.float(), 0.0)
        count = known_B.sum().clamp(min=1)
        squares = torch.where(known_B, known - known.sum() / count, 0.0).square().sum()
        std_B = (squares / (count - 1).clamp(min=1)).sqrt()
    return torch.where(known_B, centred_B / (std_B + floor), 0.0)


def clipped_policy_losses(
    logps_BT: Tensor,
    old_logps_BT: Tensor,
    advantages: Tensor,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
) -> Tensor:
    """−min(q A, clip(q, 1−ε, 1+ε_high) A) with q = p_S(y_t) / p_old(y_t), token by token. Returns [B, T].

    `advantages` is [B], one a rollout, or [B, T], one a token.
    At q = 1 its gradient is −A ∂log p_S(y_t). Source: arXiv 1707.06347, 2402.03300.
    """
    ratio_BT = (logps_BT - old_logps_BT.detach()).exp()
    clipped_BT = ratio_BT.clamp(1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high))
    advantages_BT = advantages if advantages.dim() == 2 else advantages[:, None]
    return -torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)


# ── Checks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_jsd(
    *,
    beta: float,
    temperature: float,
    top_k: int | None,
    clip: float | None,
    clip_level: str,
    tail: bool = False,
    top_of: str = "teacher",
) -> None:
    """Raises ValueError unless the settings of a generalised JSD make sense."""
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must lie in [0, 1], not {beta}")
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    if tail and top_k is None:
        raise ValueError("a tail is what top_k leaves out; set top_k, or no tail")
    if clip is not None and clip <= 0:
        raise ValueError(f"clip must be positive, not {clip}")
    if top_of not in ("teacher", "student"):
        raise ValueError(f"top_of must be 'teacher' or 'student', not {top_of!r}")
    if clip_level not in ("token", "vocab"):
        raise ValueError(f"clip_level must be 'token' or 'vocab', not {clip_level!r}")


def _check_bounds(tau: float, clip: float, confidence: float) -> None:
    if tau <= 0 or clip <= 0:
        raise ValueError(f"tau and clip must be positive, not {tau} and {clip}")
    if confidence < 0:
        raise ValueError(f"confidence must not be negative, not {confidence}")


def _check_shapes(
    student_logps_BT: Tensor,
    teacher_logps_BKT: Tensor,
    mask_BT: Tensor,
    weights_BK: Tensor,
    outcome_B: Tensor,
) -> None:
    B, T = student_logps_BT.shape
    K = weights_BK.shape[-1]
    expected = {
        "teacher_logps": (teacher_logps_BKT, (B, K, T)),
        "mask": (mask_BT, (B, T)),
        "weights": (weights_BK, (B, K)),
        "outcome": (outcome_B, (B,)),
    }
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; the student's log-probs ask for {shape}")
