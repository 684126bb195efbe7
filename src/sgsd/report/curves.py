"""Turns logged numbers into drawn points: selection, condensing, smoothing, intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from statistics import fmean

from sgsd.report.svg import Domain, Points
from sgsd.report.values import Estimate, Measurements

MOST_POINTS = 300  # a curve of this many points fills the widest drawing; more would only make the file larger


def points_of(rows: Iterable[Measurements], key: str) -> Points:
    """(step, value) wherever the key was logged; NaN where it was logged and is not finite."""
    return tuple((float(row.step), row.values[key]) for row in rows if key in row.values)


def not_finite(points: Points) -> tuple[int, ...]:
    """The steps whose value is not a finite number."""
    return tuple(int(step) for step, value in points if not math.isfinite(value))


def finite_mean(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else math.nan


def finite_sum(values: Iterable[float]) -> float:
    return math.fsum(value for value in values if math.isfinite(value))


Pool = Callable[[Iterable[float]], float]


def condense(points: Points, most: int = MOST_POINTS, pool: Pool = finite_mean) -> Points:
    """At most `most` points: means of equally many consecutive ones, values that are not finite left out."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return points
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    return tuple((fmean(x for x, _ in chunk), pool(value for _, value in chunk)) for chunk in chunks)


def aligned(rows: Sequence[Measurements], keys: Sequence[str], most: int = MOST_POINTS) -> tuple[Points, ...]:
    """One sequence a key over the same steps: those at which every key was logged and is finite."""
    full = [row for row in rows if all(math.isfinite(row.values.get(key, math.nan)) for key in keys)]
    return tuple(condense(points_of(full, key), most) for key in keys)


def rolling_window(points: Points) -> int:
    """An odd window of about a tenth of the curve, 3 at least."""
    return max(3, len(points) // 10 | 1)


def rolling_mean(points: Points, window: int) -> Points:
    """The mean over `window` neighbours, centred; fewer at the ends."""
    half = window // 2
    return tuple(
        (x, finite_mean(v for _, v in points[max(0, i - half) : i + half + 1])) for i, (x, _) in enumerate(points)
    )


def wilson(share: float, n: float, z: float = 1.959964) -> Estimate:
    """The Wilson 95 % interval of a share observed on n draws, all in 0..1 (E. B. Wilson, 1927)."""
    if not (math.isfinite(share) and 0 <= share <= 1 and math.isfinite(n) and n > 0):
        return Estimate(share)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))


def without_spikes(values: Sequence[float], least: int = 20) -> Domain | None:
    """The range of the bulk when a few spikes would flatten everything else; None when all values fit.

    A spike lies more than four times the width of the middle 90 % beyond it.
    """
    ordered = sorted(value for value in values if math.isfinite(value))
    if len(ordered) < least:
        return None
    cut = math.ceil(0.05 * len(ordered))
    low, high = ordered[cut], ordered[-1 - cut]
    reach = 4 * (high - low)
    kept = [value for value in ordered if low - reach <= value <= high + reach]
    return (kept[0], kept[-1]) if reach > 0 and len(kept) < len(ordered) else None


def inside(points: Points, domain: Domain) -> Points:
    """The points with values drawn back to the edge of the domain; NaN stays."""
    return tuple((x, min(max(v, domain[0]), domain[1]) if math.isfinite(v) else v) for x, v in points)


def is_constant(points: Points) -> bool:
    return all(math.isfinite(value) for _, value in points) and len({value for _, value in points}) <= 1


def spread_evenly(amount: int, wanted: int) -> list[int]:
    """`wanted` indices out of range(amount), the first and the last among them."""
    if amount <= wanted:
        return list(range(amount))
    exact = [round(i * (amount - 1) / max(wanted - 1, 1)) for i in range(wanted)]
    return [index for index, _ in groupby(exact)]
