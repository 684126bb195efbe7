"""The tiled head in half precision: what is rounded, and what is not."""

from __future__ import annotations

import pytest
import torch
from head_cases import assert_same_with_narrow_operands, direct, gradients, problem, relative_error
from torch import Tensor

from sgsd.scorer.head import token_logps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen-head", "trained-head"])
def test_half_precision_inputs_lose_nothing_but_their_own_rounding(dtype: torch.dtype, frozen: bool) -> None:
    hidden, weight, bias_v, targets = problem(40, 32, 300, dtype=dtype)
    trains = [True, not frozen, not frozen]

    def ours(h: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return token_logps(h, w, targets, bias_V=b, token_tile=16, vocab_tile=64).logps_N

    expected, _ = direct(hidden, weight, bias_v, targets)
    logps = ours(hidden, weight, bias_v)
    assert logps.dtype == torch.float32
    assert float((logps - expected).abs().max()) <= 1e-5  # logits were not rounded to half precision
    found = gradients(ours, [hidden, weight, bias_v], trains)
    plain = gradients(lambda h, w, b: direct(h, w, b, targets)[0], [hidden, weight, bias_v], trains)
    for mine, expected_grad, wanted in zip(found, plain, trains):
        if wanted:
            assert mine is not None
            assert mine.dtype == dtype
            assert relative_error(mine, expected_grad) <= torch.finfo(dtype).eps


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen-head", "trained-head"])
def test_autocast_rounds_the_operands_and_nothing_else(frozen: bool) -> None:
    hidden, weight, bias_v, targets = problem(20, 16, 50)
    assert bias_v is not None
    trains = [True, not frozen, not frozen]
    with torch.autocast("cpu", torch.bfloat16):
        out = token_logps(hidden, weight, targets, bias_V=bias_v)
    rounded = hidden.bfloat16().float(), weight.bfloat16().float()
    expected, _ = direct(*rounded, bias_v, targets)
    assert out.logps_N.dtype == torch.float32
    assert float((out.logps_N - expected).abs().max()) <= 1e-5

    def under_autocast(h: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return token_logps(h, w, targets, bias_V=b).logps_N

    found = gradients(under_autocast, [hidden, weight, bias_v], trains)
    plain = gradients(lambda h, w, b: direct(h, w, b, targets)[0], [*rounded, bias_v], trains)
    for mine, expected_grad, wanted in zip(found, plain, trains):
        if wanted:
            assert mine is not None
            assert mine.dtype == torch.float32
            assert relative_error(mine, expected_grad) <= 1e-5


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen-head", "trained-head"])
def test_operands_that_stay_narrow_give_the_same_within_their_rounding(
    frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, bias_v, targets = problem(40, 32, 300, dtype=torch.bfloat16)

    def ours(h: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return token_logps(h, w, targets, bias_V=b, token_tile=16, vocab_tile=64).logps_N

    assert_same_with_narrow_operands(ours, [hidden, weight, bias_v], [True, not frozen, not frozen], monkeypatch)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen-head", "trained-head"])
def test_cuda_agrees_with_the_cpu(dtype: torch.dtype, frozen: bool) -> None:
    hidden, weight, bias_v, targets = problem(100, 64, 1000, dtype=dtype)
    trains = [True, not frozen, not frozen]
    results = []
    for device in ("cpu", "cuda"):
        inputs = hidden.to(device), weight.to(device), bias_v.to(device)

        def ours(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
            return token_logps(h, w, targets.to(h.device), bias_V=b, token_tile=32, vocab_tile=256).logps_N.cpu()

        results.append((ours(*inputs), gradients(ours, inputs, trains)))
    (cpu_logps, cpu_grads), (cuda_logps, cuda_grads) = results
    assert float((cpu_logps - cuda_logps).abs().max()) <= (1e-4 if dtype == torch.bfloat16 else 1e-3)
    for mine, plain, wanted in zip(cuda_grads, cpu_grads, trains):
        if wanted and mine is not None:
            assert relative_error(mine.cpu(), plain) <= 2 * torch.finfo(torch.bfloat16).eps
