"""Matrix products with a language-model head: their dtypes, and tiles of a plane.

Shapes: N tokens, D hidden, V vocabulary; lower case n and v are one tile of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Precision:
    """The dtypes of the numbers in one computation of the head.

    `rounding` is what the inputs are worth: their common dtype, or autocast's. `operand` is what the matrix products
    take and `total` what they, and all sums, are held in: float32, or float64 for float64 inputs. CUDA multiplies
    half-precision operands with a float32 result at full speed; elsewhere operands are widened tile by tile, so that
    logits are never rounded to half precision (at a logit of 20, bfloat16 would be off by up to 0.06 nats).
    """

    rounding: torch.dtype
    operand: torch.dtype
    total: torch.dtype

    @classmethod
    def of(cls, hidden_ND: Tensor, weight_VD: Tensor) -> Precision:
        device = hidden_ND.device.type
        rounding = torch.promote_types(hidden_ND.dtype, weight_VD.dtype)
        if rounding != torch.float64 and torch.is_autocast_enabled(device):
            rounding = torch.get_autocast_dtype(device)
        total = torch.float64 if rounding == torch.float64 else torch.float32
        return cls(rounding, rounding if device == "cuda" else total, total)

    def enter(self, tensor: Tensor) -> Tensor:
        """The tensor as an operand; the tensor itself where nothing is to be done."""
        return tensor.to(self.rounding).to(self.operand)


@dataclass(frozen=True, slots=True)
class LogitChange:
    """What a model does to a logit u of its head: z = a u, or z = c tanh(a u / c) where it has a cap."""

    factor: float = 1.0
    cap: float | None = None

    def at_temperature(self, temperature: float) -> LogitChange:
        """The change whose logits are these divided by the temperature: z/T = (c/T) tanh((a/T) u / (c/T))."""
        if temperature == 1:
            return self
        return LogitChange(self.factor / temperature, None if self.cap is None else self.cap / temperature)

    def apply_(self, logits: Tensor) -> Tensor:
        """Change them in place."""
        if self.factor != 1:
            logits.mul_(self.factor)
        return logits if self.cap is None else logits.div_(self.cap).tanh_().mul_(self.cap)

    def slope(self, logits: Tensor) -> Tensor | None:
        """∂z/∂u over the factor, from the changed logits: 1 − (z/c)²; None where it is 1 throughout."""
        return None if self.cap is None else 1 - (logits / self.cap).square()


UNCHANGED = LogitChange()


def without_autocast(like: Tensor) -> AbstractContextManager[None]:
    """Autocast off on the tensor's device: the dtypes here are chosen by `Precision`."""
    return torch.autocast(like.device.type, enabled=False)


def tiles(size: int, tile: int) -> Iterator[slice]:
    """The slices that cover `range(size)` in steps of `tile`; the last may be short."""
    return (slice(start, min(start + tile, size)) for start in range(0, size, tile))


def multiply(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """out = a @ b, accumulated in the dtype of `out`."""
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    return torch.mm(a, b, out_dtype=out.dtype, out=out)


def accumulate(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, accumulated in the dtype of `total`; `a` is rounded to b's dtype, as autograd's products are."""
    if b.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total.add_(torch.mm(a.to(b.dtype), b, out_dtype=total.dtype))


def tile_size(name: str, asked: int | None, default: int, size: int) -> int:
    """The tile to use for `size` rows: what was asked for, else the default, and never more than there is."""
    if asked is not None and asked < 1:
        raise ValueError(f"{name} is {asked}: give a positive number, or none for the default of {default}")
    return max(1, min(asked or default, size))


def check_head(hidden_name: str, hidden_ND: Tensor, weight_name: str, weight_VD: Tensor, bias_V: Tensor | None) -> None:
    """Raise ValueError unless hidden states, weight and bias make one head."""
    for name, tensor in ((hidden_name, hidden_ND), (weight_name, weight_VD)):
        if tensor.dim() != 2 or not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype} with {tensor.dim()} dimensions: give a floating point matrix")
    if hidden_ND.shape[1] != weight_VD.shape[1] or weight_VD.shape[0] == 0:
        shapes = f"{hidden_name} {list(hidden_ND.shape)} and {weight_name} {list(weight_VD.shape)}"
        raise ValueError(
            f"{shapes} do not fit: both need the same second dimension, and the vocabulary one entry or more"
        )
    if bias_V is not None and bias_V.shape != weight_VD.shape[:1]:
        raise ValueError(f"the bias of {weight_name} has shape {list(bias_V.shape)}: give [{weight_VD.shape[0]}]")
