"""The drawings of the page: which metrics of a run are drawn, and how."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sgsd.records.glossary import Metric, find_metric
from sgsd.report import curves, svg
from sgsd.report.labels import duration, number, percent, some_of
from sgsd.report.svg import Domain, Frame, Points
from sgsd.report.values import Measurements, Run

THIRD = Frame(360, 190)  # three in a row on a wide screen
HALF = Frame(440, 190)  # two in a row
MOST_BARS = 60


@dataclass(frozen=True, slots=True)
class Legend:
    """One entry: the class of its swatch, its name, and a number where one sums it up."""

    css: str
    label: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A titled drawing; a second drawing, where there is one, is for narrow screens."""

    title: str
    unit: str
    caption: str
    drawings: tuple[Markup, ...]
    legend: tuple[Legend, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stack:
    """Shares that add up to one, drawn on top of each other: (key, class), the first at the bottom."""

    title: str
    caption: str
    layers: tuple[tuple[str, str], ...]


#: Which metrics are drawn as lines, section by section; label, unit and caption are the glossary's.
HEALTH = (
    *("reward", "reward_std", "length", "truncated", "ungraded", "groups_alike", "entropy"),
    *("style_advantage_share", "style_token_share", "staleness"),
    *("sampler_mismatch", "sampler_mismatch_max", "importance_weight", "importance_capped"),
)
OPTIMIZER = ("loss", "grad_norm", "lr")
TEACHERS = (
    *("gate_kept", "delta_abs", "delta_trend", "divergence"),
    *("support_auc", "support_auc_count", "support_below_zero", "teacher_nll_ratio"),
)
SPEED = "tokens_per_s"
STANCE = Stack(
    "Stance of the teachers",
    "A teacher supports a rollout when its context makes the rollout's tokens likelier, "
    "and suppresses it when less likely; in between it is neutral.",
    (("stance/supports", "positive"), ("stance/neutral", "neutral"), ("stance/suppresses", "negative")),
)
POLARITY = Stack(
    "Polarity after the verdict",
    "Validated: the stance agrees with the verifier (supports a correct rollout, suppresses an incorrect one). "
    "Reversed: it disagrees. What then moves the policy is the method's choice: this verdict, the rollout's advantage "
    "within its group, or the trust that all rollouts so far give an item.",
    (("polarity/validated", "validated"), ("polarity/neutral", "neutral"), ("polarity/reversed", "reversed")),
)
STAGES = ("sample", "verify", "contexts", "score", "update")
NO_STAGE = {"tokens", "tokens_per_s"}
DRAWN = {*HEALTH, *OPTIMIZER, *TEACHERS, *(key for stack in (STANCE, POLARITY) for key, _ in stack.layers)}
KNOWN = DRAWN | {"accuracy", "rollouts"}


def metric(key: str) -> Metric:
    """The glossary's entry; a number that it does not know is called by its key."""
    return find_metric(key) or Metric(key, key)


def steps_domain(run: Run) -> Domain:
    """0 to the last step that any file has; the same for every drawing."""
    last = max([run.step, *(e.step for e in run.evaluations), *(t.step for t in run.timings)], default=0)
    return 0.0, float(max(last, 1))


def readout(domain: Domain, columns: Sequence[tuple[str, str, Points]]) -> str:
    """JSON for the pointer: the places, and (name, unit, one value or null a place) a column."""
    places = sorted({round(x, 1) for _, _, points in columns for x, _ in points})
    rows = []
    for name, unit, points in columns:
        known = {round(x, 1): float(f"{v:.4g}") for x, v in points if math.isfinite(v)}
        rows.append([name, unit, [known.get(place) for place in places]])
    return json.dumps({"domain": domain, "x": places, "rows": rows}, ensure_ascii=False, separators=(",", ":"))


def steps_axis(frame: Frame, x: svg.Scale) -> Markup:
    return svg.x_axis(frame, x, svg.nice_ticks(x.domain, 5, whole=True), "step", lambda step: f"{step:,.0f}")


def story(title: str, points: Points, share: bool = False) -> str:
    """The text for a reader who cannot see the drawing."""
    finite = [(x, v) for x, v in points if math.isfinite(v)]
    if not finite:
        return f"{title}: no finite value"
    show = percent if share else number
    (first, start), (last, end) = finite[0], finite[-1]
    return f"{title}: {show(start)} at step {number(first, 7)}, {show(end)} at step {number(last, 7)}"


def curve_figure(run: Run, key: str, rows: Sequence[Measurements], frame: Frame = THIRD) -> Figure | None:
    """One metric as a line; None where it was never logged or never changed (see `constants`)."""
    raw, about = curves.points_of(rows, key), metric(key)
    if not raw or curves.is_constant(raw):
        return None
    points = curves.condense(raw)
    share = about.unit == "share"
    show = (lambda value: percent(value, 0)) if share else number
    bulk = curves.without_spikes([value for _, value in points])
    y_domain = svg.nice_domain(bulk or [value for _, value in points], from_zero=share)
    x, y = frame.x(steps_domain(run)), frame.y(y_domain)
    body = svg.y_axis(frame, y, svg.nice_ticks(y_domain), show) + steps_axis(frame, x)
    body += svg.line(curves.inside(points, y_domain), x, y, "series")
    pointer = readout(x.domain, [(about.label, "%" if share else about.unit, points)])
    beyond = [(step, v) for step, v in points if math.isfinite(v) and not y_domain[0] <= v <= y_domain[1]]
    spikes = ""
    if beyond:
        highest = show(max((v for _, v in beyond), key=abs))
        spikes = f"Beyond the axis: up to {highest}, at {some_of(tuple(int(step) for step, _ in beyond))}."
    drawing = svg.drawing(frame, story(about.label, points, share), body, pointer)
    notes = tuple(filter(None, (spikes, lost_note(raw))))
    return Figure(about.label, "" if share else about.unit, about.sentence, (drawing,), notes=notes)


def lost_note(points: Points) -> str:
    lost = tuple(int(step) for step, value in points if not math.isfinite(value))
    return f"Not a finite number at {some_of(lost)}." if lost else ""


def other_metrics(run: Run) -> tuple[str, ...]:
    """Every further number that was logged, in alphabetical order; lists of counts stay in metrics.jsonl."""
    return tuple(sorted({key for row in run.metrics for key in row.values} - KNOWN))


def constants(run: Run) -> tuple[tuple[str, str], ...]:
    """(label, value) of the metrics that never changed: a sentence says more than a flat line."""
    found = []
    for about in map(metric, (*HEALTH, *OPTIMIZER, *TEACHERS, *other_metrics(run))):
        points = curves.points_of(run.metrics, about.key)
        if points and curves.is_constant(points):
            value = points[0][1]
            shown = percent(value) if about.unit == "share" else f"{number(value)} {about.unit}".strip()
            found.append((about.label, shown))
    return tuple(found)


def stack_figure(run: Run, stack: Stack) -> Figure | None:
    """Shares over the steps, as areas; None where they were not logged."""
    layers = curves.aligned(run.metrics, [key for key, _ in stack.layers])
    if not layers[0]:
        return None
    places = [x for x, _ in layers[0]]
    heights = [[max(value, 0.0) for _, value in layer] for layer in layers]
    totals = [sum(column) or 1.0 for column in zip(*heights)]
    shares = [[h / total for h, total in zip(layer, totals)] for layer in heights]
    css = [name for _, name in stack.layers]
    names = [metric(key).label.partition(": ")[2] for key, _ in stack.layers]
    x, y = HALF.x(steps_domain(run)), HALF.y((0.0, 1.0))
    draw = svg.stacked_areas if len(places) > 1 else svg.stacked_bars
    body = draw(places, shares, x, y, css) + steps_axis(HALF, x)
    body += svg.y_axis(HALF, y, (0.0, 0.5, 1.0), lambda value: percent(value, 0))
    columns = [(name, "%", list(zip(places, s))) for name, s in zip(names, shares)]
    means = [curves.finite_mean(s) for s in shares]
    said = ", ".join(f"{name} {percent(mean, 0)}" for name, mean in zip(names, means))
    legend = [Legend(c, name, percent(mean, 0)) for c, name, mean in zip(css, names, means)]
    pointer = readout(x.domain, columns[::-1])
    title = f"{stack.title}, mean over the run: {said}"
    return Figure(stack.title, "share", stack.caption, (svg.drawing(HALF, title, body, pointer),), tuple(legend))


def time_figure(run: Run) -> Figure | None:
    """Seconds of each step by stage, as stacked bars."""
    logged = {key for row in run.timings for key in row.values} - NO_STAGE
    stages = [*(s for s in STAGES if s in logged), *sorted(logged - set(STAGES))]
    if not stages:
        return None
    full = [Measurements(row.step, {s: row.values.get(s, 0.0) for s in stages}) for row in run.timings]
    layers = [curves.condense(curves.points_of(full, s), MOST_BARS) for s in stages]
    places = [x for x, _ in layers[0]]
    seconds = [[v if math.isfinite(v) else 0.0 for _, v in layer] for layer in layers]
    y_domain = svg.nice_domain([sum(column) for column in zip(*seconds)], from_zero=True)
    x, y = HALF.x(steps_domain(run)), HALF.y(y_domain)
    css = [f"stage-{min(i, 7)}" for i in range(len(stages))]
    body = svg.y_axis(HALF, y, svg.nice_ticks(y_domain)) + steps_axis(HALF, x)
    body += svg.stacked_bars(places, seconds, x, y, css)
    means = [curves.finite_mean(v for _, v in curves.points_of(full, s)) for s in stages]
    total = curves.finite_sum(means) or 1.0
    legend = tuple(
        Legend(c, s, f"{duration(mean)} ({percent(mean / total, 0)})") for c, s, mean in zip(css, stages, means)
    )
    said = ", ".join(f"{entry.label} {entry.value}" for entry in legend)
    pointer = readout(x.domain, [(s, "s", layer) for s, layer in zip(stages, layers)][::-1])
    caption = f"A step takes {duration(curves.finite_sum(means))} on average."
    picture = svg.drawing(HALF, f"Mean time of a step by stage: {said}", body, pointer)
    return Figure("One step, by stage", "seconds", caption, (picture,), legend)
