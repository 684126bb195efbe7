"""Advantages: of the outcome within its group, and what teachers make of them token by token. No gradients.

Shapes: B rollouts, K teachers, T positions. Δ [B, K, T] is 0 outside the mask, nats.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from sgsd.methods.averages import check_shape, masked_mean
from sgsd.methods.method import Method

TINY = 1e-6  # nats; what a mean size is held above before it divides


def outcome_advantages(method: Method, outcome_B: Tensor, group_B: Tensor, known_B: Tensor | None = None) -> Tensor:
    """A_b of the whole step's rollouts; within groups where only the stance asks for one; else 0. Returns [B]."""
    term = method.outcome
    if term is not None:
        groups_B = torch.zeros_like(group_B) if term.baseline == "batch" else group_B
        return term.share * group_advantages(outcome_B=outcome_B, group_B=groups_B, scale=term.scale, known_B=known_B)
    if method.compares_siblings:
        return group_advantages(outcome_B=outcome_B, group_B=group_B, known_B=known_B)
    return torch.zeros_like(outcome_B, dtype=torch.float32)


def group_advantages(
    *,
    outcome_B: Tensor,
    group_B: Tensor,
    scale: Literal["group", "batch", "none"] = "group",
    floor: float = 1e-4,
    known_B: Tensor | None = None,
) -> Tensor:
    """GRPO's advantages: A_b = (r_b − mean_group r) / (std + floor), over rollouts whose outcome is known.

    Args:
        outcome_B: +1, −1, or 0 where it is unknown, [B]; such a rollout gets 0 and counts nowhere. Or a reward on the
            same scale, 2 · reward − 1, with `known_B`.
        group_B: the number of each rollout's group, [B]; one alone in its group gets 0.
        scale: whose standard deviation (unbiased) divides: "group", "batch" or "none".
        floor: added to it.
        known_B: which outcomes are known, [B]; None: those that are not 0.

    Returns:
        [B], in deviations, or in outcomes with scale "none".

    Raises:
        ValueError: a tensor whose shape does not fit, by its name.

    Example:
        >>> import torch
        >>> group_advantages(outcome_B=torch.tensor([1.0, -1.0]), group_B=torch.tensor([0, 0]), scale="none")
        tensor([ 1., -1.])

    Source: arXiv 2402.03300.
    """
    check_shape("group_B", group_B, check_shape("outcome_B", outcome_B, (None,)))
    known_B = outcome_B != 0 if known_B is None else known_B
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


# ── What teachers make of the outcome's advantage ──────────────────────────────────────────────────────────────────


def entropy_routed(gap_BT: Tensor, entropy_BT: Tensor, mask_BT: Tensor, *, quantile: float) -> Tensor:
    """ω_t δ̄_t [B, T]: towards the teacher where the student's entropy is low, away from it where it is high.

        δ̄_t = Δ_t / mean_m |Δ|,    ω_t = tanh((τ_ρ − H_t) / σ_H) · σ(|δ̄_t| − 1)

    τ_ρ is the rollout's `quantile` of H over the mask and σ_H = mean_m |H − mean_m H|; a rollout whose entropy never
    varies has no direction and gets 0. Source: arXiv 2605.22263; which end of the quantile, and the normalisation of
    Δ, are not public.
    """
    gap_BT, entropy_BT = gap_BT.detach(), entropy_BT.detach()
    size_B1 = masked_mean(gap_BT.abs(), mask_BT)[:, None]
    scaled_BT = gap_BT / size_B1.clamp(min=TINY)
    spread_B1 = masked_mean((entropy_BT - masked_mean(entropy_BT, mask_BT)[:, None]).abs(), mask_BT)[:, None]
    threshold_B1 = masked_quantile(entropy_BT, mask_BT, quantile)[:, None]
    side_BT = torch.tanh((threshold_B1 - entropy_BT) / spread_B1.clamp(min=TINY))
    routed_BT = side_BT * torch.sigmoid(scaled_BT.abs() - 1) * scaled_BT
    return torch.where(mask_BT & (spread_B1 > TINY) & (size_B1 > TINY), routed_BT, 0.0)


def masked_quantile(values_BT: Tensor, mask_BT: Tensor, quantile: float) -> Tensor:
    """The linear-interpolated quantile of each row's unmasked values; 0 where there are none. Returns [B]."""
    rows = [row[mask] for row, mask in zip(values_BT, mask_BT)]
    return torch.stack([row.quantile(quantile) if len(row) else row.new_zeros(()) for row in rows])


def hint_contrast(delta_BKT: Tensor, present_BK: Tensor | None = None) -> Tensor:
    """c_t = log p_T^right(y_t) − log (1/n) Σ_wrong p_T^wrong(y_t), the right one being teacher 0. Returns [B, T].

    The n wrong ones are those that are present; 0 where the right one is not, or none of the wrong. In gaps the
    student cancels, so what any hint does to the style cancels too. Source: arXiv 2606.11709.
    """
    delta_BKT = delta_BKT.detach()
    here_BK = torch.ones_like(delta_BKT[..., 0]).bool() if present_BK is None else present_BK
    wrong_BKT = delta_BKT[:, 1:].masked_fill(~here_BK[:, 1:, None], -math.inf)
    count_B = here_BK[:, 1:].sum(-1)
    contrast_BT = delta_BKT[:, 0] - (wrong_BKT.logsumexp(1) - count_B.clamp(min=1).log()[:, None])
    return torch.where((here_BK[:, 0] & (count_B > 0))[:, None], contrast_BT, 0.0)


def gap_weights(gap_BT: Tensor, advantages_B: Tensor, *, sign: Literal["+", "-"], low: float, high: float) -> Tensor:
    """clip((p_T/p_S)^{± sign A}, low, high) [B, T]. Sources: arXiv 2604.03128 ("+"), arXiv 2605.10781 ("−")."""
    exponent_B1 = advantages_B.sign()[:, None] * (1.0 if sign == "+" else -1.0)
    return torch.exp((exponent_B1 * gap_BT.detach()).clamp(max=math.log(high))).clamp(min=low)


def held_to_sign(advantages_B1: Tensor, added_BT: Tensor) -> Tensor:
    """A + x where that keeps the sign of A, 0 where it would turn it, so that the verifier has the last word."""
    total_BT = advantages_B1 + added_BT
    return torch.where(total_BT * advantages_B1.sign() > 0, total_BT, 0.0)
