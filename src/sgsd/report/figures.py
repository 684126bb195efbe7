"""The figures of the page: which numbers of a run are drawn, how they are named, and what they mean."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

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
class Curve:
    """A metric that is drawn as a line: its key, title, unit and one sentence on what it is."""

    key: str
    title: str
    unit: str = ""
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Stack:
    """Shares that add up to one, drawn on top of each other: (key, class, label), the first at the bottom."""

    title: str
    caption: str
    layers: tuple[tuple[str, str, str], ...]


HEALTH = (
    Curve("length", "Completion length", "tokens", "Mean length of the sampled completions."),
    Curve("truncated", "Truncated", "share", "Rollouts that ran into the length limit before they ended."),
    Curve("unknown", "Ungraded", "share", "Rollouts the verifier could not judge (unreadable reference, time-out)."),
    Curve("entropy", "Entropy", "nats a token", "How undecided the policy is; a fall to zero is a collapse."),
    Curve("style_share", "Pull on style", "share", "Of what the loss pulls at, the share on words and marks of style."),
    Curve("style_tokens", "Style in the text", "share", "Of all tokens that count, the share that is style."),
    Curve("staleness", "Staleness", "updates", "How many lie between the weights that sampled and those that train."),
    Curve(
        "sampler_gap",
        "Gap to the sampler",
        "nats a token",
        "Between the log-probs of sampler and trainer; beyond rounding they are two policies.",
    ),
    Curve("sampler_gap_max", "Largest gap to the sampler", "nats", "Of any sampled token of the step."),
    Curve("importance", "Importance weight", "", "Mean of the student's by the sampler's probability, as capped."),
    Curve("importance_capped", "Weights capped", "share", "Of all tokens that count, the share that the cap cut."),
)
OPTIMISER = (
    Curve("loss", "Loss", "", "Its sign and size depend on the method; watch for jumps, not for a descent."),
    Curve("grad_norm", "Gradient norm", "", "A spike is a step whose rollouts deserve a look."),
    Curve("lr", "Learning rate"),
)
TEACHERS = (
    Curve("gate_kept", "Gate kept", "share", "How much of the teachers' signal the gate lets through."),
    Curve("delta_abs", "Mean |Δ|", "nats", "How far teacher and student are apart on a sampled token."),
    Curve("delta_trend", "Trend of |Δ|", "times", "The last five steps by the five before: 1 is no change."),
    Curve("divergence", "Divergence", "nats", "How far teacher and student are apart at a token."),
    Curve("support_auc", "Support tells right from wrong", "AUC", "0.5 is chance; below it, wrong ones are favoured."),
    Curve("support_pairs", "Teachers behind the AUC", "a step", "Those of rollouts that the verifier could grade."),
    Curve("support_negative", "Support below zero", "share", "Teachers to whom a rollout is less likely."),
    Curve("teacher_surprise", "Surprise of the teachers", "of a uniform guess's", "1: they know as much as a guess."),
)
SPEED = Curve("tokens_per_s", "Throughput", "tokens a second", "Sampled tokens by the time of the step.")
STANCE = Stack(
    "Stance of the teachers",
    "A teacher supports a rollout when its context makes the rollout's tokens likelier, "
    "and suppresses it when less likely; in between it is neutral.",
    (
        ("support_plus", "positive", "supports"),
        ("support_zero", "neutral", "neutral"),
        ("support_minus", "negative", "suppresses"),
    ),
)
POLARITY = Stack(
    "Polarity after the verdict",
    "Validated: the stance agrees with the verifier (supports a correct rollout, suppresses an incorrect one). "
    "Reversed: it disagrees. What then moves the policy is the method's choice: this verdict, the rollout's advantage "
    "within its group, or the trust that all rollouts so far give an item.",
    (
        ("validated", "validated", "validated"),
        ("neutral", "neutral", "neutral"),
        ("reversed", "reversed", "reversed"),
    ),
)
STAGES = ("sample", "verify", "contexts", "score", "update")
NO_STAGE = {"tokens", "tokens_per_s"}
KNOWN = (
    {curve.key for curve in (*HEALTH, *OPTIMISER, *TEACHERS)}
    | {key for stack in (STANCE, POLARITY) for key, _, _ in stack.layers}
    | {"accuracy", "rollouts"}
)
SHARES = {"importance_capped", "truncated", "unknown", "gate_kept", "style_share", "style_tokens", "support_negative"}


def steps_domain(run: Run) -> Domain:
    """From 0 to the last step that anything is known about: the same for every figure."""
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
    """What a reader who cannot see the drawing should hear."""
    finite = [(x, v) for x, v in points if math.isfinite(v)]
    if not finite:
        return f"{title}: no finite value"
    show = percent if share else number
    (first, start), (last, end) = finite[0], finite[-1]
    return f"{title}: {show(start)} at step {number(first, 7)}, {show(end)} at step {number(last, 7)}"


def curve_figure(run: Run, curve: Curve, rows: Sequence[Measurements], frame: Frame = THIRD) -> Figure | None:
    """One metric as a line; None where it was never logged or never changed (see `constants`)."""
    raw = curves.points_of(rows, curve.key)
    if not raw or curves.is_constant(raw):
        return None
    points = curves.condense(raw)
    share = curve.key in SHARES
    show = (lambda value: percent(value, 0)) if share else number
    values = [value for _, value in points]
    bulk = curves.without_spikes(values)
    y_domain = svg.nice_domain(bulk or values, from_zero=share)
    x, y = frame.x(steps_domain(run)), frame.y(y_domain)
    body = svg.y_axis(frame, y, svg.nice_ticks(y_domain), show) + steps_axis(frame, x)
    body += svg.line(curves.inside(points, y_domain), x, y, "series")
    pointer = readout(x.domain, [(curve.title, "%" if share else curve.unit, points)])
    beyond = [(step, v) for step, v in points if math.isfinite(v) and not y_domain[0] <= v <= y_domain[1]]
    spikes = (
        ""
        if not beyond
        else (
            f"Beyond the axis: up to {show(max((v for _, v in beyond), key=abs))}, "
            f"at {some_of(tuple(int(step) for step, _ in beyond))}."
        )
    )
    return Figure(
        curve.title,
        "" if share else curve.unit,
        curve.caption,
        (svg.drawing(frame, story(curve.title, points, share), body, pointer),),
        notes=tuple(filter(None, (spikes, lost_note(raw)))),
    )


def lost_note(points: Points) -> str:
    lost = curves.not_finite(points)
    return f"Not a finite number at {some_of(lost)}." if lost else ""


def other_curves(run: Run) -> tuple[Curve, ...]:
    """Every further number that was logged, in alphabetical order; lists of counts stay in metrics.jsonl."""
    keys = {key for row in run.metrics for key in row.values} - KNOWN
    return tuple(Curve(key, key) for key in sorted(keys))


def constants(run: Run) -> tuple[tuple[str, str], ...]:
    """(title, value) of the metrics that never changed: a sentence says more than a flat line."""
    found = []
    for curve in (*HEALTH, *OPTIMISER, *TEACHERS, *other_curves(run)):
        points = curves.points_of(run.metrics, curve.key)
        if points and curves.is_constant(points):
            value = points[0][1]
            shown = percent(value) if curve.key in SHARES else f"{number(value)} {curve.unit}".strip()
            found.append((curve.title, shown))
    return tuple(found)


def stack_figure(run: Run, stack: Stack) -> Figure | None:
    """Shares over the steps, as areas; None where they were not logged."""
    layers = curves.aligned(run.metrics, [key for key, _, _ in stack.layers])
    if not layers[0]:
        return None
    places = [x for x, _ in layers[0]]
    heights = [[max(value, 0.0) for _, value in layer] for layer in layers]
    totals = [sum(column) or 1.0 for column in zip(*heights)]
    shares = [[h / total for h, total in zip(layer, totals)] for layer in heights]
    css = [name for _, name, _ in stack.layers]
    x, y = HALF.x(steps_domain(run)), HALF.y((0.0, 1.0))
    draw = svg.stacked_areas if len(places) > 1 else svg.stacked_bars
    body = draw(places, shares, x, y, css) + steps_axis(HALF, x)
    body += svg.y_axis(HALF, y, (0.0, 0.5, 1.0), lambda value: percent(value, 0))
    columns = [(name, "%", list(zip(places, s))) for (_, _, name), s in zip(stack.layers, shares)]
    means = [curves.finite_mean(s) for s in shares]
    said = ", ".join(f"{name} {percent(mean, 0)}" for (_, _, name), mean in zip(stack.layers, means))
    legend = [Legend(c, name, percent(mean, 0)) for (_, c, name), mean in zip(stack.layers, means)]
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
