"""What a sampler with kernels, or weights, a little off the student's costs, and how to make it good."""

from __future__ import annotations

from torch import Tensor


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
