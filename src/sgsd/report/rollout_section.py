"""The rollouts that the page shows: which ones, and every token with its colour and its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from sgsd.records.rollout_schema import RolloutRecord, TeacherRecord
from sgsd.report.curves import spread_evenly
from sgsd.report.labels import UNKNOWN, visible

Value = TypeVar("Value")

MOST_ROLLOUTS = 12
# What one card may hold: enough for a reader, little enough that twelve cards stay below a megabyte.
HEAD_TOKENS, TAIL_TOKENS = 360, 140
MOST_TEACHERS = 12
SHADES = 4  # on either side of zero; the style sheet and the script know them by number
STATUS = {
    "correct": ("✓", "correct"),
    "incorrect": ("✗", "incorrect"),
    "timeout": ("?", "timed out"),
    "unparsed": ("?", "not gradable"),
}
STANCES = {1: ("▲", "supports", "positive"), 0: ("•", "neutral", "neutral"), -1: ("▼", "suppresses", "negative")}
POLARITIES = {1: "validated", 0: "neutral", -1: "reversed"}


@dataclass(frozen=True, slots=True)
class Limits:
    """The values at which the colours are full, common to all cards so that cards can be compared."""

    advantage: float
    delta: float


@dataclass(frozen=True, slots=True)
class Card:
    """One rollout, ready for the template."""

    trace: RolloutRecord
    mark: str
    verdict: str
    tokens: Markup
    advantages: str
    colouring: str  # what colours the tokens at first: "advantage", "delta" (of a teacher) or "none"
    coloured_by: int  # the number of that teacher, the first that has any; 0: none
    masked: int
    left_out: tuple[str, ...]


def choose(rollouts: Sequence[RolloutRecord], most: int = MOST_ROLLOUTS) -> tuple[RolloutRecord, ...]:
    """At most `most` rollouts, early to late, each kind of outcome with as equal a share as there is."""
    groups = [[r for r in rollouts if r.outcome == outcome] for outcome in (1, -1, 0)]
    quotas = [0] * len(groups)
    while sum(quotas) < min(most, len(rollouts)):
        open_groups = [i for i, group in enumerate(groups) if quotas[i] < len(group)]
        quotas[min(open_groups, key=lambda i: (quotas[i], i))] += 1
    chosen = [group[i] for group, quota in zip(groups, quotas) for i in spread_evenly(len(group), quota)]
    return tuple(sorted(chosen, key=lambda rollout: (rollout.step, rollout.index)))


def shorten(trace: RolloutRecord) -> tuple[RolloutRecord, tuple[str, ...]]:
    """The beginning and the end of a long rollout and its first teachers, with remarks on what was left out."""
    gap = len(trace.tokens) - HEAD_TOKENS - TAIL_TOKENS
    remarks = []
    if gap > 0:
        remarks.append(f"{gap:,} tokens between token {HEAD_TOKENS} and token {HEAD_TOKENS + gap + 1} are not shown.")
        teachers = tuple(t.model_copy(update={"delta": _ends(t.delta), "gate": _ends(t.gate)}) for t in trace.teachers)
        cut = {name: _ends(getattr(trace, name)) for name in ("tokens", "mask", "advantages")}
        trace = trace.model_copy(update={**cut, "teachers": teachers})
    if len(trace.teachers) > MOST_TEACHERS:
        remarks.append(f"{len(trace.teachers) - MOST_TEACHERS} more teachers are not shown.")
        trace = trace.model_copy(update={"teachers": trace.teachers[:MOST_TEACHERS]})
    return trace, tuple(remarks)


def _ends(values: tuple[Value, ...]) -> tuple[Value, ...]:
    return (*values[:HEAD_TOKENS], *values[-TAIL_TOKENS:]) if values else ()


def full_at(values: Iterable[float]) -> float:
    """The round value at which a colour is full: the 97th percentile of the sizes, rounded up."""
    sizes = sorted(abs(value) for value in values if math.isfinite(value))
    high = sizes[math.ceil(0.97 * len(sizes)) - 1] if sizes else 0.0
    if high < 1e-12:
        return 1.0
    power = 10.0 ** math.floor(math.log10(high))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if high <= step * power * 1.0001)


def limits(traces: Sequence[RolloutRecord]) -> Limits:
    """Tokens out of the mask do not count: their numbers are never used."""
    return Limits(
        advantage=full_at(v for t in traces for v, used in zip(t.advantages, t.mask) if used),
        delta=full_at(v for t in traces for k in t.teachers for v, used in zip(k.delta, t.mask) if used),
    )


def shade(value: float, limit: float) -> int:
    """The step of the palette, −SHADES … SHADES, 0 for a value near zero or not finite (as in the script)."""
    if not math.isfinite(value):
        return 0
    return max(-SHADES, min(SHADES, math.floor(SHADES * value / limit + 0.5)))


def token_spans(trace: RolloutRecord, values: Sequence[float], limit: float) -> Markup:
    """Every token as an element of its own; class `out` where the mask leaves it out of the loss."""
    spans = []
    for i, token in enumerate(trace.tokens):
        step = shade(values[i], limit) if values else 0
        css = "out" if not trace.mask[i] else f"q{step}" if step else ""
        shown = visible(token, 200) if token else Markup('<span class="ctl">∅</span>')
        spans.append((Markup('<span class="{}">{}</span>') if css else Markup("<span>{1}</span>")).format(css, shown))
    return Markup("").join(spans)


def thousandths(values: Sequence[float]) -> str:
    """Numbers for the script as whole thousandths, nothing for what is not finite: "-120,35,,7"."""
    return ",".join(str(round(1000 * value)) if math.isfinite(value) else "" for value in values)


def stance(teacher: TeacherRecord) -> tuple[str, str, str]:
    """Mark, word and colour."""
    if teacher.stance is None:
        return "", "left out" if teacher.skipped else UNKNOWN, "neutral"
    return STANCES[_sign(teacher.stance)]


def polarity(teacher: TeacherRecord) -> str:
    """Word and swatch; empty where nobody was judged."""
    return "" if teacher.polarity is None else POLARITIES[_sign(teacher.polarity)]


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def card(trace: RolloutRecord, scale: Limits, remarks: tuple[str, ...] = ()) -> Card:
    mark, verdict = STATUS.get(trace.status or "unparsed", ("?", trace.status))
    if math.isfinite(trace.reward):
        verdict = f"{verdict}, reward {trace.reward:.2g}"
    values, limit, colouring, by = trace.advantages, scale.advantage, "advantage", 0
    if not values:
        by = next((i for i, teacher in enumerate(trace.teachers, start=1) if teacher.delta), 0)
        values, limit, colouring = (trace.teachers[by - 1].delta, scale.delta, "delta") if by else ((), 1.0, "none")
    return Card(
        trace=trace,
        mark=mark,
        verdict=verdict,
        tokens=token_spans(trace, values, limit) if trace.tokens else visible(trace.completion),
        advantages=",".join(f"{value:.3g}" if math.isfinite(value) else "" for value in trace.advantages),
        colouring=colouring,
        coloured_by=by,
        masked=sum(not used for used in trace.mask),
        left_out=remarks,
    )


def cards(rollouts: Sequence[RolloutRecord]) -> tuple[tuple[Card, ...], Limits]:
    """The cards of the page and the colour limits they share."""
    shown = [shorten(trace) for trace in choose(rollouts)]
    scale = limits([trace for trace, _ in shown])
    return tuple(card(trace, scale, remarks) for trace, remarks in shown), scale
