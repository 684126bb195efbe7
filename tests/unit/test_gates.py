"""Gates: the gradient is the loss's, known values, bounds, and what is let through."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sgsd.methods.gates import Absolute, Bounded, Gate, NoGate, Quadratic, Sigmoid, Tanh, named_gate

GATES: list[Gate] = [
    Bounded(),
    Bounded(0.3),
    NoGate(),
    NoGate(1.5),
    Quadratic(2.0),
    Absolute(),
    Tanh(0.7),
    Sigmoid(0.4),
]


@pytest.mark.parametrize("gate", GATES, ids=str)
@given(size=st.floats(-30, 30).filter(lambda x: abs(x) > 1e-3))
def test_the_gradient_is_the_derivative_of_the_loss(gate: Gate, size: float) -> None:
    delta = torch.tensor(size, dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(gate.loss(delta), delta)
    assert gate.grad(delta.detach()).item() == pytest.approx(derivative.item(), abs=1e-10)


@pytest.mark.parametrize("gate", GATES, ids=str)
def test_no_gap_no_gradient_and_no_loss(gate: Gate) -> None:
    zero = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert gate.loss(zero).abs().max().item() < 1e-12
    assert gate.grad(zero.detach()).abs().max().item() == 0
    (gradient,) = torch.autograd.grad(gate.loss(zero).sum(), zero)
    assert gradient.abs().max().item() < 1e-12
    assert gate.kept(zero.detach()) == pytest.approx([0.5] * 3)


@pytest.mark.parametrize(
    ("gate", "loss", "grad"),
    [
        (Bounded(), math.log(2) - math.log(1 + math.exp(-2)), 2 / (1 + math.exp(2))),
        (NoGate(), 2.0, 2.0),
        (NoGate(1.5), 1.5 * 2 - 1.5**2 / 2, 1.5),
        (Quadratic(4.0), 0.5, 0.5),
        (Absolute(), 2.0, 1.0),
        (Tanh(0.5), 0.25 * math.log(math.cosh(4)), 0.5 * math.tanh(4)),
        (Sigmoid(0.5), math.log(math.cosh(2)), 2 / (1 + math.exp(-4)) - 1),
    ],
    ids=str,
)
def test_at_a_gap_of_two(gate: Gate, loss: float, grad: float) -> None:
    two = torch.tensor(2.0, dtype=torch.float64)
    assert gate.loss(two).item() == pytest.approx(loss, rel=1e-12)
    assert gate.grad(two).item() == pytest.approx(grad, rel=1e-12)
    assert gate.grad(-two).item() == pytest.approx(-grad, rel=1e-12)


def test_the_bounded_gate_lets_extreme_gaps_go() -> None:
    far = torch.linspace(-40, 40, 4001, dtype=torch.float64)
    pull = Bounded().grad(far)
    assert pull.abs().max().item() == pytest.approx(0.393, abs=1e-3)
    assert abs(far[pull.argmax()].item()) == pytest.approx(1.22, abs=0.02)
    assert pull[0].abs().item() < 1e-12


def test_gates_survive_extremes() -> None:
    extreme = torch.tensor([-1e4, 1e4, 88.0])
    for gate in GATES:
        assert torch.isfinite(gate.loss(extreme)).all()
        assert torch.isfinite(gate.grad(extreme)).all()
        assert ((gate.kept(extreme) >= 0) & (gate.kept(extreme) <= 0.5)).all()


def test_gates_by_name() -> None:
    assert named_gate("bounded", 0.5) == Bounded(0.5)
    assert named_gate("none", clip=3.0) == NoGate(3.0)
    assert {type(named_gate(name)) for name in ("quadratic", "absolute", "tanh", "sigmoid")} == {
        Quadratic,
        Absolute,
        Tanh,
        Sigmoid,
    }
