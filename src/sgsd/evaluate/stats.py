"""Intervals: every accuracy comes with one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Estimate:
    """An accuracy and its 95 % interval."""

    accuracy: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def wilson(successes: float, trials: int) -> Estimate:
    """Share of independent successes with Wilson's score interval; sound near 0 and 1, where p ± 2σ is not.

    `successes` may be a sum of shares.

    Raises:
        ValueError: no trials.
    """
    if trials < 1:
        raise ValueError("an accuracy needs at least one trial")
    p, z2 = successes / trials, Z95**2
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half))


def avg_at_k(correct_PK: Sequence[Sequence[bool]], *, resamples: int = 4000, seed: int = 0) -> Estimate:
    """Mean accuracy of k samples a problem; the interval resamples problems, since samples of one are not independent.

    Percentile bootstrap, widened to Wilson's interval over the problems where every problem gives the same mean and
    resampling would report a width of zero.

    Raises:
        ValueError: no problems, or a problem without samples.
    """
    if not correct_PK or not all(correct_PK):
        raise ValueError("avg@k needs at least one problem, each with at least one sample")
    means_P = np.array([np.mean(row) for row in correct_PK])
    if np.ptp(means_P) == 0:
        bounds = wilson(float(means_P.sum()), len(means_P))
        return Estimate(float(means_P[0]), min(bounds.low, float(means_P[0])), max(bounds.high, float(means_P[0])))
    rng = np.random.default_rng(seed)
    counts_SP = rng.multinomial(len(means_P), np.full(len(means_P), 1 / len(means_P)), size=resamples)
    low, high = np.quantile(counts_SP @ means_P / len(means_P), (0.025, 0.975))
    return Estimate(float(means_P.mean()), float(low), float(high))
