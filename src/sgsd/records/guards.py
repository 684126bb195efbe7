"""Guards notice training that goes wrong while it happens.

A guard computes one figure from the metrics so far and compares it with a bound. docs/guards.md lists them, their words
are in glossary.toml, their settings in `sgsd.config.guards_config`; `sgsd.records.monitor` runs them after every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from sgsd.config.guards_config import GuardConfig
from sgsd.evaluation.stats import over_seeds
from sgsd.records.glossary import GUARD_WORDS

Record = Mapping[str, Any]
History = Sequence[Record]  # the metrics of steps 1, 2, …, with today's keys
Figure = Callable[[History, int], float | None]  # history and window; None: cannot be computed

FIRST = 3  # steps that a run is compared with
NEARLY_ALL, FEW = 0.9, 1e-3  # shares of rollouts
SAME = 1e-4  # standard deviation of rewards that are all the same but for rounding
NEGATIVE = 0.9  # share of negative supports that counts as all
SIGMAS = 3.0  # standard errors by which the best window must lie above the last one
TREND = 10  # steps of `delta_trend`


# ── Figures ────────────────────────────────────────────────────────────────────────────────────────────────────────


def values(records: History, key: str) -> list[float]:
    return [float(record[key]) for record in records if math.isfinite(record.get(key, math.nan))]


def mean(records: History, key: str) -> float | None:
    """The mean of the records that have the key; None where fewer than half do."""
    found = values(records, key)
    return sum(found) / len(found) if found and 2 * len(found) >= len(records) else None


def ratio(now: float | None, before: float | None) -> float | None:
    return None if now is None or not before else now / before


def last_mean(key: str) -> Figure:
    """The mean over the last window."""
    return lambda history, window: mean(history[-window:], key)


def growth(key: str) -> Figure:
    """The mean over the last window divided by that over the first steps."""
    return lambda history, window: ratio(mean(history[-window:], key), mean(history[:FIRST], key))


def length_change(history: History, window: int) -> float | None:
    """The factor by which rollouts became longer, or shorter, since the first steps; at least 1."""
    grown = growth("length")(history, window)
    if grown is None:
        return None
    return max(grown, 1 / grown) if grown else math.inf


def accuracy_lost(history: History, window: int) -> float | None:
    """The share of the best window's accuracy that the last one lacks; 0 where chance explains it."""
    right = list(accumulate((r["accuracy"] * r["rollouts"] for r in history), initial=0.0))
    drawn = list(accumulate((r["rollouts"] for r in history), initial=0))
    counts = [(right[i] - right[i - window], drawn[i] - drawn[i - window]) for i in range(window, len(right))]
    shares = [(correct / rollouts, rollouts) for correct, rollouts in counts]
    (best, of_best), (now, of_now) = max(shares), shares[-1]
    error = math.sqrt(best * (1 - best) / of_best + now * (1 - now) / of_now)
    return 1 - now / best if best - now > SIGMAS * error else 0.0


def share_of(outcome: Literal["right", "wrong"]) -> Figure:
    """The share of graded rollouts with that outcome.

    None where hardly any is graded, which is another trouble, and where the method learns from rewards that differ.
    """

    def figure(history: History, window: int) -> float | None:
        last = history[-window:]
        right, ungraded = mean(last, "accuracy"), mean(last, "ungraded")
        if right is None or ungraded is None or ungraded > NEARLY_ALL or (mean(last, "reward_std") or 0.0) > SAME:
            return None
        return (right if outcome == "right" else 1 - right - ungraded) / (1 - ungraded)

    return figure


def groups_alike(history: History, window: int) -> float | None:
    """The share of groups without a difference in reward; none where all have one outcome, or hardly any has one."""
    if (mean(history[-window:], "ungraded") or 0.0) > NEARLY_ALL:
        return None
    shares = [share_of(outcome)(history, window) for outcome in ("right", "wrong")]
    return mean(history[-window:], "groups_alike") if all(share is None or share > FEW for share in shares) else None


