"""The Beta distribution without a statistics library: its distribution function and its quantiles."""

from __future__ import annotations

import math
from dataclasses import dataclass

BISECTIONS = 48
MAX_TERMS = 100_000  # it takes in the order of √(α + β)
PRECISION = 1e-15
TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Posterior:
    """A Beta distribution over a rate: its parameters, its mean and its central 95 % interval."""

    alpha: float
    beta: float

    @property
    def mean(self) -> float:
        return self.alpha / (self.alpha + self.beta)

    @property
    def low(self) -> float:
        return beta_quantile(0.025, self.alpha, self.beta)

    @property
    def high(self) -> float:
        return beta_quantile(0.975, self.alpha, self.beta)


def beta_distribution(x: float, alpha: float, beta: float) -> float:
    """P(X ≤ x) for X ~ Beta(α, β): the regularised incomplete beta function I_x(α, β), to about 1e-12.

    I_x = x^α (1−x)^β / (α B(α, β)) / (1 + d₁/(1 + d₂/(1 + …))) (DLMF 8.17.22), which converges fast for x left of the
    mean; to the right of it 1 − I_{1−x}(β, α) is taken.
    """
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (alpha + 1.0) / (alpha + beta + 2.0):
        return 1.0 - beta_distribution(1.0 - x, beta, alpha)
    log_front = alpha * math.log(x) + beta * math.log1p(-x) - math.log(alpha)
    log_front += math.lgamma(alpha + beta) - math.lgamma(alpha) - math.lgamma(beta)
    return math.exp(log_front) / _continued_fraction(x, alpha, beta)


def beta_quantile(share: float, alpha: float, beta: float) -> float:
    """The x with P(X ≤ x) = share, by bisection: its error is below 1e-12."""
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2.0
        if beta_distribution(middle, alpha, beta) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def _continued_fraction(x: float, alpha: float, beta: float) -> float:
    """1 + d₁/(1 + d₂/(1 + …)) by Lentz's recurrence: the quotient of two continuants, `above` and `below`."""
    value = above = 1.0
    below = 0.0
    for n in range(1, MAX_TERMS):
        m = n // 2
        place = alpha + n
        if n % 2:
            term = -(alpha + m) * (alpha + beta + m) * x / ((place - 1.0) * place)
        else:
            term = m * (beta - m) * x / ((place - 1.0) * place)
        below = 1.0 / _not_zero(1.0 + term * below)
        above = _not_zero(1.0 + term / above)
        value *= above * below
        if abs(above * below - 1.0) < PRECISION:
            return value
    raise ArithmeticError(f"the continued fraction of Beta({alpha}, {beta}) at {x} did not converge")


def _not_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY
