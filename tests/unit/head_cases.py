"""What the tests of the tiled head share: problems, plain answers, and spies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sgsd.scorer.tiles import Precision

PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm", "addmv", "addmv_", "mv"}


class Spy(TorchDispatchMode):
    """Records the largest tensor any operation returns, and the size n·k·m of every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.products: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        if func.overloadpacket.__name__ in PRODUCTS:
            left, right = [a for a in args if isinstance(a, Tensor)][-2:]
            self.products.append(left.shape[0] * left.shape[1] * (right.shape[1] if right.dim() == 2 else 1))
        return result

    def passes(self, tokens: int, hidden: int, vocabulary: int) -> float:
        """How many products of [tokens × hidden] × [hidden × vocabulary] the recorded ones add up to."""
        return sum(self.products) / (tokens * hidden * vocabulary)


def problem(
    n: int, d: int, v: int, *, seed: int = 0, dtype: torch.dtype = torch.float32, bias: bool = True
) -> tuple[Tensor, Tensor, Any, Tensor]:
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, d, generator=random).to(dtype)
    weight = (torch.randn(v, d, generator=random) * 3 / math.sqrt(d)).to(dtype)
    bias_v = torch.randn(v, generator=random).to(dtype) if bias else None
    return hidden, weight, bias_v, torch.randint(v, (n,), generator=random)


def direct(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies through whole logits, in float64."""
    logits = torch.nn.functional.linear(hidden.double(), weight.double(), None if bias is None else bias.double())
    logps = logits.log_softmax(-1)
    return logps.gather(1, targets[:, None]).squeeze(1), -(logps.exp() * logps).sum(1)


def gradients(function: Callable[..., Tensor], inputs: Sequence[Any], trains: list[bool]) -> list[Any]:
    """Gradients of a fixed weighted sum of the function's values for those inputs that train."""
    leaves = [None if t is None else t.clone().requires_grad_(flag) for t, flag in zip(inputs, trains)]
    values = function(*leaves)
    weights = torch.linspace(-1.0, 2.0, values.shape[0]).to(values.dtype)
    values.backward(weights)
    return [None if t is None else t.grad for t in leaves]


def relative_error(found: Tensor | None, expected: Tensor | None) -> float:
    assert found is not None
    assert expected is not None
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-30))


TRAINS = [
    pytest.param([True, False, False], id="frozen-head"),
    pytest.param([True, True, True], id="all"),
    pytest.param([False, True, False], id="weight-only"),
    pytest.param([True, False, True], id="bias-without-weight"),
]

SIZE = (96, 8, 512)  # tokens, hidden, vocabulary


def assert_same_with_narrow_operands(
    function: Callable[..., Tensor], inputs: Sequence[Any], trains: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Take the road that CUDA takes, on the CPU: half-precision operands, float32 results."""
    plain_values, plain_grads = function(*inputs), gradients(function, inputs, trains)
    narrow_products = 0
    mm, of = torch.mm, Precision.of

    def wide_mm(a: Tensor, b: Tensor, *, out_dtype: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:
        nonlocal narrow_products
        if out_dtype is None:
            return mm(a, b) if out is None else mm(a, b, out=out)
        assert a.dtype == b.dtype == torch.bfloat16
        narrow_products += 1
        product = mm(a.to(out_dtype), b.to(out_dtype))
        return product if out is None else out.copy_(product)

    def narrow(hidden: Tensor, weight: Tensor) -> Precision:
        precision = of(hidden, weight)
        return replace(precision, operand=precision.rounding)

    with monkeypatch.context() as patch:
        patch.setattr(Precision, "of", narrow)
        patch.setattr(torch, "mm", wide_mm)
        values, grads = function(*inputs), gradients(function, inputs, trains)
    assert narrow_products > 0
    assert float((values - plain_values).abs().max()) <= 1e-5
    for mine, plain, wanted in zip(grads, plain_grads, trains):
        if wanted:
            assert relative_error(mine, plain) <= 2 * torch.finfo(torch.bfloat16).eps
