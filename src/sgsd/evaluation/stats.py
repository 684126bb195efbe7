"""Intervals: every accuracy comes with one."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

Z95 = 1.959963984540054
#: Student's 97.5 % quantiles for 1, 2, … degrees of freedom; beyond the last one it serves as an upper bound.
STUDENT_975 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
)
RESAMPLES = 2000
CHUNK = 64  # resamples at a time; bounds the memory


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


# ── How well a score tells right from wrong ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Scored:
    """N scores of things that turned out right or wrong.

    Args:
        scores: the higher, the likelier right; only their order counts.
        right: how it turned out.
        clusters: what each belongs to, such as a problem; those of one cluster are not independent. None: all are.
        weights: positive; None: all weigh the same.

    Raises:
        ValueError: lengths that do not fit, a score that is not finite, a weight that is not positive, or outcomes that
            are all alike, which leave nothing to tell apart.
    """

    scores: Sequence[float]
    right: Sequence[bool]
    clusters: Sequence[Hashable] | None = None
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        beside = [given for given in (self.right, self.clusters, self.weights) if given is not None]
        if any(len(given) != len(self.scores) for given in beside):
            raise ValueError(f"{len(self.scores)} scores, but outcomes, clusters or weights of another number")
        if len(set(map(bool, self.right))) < 2:
            raise ValueError("an AUC needs both outcomes; these are all alike")
        if not np.isfinite(self.scores).all():
            raise ValueError("a score is not finite")
        if self.weights is not None and not (np.asarray(self.weights) > 0).all():
            raise ValueError("a weight is not positive")

    @property
    def cluster_ids(self) -> Sequence[Hashable]:
        return range(len(self.scores)) if self.clusters is None else self.clusters

    @property
    def rarer(self) -> int:
        """The number of clusters that hold a right one, or of those that hold a wrong one: the smaller."""
        return min(len({c for c, r in zip(self.cluster_ids, self.right) if bool(r) == side}) for side in (True, False))

    def resampled(self, counts_SC: np.ndarray, columns: Mapping[Hashable, int]) -> np.ndarray:
        """AUC of S resamples, cluster c standing counts[s, columns[c]] times in each; NaN without both outcomes."""
        order = np.argsort(self.scores, kind="stable")
        column_N = np.array([columns[cluster] for cluster in self.cluster_ids])[order]
        right_N = np.asarray(self.right, dtype=bool)[order]
        weights_N = np.ones(len(order)) if self.weights is None else np.asarray(self.weights, dtype=float)[order]
        ranked_N = np.asarray(self.scores, dtype=float)[order]
        ties = np.flatnonzero(np.r_[True, ranked_N[1:] != ranked_N[:-1]])  # where each group of equal scores begins
        found = []
        for start in range(0, len(counts_SC), CHUNK):
            each_SN = counts_SC[start : start + CHUNK, column_N] * weights_N
            won_SG = np.add.reduceat(each_SN * right_N, ties, axis=1)
            lost_SG = np.add.reduceat(each_SN * ~right_N, ties, axis=1)
            beaten_S = (won_SG * (lost_SG.cumsum(1) - lost_SG / 2)).sum(1)
            pairs_S = won_SG.sum(1) * lost_SG.sum(1)
            found.append(np.divide(beaten_S, pairs_S, out=np.full(len(pairs_S), np.nan), where=pairs_S > 0))
        return np.concatenate(found)


def auc(sample: Scored, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The share of (right, wrong) pairs in which the right one scores higher; ties count half.

        AUC = Σ_i Σ_j w_i w_j ([s_i > s_j] + ½ [s_i = s_j]) / Σ_i Σ_j w_i w_j,    i over the right, j over the wrong

    Percentile bootstrap that draws clusters whole; resamples without both outcomes are left out. Where right and wrong
    are apart altogether, and resampling would report a width of zero, it is widened to Wilson's interval over the
    clusters of the rarer outcome.
    """
    value, values_S = _bootstrap((sample,), resamples, seed)
    low, high = np.nanquantile(values_S, (0.025, 0.975))
    if value in (0.0, 1.0):
        bounds = wilson(value * sample.rarer, sample.rarer)
        low, high = min(low, bounds.low), max(high, bounds.high)
    return Interval(value, float(low), float(high))


def auc_difference(sample: Scored, other: Scored, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """AUC of one less AUC of the other, paired: both are resampled by the same draws of their common clusters.

    Raises:
        ValueError: the two are not of the same clusters.
    """
    if set(sample.cluster_ids) != set(other.cluster_ids):
        raise ValueError("a paired difference needs the same clusters on both sides")
    value, values_S = _bootstrap((sample, other), resamples, seed)
    low, high = np.nanquantile(values_S, (0.025, 0.975))
    return Interval(value, float(low), float(high))


def _bootstrap(samples: Sequence[Scored], resamples: int, seed: int) -> tuple[float, np.ndarray]:
    """AUC of the first less that of the others: as it is, and of every resample."""
    columns = {cluster: i for i, cluster in enumerate(dict.fromkeys(samples[0].cluster_ids))}
    C = len(columns)
    drawn_SC = np.random.default_rng(seed).multinomial(C, np.full(C, 1 / C), size=resamples)
    counts_SC = np.vstack([np.ones((1, C), dtype=int), drawn_SC])  # the first row is the sample as it is
    first, *others = (sample.resampled(counts_SC, columns) for sample in samples)
    values_S = first - sum(others)
    return float(values_S[0]), values_S[1:]


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean of independent runs and Student's 95 % interval of it: mean ± t s/√n. One run tells nothing: ±∞.

    The bounds are not held to [0, 1]: what is estimated is a mean, and few runs know it badly.

    Raises:
        ValueError: no runs.
    """
    if not values:
        raise ValueError("a mean over seeds needs at least one run")
    n, centre = len(values), float(np.mean(values))
    if n == 1:
        return Estimate(centre, -math.inf, math.inf)
    quantile = STUDENT_975[min(n - 1, len(STUDENT_975)) - 1]
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Estimate(centre, centre - half, centre + half)
