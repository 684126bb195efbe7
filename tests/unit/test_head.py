"""The tiled head against the plain one, and what it must never do: hold logits, or multiply once too often."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from head_cases import (
    SIZE,
    TRAINS,
    Spy,
    direct,
    gradients,
    problem,
    relative_error,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sgsd.scorer.head import token_logps
from sgsd.scorer.tiles import LogitChange


@pytest.mark.parametrize("trains", TRAINS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_values_and_gradients_equal_those_of_full_logits(trains: list[bool], bias: bool) -> None:
    hidden, weight, bias_v, targets = problem(37, 16, 101, bias=bias)
    targets[5:9] = targets[4]  # several tokens push the same row of the weight
    trains = [trains[0], trains[1], trains[2] and bias]

    def ours(h: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return token_logps(h, w, targets, bias_V=b, token_tile=8, vocab_tile=16).logps_N

    expected_logps, _ = direct(hidden, weight, bias_v, targets)
    assert ours(hidden, weight, bias_v).dtype == torch.float32
    assert float((ours(hidden, weight, bias_v) - expected_logps).abs().max()) <= 1e-5
    found = gradients(ours, [hidden, weight, bias_v], trains)
    expected = gradients(lambda h, w, b: direct(h, w, b, targets)[0], [hidden, weight, bias_v], trains)
    for mine, plain, wanted in zip(found, expected, trains):
        if wanted:
            assert mine is not None
            assert mine.dtype == torch.float32
            assert relative_error(mine, plain) <= 1e-5
        else:
            assert mine is None


@pytest.mark.parametrize("trains", TRAINS)
@pytest.mark.parametrize(
    "change", [LogitChange(0.125), LogitChange(1.0, 2.5), LogitChange(-3.0, 1.5)], ids=["factor", "cap", "both"]
)
def test_what_a_model_does_to_its_logits_is_in_values_entropies_and_gradients(
    change: LogitChange, trains: list[bool]
) -> None:
    hidden, weight, bias_v, targets = problem(37, 16, 101)
    targets[5:9] = targets[4]

    def ours(h: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return token_logps(h, w, targets, bias_V=b, change=change, token_tile=8, vocab_tile=16).logps_N

    def plain(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        z = change.factor * torch.nn.functional.linear(h.double(), w.double(), b.double())
        z = z if change.cap is None else change.cap * torch.tanh(z / change.cap)
        return z.log_softmax(-1)

    expected = plain(hidden, weight, bias_v)
    unchanged, _ = direct(hidden, weight, bias_v, targets)
    chosen = expected.gather(1, targets[:, None])[:, 0]
    assert (unchanged - chosen).abs().max() > 0.5  # it does something
    found = token_logps(hidden, weight, targets, bias_V=bias_v, change=change, entropy=True, vocab_tile=16)
    assert found.entropy_N is not None
    assert float((found.logps_N - chosen).abs().max()) <= 1e-5
    assert float((found.entropy_N + (expected.exp() * expected).sum(1)).abs().max()) <= 1e-5
    mine = gradients(ours, (hidden, weight, bias_v), trains)
    wanted = gradients(lambda *o: plain(*o).gather(1, targets[:, None])[:, 0], (hidden, weight, bias_v), trains)
    for ours_grad, plain_grad, wants in zip(mine, wanted, trains):
        if wants:
            assert relative_error(ours_grad, plain_grad) <= 1e-5


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen-head", "trained-head"])
def test_gradcheck_in_double_precision(frozen: bool) -> None:
    hidden, weight, bias_v, targets = problem(5, 3, 7, dtype=torch.float64)
    hidden.requires_grad_()
    if not frozen:
        weight.requires_grad_()
        bias_v = bias_v.requires_grad_() if bias_v is not None else None

    def logps(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return token_logps(h, w, targets, bias_V=b, token_tile=2, vocab_tile=3).logps_N

    assert logps(hidden, weight, bias_v).dtype == torch.float64
    assert torch.autograd.gradcheck(logps, (hidden, weight, bias_v))


def test_a_second_backward_is_refused() -> None:
    hidden, weight, _, targets = problem(4, 3, 5)
    logps = token_logps(hidden.requires_grad_(), weight, targets).logps_N
    (gradient,) = torch.autograd.grad(logps.square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_entropy_equals_the_direct_one_and_carries_no_gradient() -> None:
    hidden, weight, bias_v, targets = problem(33, 8, 90)
    _, expected = direct(hidden, weight, bias_v, targets)
    for grad in (False, True):
        out = token_logps(
            hidden.requires_grad_(grad), weight, targets, bias_V=bias_v, entropy=True, token_tile=10, vocab_tile=13
        )
        assert out.entropy_N is not None
        assert not out.entropy_N.requires_grad
        assert float((out.entropy_N - expected).abs().max()) <= 1e-5
    out.logps_N.sum().backward()
    assert token_logps(hidden, weight, targets).entropy_N is None


def everything(trained: bool, inputs: tuple[Tensor, Tensor, Tensor, Tensor], **tile: int) -> list[Tensor]:
    """Values, entropies and gradients, each divided by its largest entry or 1."""
    hidden, weight, bias_v, targets = inputs
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_(trained)
    out = token_logps(hidden, weight, targets, bias_V=bias_v, entropy=True, **tile)
    out.logps_N.sum().backward()
    found = (out.logps_N.detach(), out.entropy_N, hidden.grad, weight.grad)
    return [tensor / tensor.abs().max().clamp(min=1) for tensor in found if tensor is not None]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 20),
    d=st.integers(1, 9),
    v=st.integers(1, 40),
    token_tile=st.integers(1, 24),
    vocab_tile=st.integers(1, 48),
    trained=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_tiles_of_every_size_give_the_same(
    n: int, d: int, v: int, token_tile: int, vocab_tile: int, trained: bool, seed: int
) -> None:
    # Float64: a mistake in the bookkeeping shows at any precision, and rounding then cannot be mistaken for one.
    inputs = problem(n, d, v, seed=seed, dtype=torch.float64)
    whole = everything(trained, inputs, token_tile=n, vocab_tile=v)
    for one, other in zip(whole, everything(trained, inputs, token_tile=token_tile, vocab_tile=vocab_tile)):
        assert float((one - other).abs().max()) <= 1e-12
    found = token_logps(inputs[0], inputs[1], inputs[3], bias_V=inputs[2], token_tile=token_tile, vocab_tile=vocab_tile)
    assert float((found.logps_N - direct(*inputs)[0]).abs().max()) <= 1e-12 * max(1.0, float(found.logps_N.abs().max()))


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("tile", [(1, 300), (70, 16), (1, 32), (7, 50), (64, 128)])
def test_tiles_give_the_same_in_float32(tile: tuple[int, int], trained: bool) -> None:
    hidden, weight, bias_v, targets = problem(70, 8, 300)
    inputs = hidden, weight / 3, bias_v, targets  # logits of a few units: their own rounding stays below the bound
    whole = everything(trained, inputs, token_tile=70, vocab_tile=300)
    for one, other in zip(whole, everything(trained, inputs, token_tile=tile[0], vocab_tile=tile[1])):
        assert float((one - other).abs().max()) <= 1e-6


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_logits_stay_finite_and_right(scale: float) -> None:
    # Exactly representable numbers, so that the two ways have the same logits and only the stability is tested.
    weight = torch.tensor([[1.0], [-1.0], [0.5], [0.0], [1.0]])
    hidden = torch.full((5, 1), scale).requires_grad_()
    targets = torch.arange(5)
    out = token_logps(hidden, weight, targets, entropy=True, vocab_tile=2)
    expected_logps, expected_entropy = direct(hidden.detach(), weight, None, targets)
    torch.testing.assert_close(out.logps_N.double(), expected_logps, rtol=1e-6, atol=1e-6)
    assert out.entropy_N is not None
    torch.testing.assert_close(out.entropy_N.double(), expected_entropy, rtol=1e-6, atol=1e-6)
    out.logps_N.sum().backward()
    assert hidden.grad is not None
    assert bool(hidden.grad.isfinite().all())


def test_log_probabilities_are_never_positive() -> None:
    hidden, weight, _, _ = problem(64, 32, 200)
    hidden, weight = hidden * 300, weight * 300  # logits of some 1e5: the largest has all the mass
    targets = (hidden @ weight.t()).argmax(1)
    logps = token_logps(hidden, weight, targets, token_tile=7, vocab_tile=9).logps_N
    assert float(logps.max()) <= 0
    assert float(logps.min()) > -1e-3


def test_a_bias_of_minus_infinity_masks_whole_tiles() -> None:
    hidden, weight, bias_v, targets = problem(6, 4, 12)
    assert bias_v is not None
    bias_v[:5] = -torch.inf
    targets = targets.clamp(min=5)
    hidden.requires_grad_()
    out = token_logps(hidden, weight, targets, bias_V=bias_v, entropy=True, vocab_tile=2)
    expected_logps, expected_entropy = direct(hidden.detach(), weight[5:], bias_v[5:], targets - 5)
    torch.testing.assert_close(out.logps_N.double(), expected_logps, rtol=1e-5, atol=1e-5)
    assert out.entropy_N is not None
    torch.testing.assert_close(out.entropy_N.double(), expected_entropy, rtol=1e-5, atol=1e-5)
    out.logps_N.sum().backward()
    assert hidden.grad is not None
    assert bool(hidden.grad.isfinite().all())


def test_no_tokens() -> None:
    hidden, weight, bias_v, targets = problem(0, 4, 6)
    out = token_logps(hidden, weight, targets, entropy=True)
    assert out.logps_N.shape == (0,)
    assert out.entropy_N is not None
    assert out.entropy_N.shape == (0,)
    for frozen in (True, False):
        found = gradients(
            lambda h, w, b: token_logps(h, w, targets, bias_V=b).logps_N,
            [hidden, weight, bias_v],
            [True, not frozen, not frozen],
        )
        assert found[0] is not None
        assert found[0].shape == (0, 4)
        if not frozen:
            assert found[1] is not None
            assert float(found[1].abs().sum()) == 0


@pytest.mark.parametrize("wrong", [-1, 50])
def test_a_target_outside_the_vocabulary_is_named(wrong: int) -> None:
    hidden, weight, _, targets = problem(9, 4, 50)
    targets[6] = wrong
    with pytest.raises(ValueError, match=rf"targets_N\[6\] is {wrong}, .* 0 to 49"):
        token_logps(hidden, weight, targets)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_ND": torch.zeros(2, 3, 4)}, "hidden_ND"),
        ({"weight_VD": torch.zeros(5, 3)}, "do not fit"),
        ({"weight_VD": torch.zeros(0, 4)}, "do not fit"),
        ({"weight_VD": torch.zeros(5, 4, dtype=torch.int8)}, "weight_VD is torch.int8"),
        ({"targets_N": torch.zeros(3, dtype=torch.long)}, "targets_N"),
        ({"targets_N": torch.zeros(2)}, "targets_N"),
        ({"bias_V": torch.zeros(4)}, "bias"),
        ({"token_tile": 0}, "token_tile is 0"),
        ({"vocab_tile": -3}, "vocab_tile is -3"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "hidden_ND": torch.zeros(2, 4),
        "weight_VD": torch.zeros(5, 4),
        "targets_N": torch.zeros(2, dtype=torch.long),
    }
    token_logps(**good)
    with pytest.raises(ValueError, match=message) as caught:
        token_logps(**{**good, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("trains", "forward_passes", "backward_passes"),
    [([False, False], 1, 0), ([True, False], 2, 0), ([False, True], 1, 2), ([True, True], 1, 3)],
    ids=["teacher", "frozen-head", "weight-only", "trained-head"],
)
def test_products_are_as_many_as_promised_and_logits_never_whole(
    trains: list[bool], forward_passes: int, backward_passes: int
) -> None:
    n, d, v = SIZE
    hidden, weight, _, targets = problem(n, d, v)
    hidden.requires_grad_(trains[0])
    weight.requires_grad_(trains[1])
    with Spy() as forward:
        logps = token_logps(hidden, weight, targets, entropy=True, token_tile=32, vocab_tile=64).logps_N
    assert forward.passes(n, d, v) == forward_passes
    assert forward.largest < n * v / 8
    if any(trains):
        with Spy() as backward:
            logps.sum().backward()
        assert backward.passes(n, d, v) == backward_passes
        assert backward.largest < n * v / 8


def test_the_spy_sees_full_logits() -> None:
    hidden, weight, _, targets = problem(*SIZE)
    with Spy() as spy:
        (hidden @ weight.t()).log_softmax(1).gather(1, targets[:, None])
    assert spy.largest == SIZE[0] * SIZE[2]
    assert spy.passes(*SIZE) == 1


@pytest.mark.parametrize("trained", [False, True])
def test_the_same_bits_twice(trained: bool) -> None:
    hidden, weight, bias_v, targets = problem(50, 16, 400)
    targets[:] = targets[0]
    trains = [True, trained, trained]

    def ours(h: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return token_logps(h, w, targets, bias_V=b, token_tile=16, vocab_tile=64).logps_N

    assert torch.equal(ours(hidden, weight, bias_v), ours(hidden, weight, bias_v))
    for one, other in zip(*(gradients(ours, [hidden, weight, bias_v], trains) for _ in range(2))):
        assert (one is None and other is None) or torch.equal(one, other)


def test_the_benchmark_runs_at_toy_size_and_says_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "head.py"
    benchmark = SimpleNamespace(**runpy.run_path(str(script)))
    in_process = benchmark.main.__globals__  # a fresh process for each way would take longer than all other tests
    quick = benchmark.QUICK
    monkeypatch.setitem(in_process, "in_fresh_process", lambda mode, way, _: benchmark.alone(quick, mode, way))
    target = tmp_path / "head.json"
    benchmark.main(["--quick", "--repetitions", "2", "--threads", str(torch.get_num_threads()), "--out", str(target)])
    report, printed = json.loads(target.read_text()), capsys.readouterr().out
    assert {"machine", "torch", "threads", "commit", "size", "modes"} <= set(report)
    for mode in ("frozen", "trained"):
        assert f"\n{mode} " in printed
        ratios = report["modes"][mode]["wall_over_products"]["ratios"]
        assert len(ratios) == 2
        assert min(ratios) > 0
        assert set(report["modes"][mode]["fresh_process"]) == {"ours", "full"}
