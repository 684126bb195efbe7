"""Gates: how much of a gap counts. Each is a potential ℓ(Δ) that the loss holds and its slope, the pull f(Δ) = ∂ℓ/∂Δ.

    bounded     ℓ = log 2 − log(1 + exp(−Δ²/2τ))      f = σ(−Δ²/2τ) Δ/τ
    none        ℓ = Δ²/2, beyond ±c linear            f = clip(Δ, ±c)
    quadratic   ℓ = Δ²/2τ                             f = Δ/τ
    absolute    ℓ = |Δ|                               f = sign Δ
    tanh        ℓ = τ² log cosh(Δ/τ)                  f = τ tanh(Δ/τ)
    sigmoid     ℓ = 2τ log cosh(Δ/2τ)                 f = 2σ(Δ/τ) − 1 = tanh(Δ/2τ)

Δ is a gap on the sampled token or, for a direction of whole distributions, a divergence; nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from sgsd.methods import losses as L

GateName = Literal["bounded", "none", "quadratic", "absolute", "tanh", "sigmoid"]


class Gate(Protocol):
    """ℓ(Δ) and its slope f(Δ), element by element."""

    def potential(self, delta: Tensor) -> Tensor: ...

    def pull(self, delta: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Bounded:
    """Uncertain gaps weigh little, extreme ones nothing; for τ = 1 the pull is at most 0.393, at |Δ| ≈ 1.22."""

    tau: float = 1.0

    def __post_init__(self) -> None:
        _check_tau(self.tau)

    def potential(self, delta: Tensor) -> Tensor:
        return L.gate(delta.square(), tau=self.tau)

    def pull(self, delta: Tensor) -> Tensor:
        return L.gate_slope(delta.square(), tau=self.tau) * delta / self.tau


@dataclass(frozen=True)
class NoGate:
    """Every gap counts as it is; `clip` bounds what one token can pull (Huber's loss)."""

    clip: float | None = None

    def __post_init__(self) -> None:
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"the clip of the gate must be positive, not {self.clip}")

    def potential(self, delta: Tensor) -> Tensor:
        if self.clip is None:
            return 0.5 * delta.square()
        return F.huber_loss(delta, torch.zeros_like(delta), reduction="none", delta=self.clip)

    def pull(self, delta: Tensor) -> Tensor:
        return delta if self.clip is None else delta.clamp(-self.clip, self.clip)


@dataclass(frozen=True)
class Quadratic:
    """A pull in proportion to the gap."""

    tau: float = 1.0

    def __post_init__(self) -> None:
        _check_tau(self.tau)

    def potential(self, delta: Tensor) -> Tensor:
        return delta.square() / (2 * self.tau)

    def pull(self, delta: Tensor) -> Tensor:
        return delta / self.tau


@dataclass(frozen=True)
class Absolute:
    """The same pull whatever the size of the gap."""

    def potential(self, delta: Tensor) -> Tensor:
        return delta.abs()

    def pull(self, delta: Tensor) -> Tensor:
        return delta.sign()


@dataclass(frozen=True)
class Tanh:
    """As it is for small gaps, at most τ for large ones."""

    tau: float = 1.0

    def __post_init__(self) -> None:
        _check_tau(self.tau)

    def potential(self, delta: Tensor) -> Tensor:
        return self.tau**2 * _log_cosh(delta / self.tau)

    def pull(self, delta: Tensor) -> Tensor:
        return self.tau * torch.tanh(delta / self.tau)


@dataclass(frozen=True)
class Sigmoid:
    """The teacher's share of the two probabilities at temperature τ, p_T^{1/τ} / (p_T^{1/τ} + p_S^{1/τ}), set to ±1."""

    tau: float = 1.0

    def __post_init__(self) -> None:
        _check_tau(self.tau)

    def potential(self, delta: Tensor) -> Tensor:
        return 2 * self.tau * _log_cosh(delta / (2 * self.tau))

    def pull(self, delta: Tensor) -> Tensor:
        return torch.tanh(delta / (2 * self.tau))


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


def slope(gate: Gate, delta: Tensor) -> Tensor:
    """How much of the gap the gate lets through, in [0, ½], ½ being all of it: σ(−Δ²/2τ), or ½ min(1, |f/Δ|)."""
    if isinstance(gate, Bounded):
        return L.gate_slope(delta.square(), tau=gate.tau)
    through = torch.where(delta == 0, 1.0, gate.pull(delta).abs() / delta.abs().clamp(min=1e-12))
    return 0.5 * through.clamp(max=1.0)


def _log_cosh(x: Tensor) -> Tensor:
    """Without overflow: log cosh x = |x| + log(1 + e^(−2|x|)) − log 2."""
    return x.abs() + F.softplus(-2 * x.abs()) - math.log(2)


def _check_tau(tau: float) -> None:
    if tau <= 0:
        raise ValueError(f"tau must be positive, not {tau}")
