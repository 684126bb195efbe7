"""Gates: how much of a gap counts. Each is a loss ℓ(Δ) and its gradient f(Δ) = ∂ℓ/∂Δ.

    Bounded     ℓ = log 2 − log(1 + exp(−Δ²/2τ))      f = σ(−Δ²/2τ) Δ/τ
    NoGate      ℓ = Δ²/2, beyond ±c linear            f = clip(Δ, ±c)
    Quadratic   ℓ = Δ²/2τ                             f = Δ/τ
    Absolute    ℓ = |Δ|                               f = sign Δ
    Tanh        ℓ = τ² log cosh(Δ/τ)                  f = τ tanh(Δ/τ)
    Sigmoid     ℓ = 2τ log cosh(Δ/2τ)                 f = 2σ(Δ/τ) − 1 = tanh(Δ/2τ)

Δ is a gap on the sampled token or, for objectives on whole distributions, a divergence; nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from sgsd.methods.method import Gate, Method, NoGate

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Absolute", "Bounded", "Gate", "GateName", "NoGate", "Quadratic", "Sigmoid", "Tanh", "named_gate"]

GateName = Literal["bounded", "none", "quadratic", "absolute", "tanh", "sigmoid"]


@dataclass(frozen=True)
class _WithTau(Gate):
    tau: float = 1.0  # nats² where Δ is squared, else nats

    def __post_init__(self) -> None:
        if self.tau <= 0:
            raise ValueError(f"tau must be positive, not {self.tau}")


@dataclass(frozen=True)
class Bounded(_WithTau):
    """SGSD's gate: quadratic near 0, at most log 2 far out; for τ = 1 the gradient is at most 0.393, at |Δ| ≈ 1.22."""

    def loss(self, delta: Tensor) -> Tensor:
        return math.log(2) - _softplus(-delta.square() / (2 * self.tau))

    def grad(self, delta: Tensor) -> Tensor:
        return self.kept(delta) * delta / self.tau

    def kept(self, delta: Tensor) -> Tensor:
        return (-delta.square() / (2 * self.tau)).sigmoid()


@dataclass(frozen=True)
class Quadratic(_WithTau):
    """A gradient in proportion to the gap."""

    def loss(self, delta: Tensor) -> Tensor:
        return delta.square() / (2 * self.tau)

    def grad(self, delta: Tensor) -> Tensor:
        return delta / self.tau


@dataclass(frozen=True)
class Absolute(Gate):
    """The same gradient whatever the size of the gap."""

    def check(self, method: Method) -> None:
        if method.objective.needs_divergence:
            raise ValueError("a divergence is its own absolute value; use no gate")

    def loss(self, delta: Tensor) -> Tensor:
        return delta.abs()

    def grad(self, delta: Tensor) -> Tensor:
        return delta.sign()


@dataclass(frozen=True)
class Tanh(_WithTau):
    """The gap itself where it is small, at most τ where it is large."""

    def loss(self, delta: Tensor) -> Tensor:
        return self.tau**2 * _log_cosh(delta / self.tau)

    def grad(self, delta: Tensor) -> Tensor:
        return self.tau * (delta / self.tau).tanh()


@dataclass(frozen=True)
class Sigmoid(_WithTau):
    """The teacher's share of the two probabilities at temperature τ, p_T^{1/τ} / (p_T^{1/τ} + p_S^{1/τ}), set to ±1."""

    def loss(self, delta: Tensor) -> Tensor:
        return 2 * self.tau * _log_cosh(delta / (2 * self.tau))

    def grad(self, delta: Tensor) -> Tensor:
        return (delta / (2 * self.tau)).tanh()


def named_gate(name: GateName, tau: float = 1.0, clip: float | None = None) -> Gate:
    """A gate by its name. Raises ValueError for a name there is not."""
    gates: dict[str, Gate] = {
        "bounded": Bounded(tau),
        "none": NoGate(clip),
        "quadratic": Quadratic(tau),
        "absolute": Absolute(),
        "tanh": Tanh(tau),
        "sigmoid": Sigmoid(tau),
    }
    if name not in gates:
        raise ValueError(f"the gate is one of {', '.join(get_args(GateName))}, not {name!r}")
    return gates[name]


def _log_cosh(x: Tensor) -> Tensor:
    """Without overflow: log cosh x = |x| + log(1 + e^(−2|x|)) − log 2."""
    return x.abs() + _softplus(-2 * x.abs()) - math.log(2)


def _softplus(x: Tensor) -> Tensor:
    from torch.nn import functional as F  # imported where it is computed: declarations need no torch

    return F.softplus(x)
