"""What teachers make of the outcome's advantage, token by token: pure functions without gradients.

Shapes: B rollouts, K teachers, T positions. Δ [B, K, T] is 0 outside the mask, nats.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from sgsd.methods.losses import masked_mean

TINY = 1e-6  # nats; what a mean size is held above before it divides


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
