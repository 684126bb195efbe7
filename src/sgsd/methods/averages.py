"""Means over the tokens that count: of one rollout, and of a whole step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sgsd.methods.method import Reduce

if TYPE_CHECKING:
    from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last axis where `mask` is set; 0 where it is set nowhere: Σ m·x / max(1, Σ m)."""
    return values.where(mask, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)


def token_weights(mask_BT: Tensor, reduce: Reduce, *, rollouts: int, tokens: int, max_tokens: int) -> Tensor:
    """The share of each token in the step's loss, Σ share · loss; micro-batches of a step simply add up.

        rollout: m / (B · max(1, Σ_t m))        token: m / Σ_bt m        fixed: m / (B · max_tokens)

    `rollouts` and `tokens` count the whole step over all processes. Returns [B, T].
    """
    mask = mask_BT.float()
    if reduce == "rollout":
        return mask / (rollouts * mask.sum(-1, keepdim=True).clamp(min=1))
    return mask / (max(1, tokens) if reduce == "token" else rollouts * max_tokens)


def check_shape(name: str, tensor: Tensor, shape: Sequence[int | None]) -> Sequence[int]:
    """The tensor's shape. Raises ValueError, by the argument's name, where it is another; None is any size."""
    found, letters = list(tensor.shape), ", ".join(name.rpartition("_")[2])
    if len(found) != len(shape) or any(size not in (None, have) for size, have in zip(shape, found)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {found}; it has to be [{letters}] = [{wanted}]")
    return found
