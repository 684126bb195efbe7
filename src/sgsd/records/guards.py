"""Guards: training that goes wrong is seen while it happens.

A guard reads one figure from the records of metrics.jsonl so far and holds it against a bound. docs/guards.md lists
them; `sgsd.records.monitor` asks them after every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sgsd.config.sections import Section
from sgsd.evaluate import over_seeds

Record = Mapping[str, Any]
History = Sequence[Record]  # of steps 1, 2, …; what a method does not log is not there
Figure = Callable[[History, int], float | None]  # over a window of so many steps; None: nothing can be said

FIRST = 3  # steps that say how a run began
NEGATIVE = 0.9  # share of teachers below zero from which all are said to be
SIGMAS = 3.0  # standard errors by which the best window must lie above the last one
TREND = 10  # steps that `delta_trend` looks at


# ── Settings ───────────────────────────────────────────────────────────────────────────────────────────────────────


class GuardConfig(Section):
    """When a guard fires, and what then happens; what is left out is that guard's own."""

    bound: float = Field(gt=0, allow_inf_nan=False)
    """In the unit of what it sees."""
    window: int = Field(ge=2)
    """Steps it looks back on; before there are as many it says nothing."""
    action: Literal["off", "warn", "stop"] = "warn"
    """stop: save a checkpoint and end the run, which can go on by --resume."""

    @field_validator("action", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false


class GuardsConfig(Section):
    """Which figures of a step are watched, and what is too much; docs/guards.md says what each means."""

    entropy_collapse: GuardConfig = GuardConfig(bound=0.01, window=10)
    """Nats a token, below."""
    entropy_explosion: GuardConfig = GuardConfig(bound=2.0, window=10)
    """Times that of the first steps."""
    length: GuardConfig = GuardConfig(bound=2.0, window=10)
    """Factor by which rollouts became longer or shorter than in the first steps."""
    truncation: GuardConfig = GuardConfig(bound=0.5, window=10)
    """Share of rollouts that are cut off."""
    accuracy: GuardConfig = GuardConfig(bound=0.3, window=10)
    """Share of the best window's accuracy that is lost, beyond chance."""
    style: GuardConfig = GuardConfig(bound=0.3, window=10)
    """Share of the loss's pull on style tokens, less their share of the text."""
    support_auc: GuardConfig = GuardConfig(bound=0.45, window=20)
    """Upper end of the interval of the AUC of support against outcome, below."""
    chase: GuardConfig = GuardConfig(bound=1.5, window=10)
    """Growth of |Δ| within the window while all teachers are negative."""
    teacher_equals_student: GuardConfig = GuardConfig(bound=5e-3, window=5)
    """Mean |Δ|, nats a token, below."""
    teacher_uniform: GuardConfig = GuardConfig(bound=0.9, window=5)
    """The teachers' surprise by that of a uniform guess."""
    polarity: GuardConfig = GuardConfig(bound=0.9, window=10)
    """Share of teachers that are all reversed, or all silent."""
    sampler_gap: GuardConfig = GuardConfig(bound=0.015, window=5)
    """Nats a token between sampler and trainer."""

    @model_validator(mode="before")
    @classmethod
    def _keep_the_rest(cls, value: Any) -> Any:
        """A guard of which one key is given keeps its own values of the others."""
        if not isinstance(value, Mapping):
            return value
        own = {name: field.default.model_dump() for name, field in cls.model_fields.items()}
        return {
            name: {**own[name], **given} if name in own and isinstance(given, Mapping) else given
            for name, given in value.items()
        }


# ── Figures ────────────────────────────────────────────────────────────────────────────────────────────────────────


def values(records: History, key: str) -> list[float]:
    return [float(record[key]) for record in records if math.isfinite(record.get(key, math.nan))]


def mean(records: History, key: str) -> float | None:
    """None where fewer than half of the records have it."""
    found = values(records, key)
    return sum(found) / len(found) if found and 2 * len(found) >= len(records) else None


def ratio(now: float | None, before: float | None) -> float | None:
    return None if now is None or not before else now / before


def last_mean(key: str) -> Figure:
    """The mean over the last window."""
    return lambda history, window: mean(history[-window:], key)


def growth(key: str) -> Figure:
    """The mean over the last window by that over the first steps."""
    return lambda history, window: ratio(mean(history[-window:], key), mean(history[:FIRST], key))


def length_change(history: History, window: int) -> float | None:
    """By which factor rollouts have become longer or shorter since the first steps, whichever it is."""
    grown = growth("length")(history, window)
    if grown is None:
        return None
    return max(grown, 1 / grown) if grown else math.inf


def accuracy_lost(history: History, window: int) -> float | None:
    """Which share of the best window's accuracy the last one lacks; 0 where chance explains it."""
    right = list(accumulate((r["accuracy"] * r["rollouts"] for r in history), initial=0.0))
    drawn = list(accumulate((r["rollouts"] for r in history), initial=0))
    counts = [(right[i] - right[i - window], drawn[i] - drawn[i - window]) for i in range(window, len(right))]
    shares = [(correct / rollouts, rollouts) for correct, rollouts in counts]
    (best, of_best), (now, of_now) = max(shares), shares[-1]
    error = math.sqrt(best * (1 - best) / of_best + now * (1 - now) / of_now)
    return 1 - now / best if best - now > SIGMAS * error else 0.0


def style_excess(history: History, window: int) -> float | None:
    """By how much style's share of the pull exceeds its share of the text."""
    share, text = mean(history[-window:], "style_share"), mean(history[-window:], "style_tokens")
    return None if share is None or text is None else share - text


def upper_auc(history: History, window: int) -> float | None:
    """Upper end of Student's 95 % interval of the window's mean AUC, the steps being its sample."""
    found = values(history[-window:], "support_auc")
    return over_seeds(found).high if len(found) >= max(2, window // 2) else None


def chase(history: History, window: int) -> float | None:
    """By which factor |Δ| grew from the first half of the window to the last; 0 unless all teachers are negative."""
    first, last = history[-window : -(window // 2)], history[-(window // 2) :]
    negative = mean(last, "support_negative")
    if negative is None:
        return None
    return ratio(mean(last, "delta_abs"), mean(first, "delta_abs")) if negative >= NEGATIVE else 0.0


def teacher_gap(history: History, window: int) -> float | None:
    """Mean |Δ|; of methods on whole distributions √(2 KL), which is its size where both are close."""
    gap = mean(history[-window:], "delta_abs")
    if gap is not None:
        return gap
    divergence = mean(history[-window:], "divergence")
    return None if divergence is None else math.sqrt(2 * max(0.0, divergence))


def one_sided(history: History, window: int) -> float | None:
    """Share of teachers that were reversed, or silent: the larger of the two."""
    found = [mean(history[-window:], key) for key in ("reversed", "neutral")]
    return max((x for x in found if x is not None), default=None)


def trend(history: History, key: str, steps: int = TREND) -> float | None:
    """The mean of the newer half of the last steps by that of the older half; 1: no change."""
    if len(history) < steps:
        return None
    return ratio(mean(history[-(steps // 2) :], key), mean(history[-steps : -(steps // 2)], key))


# ── The guards ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Guard:
    """What is looked at, on which side of its bound trouble lies, and what to say."""

    figure: Figure
    fires: Literal["above", "below"]
    sees: str
    means: str
    remedy: str

    def beyond(self, value: float | None, bound: float) -> bool:
        if value is None or math.isnan(value):
            return False
        return value > bound if self.fires == "above" else value < bound

    def says(self, value: float, setting: GuardConfig) -> str:
        """The figure, what it means and what to do, in a line."""
        bound = f"{self.fires} {setting.bound:g} over {setting.window} steps"
        return f"{self.sees} {value:.3g}, {bound}: {self.means}; {self.remedy}"


GUARDS: Mapping[str, Guard] = {
    "entropy_collapse": Guard(
        last_mean("entropy"),
        "below",
        "entropy (nats a token)",
        "the policy has all but stopped exploring, so its rollouts teach nothing new",
        "lower optimizer.lr, or go back to a checkpoint before the fall",
    ),
    "entropy_explosion": Guard(
        growth("entropy"),
        "above",
        "entropy (times that of the first steps)",
        "the policy is dissolving into noise",
        "lower optimizer.lr, or go back to a checkpoint before the rise",
    ),
    "length": Guard(
        length_change,
        "above",
        "length of a rollout (factor up or down)",
        "rollouts run away or shrink to nothing",
        "read some in the report; where they ramble or say nothing, lower optimizer.lr",
    ),
    "truncation": Guard(
        last_mean("truncated"),
        "above",
        "share of rollouts cut off",
        "most never reach an answer and count as wrong",
        "raise sampling.max_tokens, or take shorter problems",
    ),
    "accuracy": Guard(
        accuracy_lost,
        "above",
        "share of the best accuracy lost",
        "the policy unlearns what it knew",
        "go back to a checkpoint of the best steps and lower optimizer.lr",
    ),
    "style": Guard(
        style_excess,
        "above",
        "share of the pull on style tokens beyond their share of the text",
        "the loss teaches how to phrase and not what to say",
        "make the teachers' prompts sound like the student's, in the same thinking mode",
    ),
    "support_auc": Guard(
        upper_auc,
        "below",
        "AUC of support against outcome (upper end of its interval)",
        "the teachers support wrong rollouts more than right ones",
        "ask sgsd probe whether the bank can teach, and sgsd bank why which items mislead",
    ),
    "chase": Guard(
        chase,
        "above",
        "growth of |Δ| with all teachers negative",
        "student and live teacher chase each other away from what they knew",
        "lower optimizer.lr, or set method.teacher to ema or frozen",
    ),
    "teacher_equals_student": Guard(
        teacher_gap,
        "below",
        "mean |Δ| (nats a token)",
        "the contexts do nothing, the teachers say what the student says",
        "look at the prompts with sgsd preview, and at the bank",
    ),
    "teacher_uniform": Guard(
        last_mean("teacher_surprise"),
        "above",
        "the teachers' surprise (1: a uniform guess's)",
        "the teachers know no more than a uniform guess",
        "check the teacher's weights, and its prompts with sgsd preview",
    ),
    "polarity": Guard(
        one_sided,
        "above",
        "share of teachers all reversed, or all silent",
        "every verdict goes against the teachers, or none of them says anything",
        "reversed: probe the bank; silent: lower method.confidence, and see whether answers are graded at all",
    ),
    "sampler_gap": Guard(
        last_mean("sampler_gap"),
        "above",
        "gap between sampler and trainer (nats a token)",
        "rollouts come from another policy than the one that is trained",
        "raise the engine's precision, or set rollout.importance_cap",
    ),
}