def style_excess(history: History, window: int) -> float | None:
    """Style's share of the advantages less its share of the text."""
    share, text = (mean(history[-window:], key) for key in ("style_advantage_share", "style_token_share"))
    return None if share is None or text is None else share - text


def upper_auc(history: History, window: int) -> float | None:
    """Upper end of Student's 95 % interval of the window's mean AUC, the steps being its sample."""
    found = values(history[-window:], "support_auc")
    return over_seeds(found).high if len(found) >= max(2, window // 2) else None


def chase(history: History, window: int) -> float | None:
    """Growth of |Δ| from the window's first half to its second; 0 unless (nearly) all supports are negative."""
    first, last = history[-window : -(window // 2)], history[-(window // 2) :]
    negative = mean(last, "support_below_zero")
    if negative is None:
        return None
    return ratio(mean(last, "delta_abs"), mean(first, "delta_abs")) if negative >= NEGATIVE else 0.0


def teacher_gap(history: History, window: int) -> float | None:
    """Mean |Δ|, or √(2 KL) for methods on whole distributions, which is its size where both are close."""
    gap = mean(history[-window:], "delta_abs")
    if gap is not None:
        return gap
    divergence = mean(history[-window:], "divergence")
    return None if divergence is None else math.sqrt(2 * max(0.0, divergence))


def one_sided(history: History, window: int) -> float | None:
    """The share of reversed or of neutral teachers, whichever is larger."""
    found = [mean(history[-window:], key) for key in ("polarity/reversed", "polarity/neutral")]
    return max((x for x in found if x is not None), default=None)


def trend(history: History, key: str, steps: int = TREND) -> float | None:
    """The mean of the newer half of the last steps divided by that of the older half."""
    if len(history) < steps:
        return None
    return ratio(mean(history[-(steps // 2) :], key), mean(history[-steps : -(steps // 2)], key))


# ── The guards ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard: its figure, the side of the bound on which trouble lies, and its words in the glossary."""

    figure: Figure
    fires: Literal["above", "below"]
    sees: str
    means: str
    remedy: str

    def beyond(self, value: float | None, bound: float) -> bool:
        if value is None or math.isnan(value):
            return False
        return value > bound if self.fires == "above" else value < bound

    def message(self, value: float, setting: GuardConfig) -> str:
        """The message: the figure, what it means and what to do."""
        bound = f"{self.fires} {setting.bound:g} over {setting.window} steps"
        return f"{self.sees} {value:.3g}, {bound}: {self.means}; {self.remedy}"


_FIGURES: Mapping[str, tuple[Figure, Literal["above", "below"]]] = {
    "entropy_collapse": (last_mean("entropy"), "below"),
    "entropy_explosion": (growth("entropy"), "above"),
    "length": (length_change, "above"),
    "truncation": (last_mean("truncated"), "above"),
    "accuracy": (accuracy_lost, "above"),
    "nothing_right": (share_of("right"), "below"),
    "nothing_wrong": (share_of("wrong"), "below"),
    "nothing_known": (last_mean("ungraded"), "above"),
    "no_spread": (groups_alike, "above"),
    "style": (style_excess, "above"),
    "support_auc": (upper_auc, "below"),
    "chase": (chase, "above"),
    "teacher_equals_student": (teacher_gap, "below"),
    "teacher_uniform": (last_mean("teacher_nll_ratio"), "above"),
    "polarity": (one_sided, "above"),
    "sampler_mismatch": (last_mean("sampler_mismatch"), "above"),
}
#: Guards on outcomes, which a few of the step's rollouts explain better than any figure.
ON_OUTCOMES = ("nothing_right", "nothing_wrong", "nothing_known", "no_spread")
GUARDS = {name: Guard(*found, **GUARD_WORDS[name]) for name, found in _FIGURES.items()}
