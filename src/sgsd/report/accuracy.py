"""The pictures that answer "did it get better?": accuracy over the steps, and before against after."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from sgsd.report import curves, svg
from sgsd.report.figures import THIRD, Figure, Legend, lost_note, readout, steps_axis, steps_domain, story
from sgsd.report.headline import Comparison, main_split, speaks_first
from sgsd.report.labels import NO_BREAK, count, interval, number, percent
from sgsd.report.svg import Frame, Points
from sgsd.report.values import Estimate, Evaluation, Run

WIDE = Frame(1080, 340, left=48)
NARROW = Frame(380, 300)


def accuracy_figure(run: Run) -> Figure | None:
    """Training accuracy with its Wilson band and rolling mean, and the evaluations with their intervals."""
    split = main_split(run.evaluations)
    held_out = [e for e in run.evaluations if e.step >= 0 and e.split == split]
    points = curves.condense(curves.points_of(run.metrics, "accuracy"))
    if not points and not held_out:
        return None
    with_n = [row for row in run.metrics if "rollouts" in row.values and "accuracy" in row.values]
    share, n = curves.points_of(with_n, "accuracy"), curves.points_of(with_n, "rollouts")
    bounds = [
        (at, curves.wilson(p, total))
        for (at, p), (_, total) in zip(curves.condense(share), curves.condense(n, pool=curves.finite_sum))
    ]
    window = max(3, len(points) // 10 | 1)  # odd, about a tenth of the curve
    smooth = curves.rolling_mean(points, window) if len(points) >= 2 * window else ()
    names = measure_names(held_out)
    legend = [Legend("line-train", "training rollouts, each step")] if points else []
    legend += [Legend("area-train", "95 % interval of a step")] if bounds else []
    legend += [Legend("line-smooth", f"mean of {window} steps")] if smooth else []
    legend += [Legend(f"dot-{min(i, 2)}", f"{name}, {split}") for i, name in enumerate(names)]
    columns = [("training", "%", points), (f"mean of {window} steps", "%", smooth)]
    columns += [(f"{name}, {split}", "%", accuracies(held_out, name)) for name in names]
    pointer = readout(steps_domain(run), [column for column in columns if column[2]])
    title = "; ".join(story(name, pts, share=True) for name, _, pts in columns if pts)
    pictures = tuple(
        svg.drawing(frame, title, _accuracy_body(run, frame, points, bounds, smooth, held_out), pointer)
        for frame in (WIDE, NARROW)
    )
    lost = lost_note(curves.points_of(run.metrics, "accuracy"))
    caption = "Share of correct answers: among the rollouts of a step, and in the evaluations."
    return Figure("Accuracy", "", caption, pictures, tuple(legend), (lost,) if lost else ())


def _accuracy_body(
    run: Run,
    frame: Frame,
    points: Points,
    bounds: Sequence[tuple[float, Estimate]],
    smooth: Points,
    held_out: Sequence[Evaluation],
) -> Markup:
    edges = [edge for _, b in bounds for edge in (b.low, b.high)]
    edges += [edge for e in held_out for m in e.measures.values() for edge in (m.accuracy, m.low, m.high)]
    top = min(1.0, svg.nice_domain([*(v for _, v in points), *edges], from_zero=True)[1])
    y_domain = (0.0, 1.0 if top > 0.7 else top)
    x, y = frame.x(steps_domain(run)), frame.y(y_domain)
    lower, upper = [(at, b.low) for at, b in bounds], [(at, b.high) for at, b in bounds]
    body = svg.y_axis(frame, y, svg.nice_ticks(y_domain), lambda v: number(100 * v) + "\u00a0%")
    body += steps_axis(frame, x) + svg.band(lower, upper, x, y, "train")
    body += svg.line(points, x, y, "train") + svg.line(smooth, x, y, "smooth")
    names = measure_names(held_out)
    for evaluation in held_out:
        for i, name in enumerate(names):
            estimate = evaluation.measures.get(name)
            if estimate:
                shift, css = 5.0 * (i - (len(names) - 1) / 2), f"eval-{min(i, 2)}"
                body += svg.upright(evaluation.step, estimate.low, estimate.high, x, y, css, shift)
                body += svg.dot((evaluation.step + shift / (x(1.0) - x(0.0)), estimate.accuracy), x, y, css)
    return body


def measure_names(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    return tuple(sorted({name for e in evaluations for name in e.measures}, key=speaks_first))


def accuracies(evaluations: Sequence[Evaluation], name: str) -> Points:
    return tuple((float(e.step), e.measures[name].accuracy) for e in evaluations if name in e.measures)


def split_figure(run: Run, split: str) -> Figure:
    """The evaluations of one further split."""
    own = [e for e in run.evaluations if e.split == split]
    names = measure_names(own)
    title = f"Accuracy on {split}"
    columns = [(name, "%", accuracies(own, name)) for name in names]
    said = "; ".join(story(f"{title}, {name}", pts, share=True) for name, _, pts in columns)
    body = _accuracy_body(run, THIRD, (), (), (), own)
    legend = tuple(Legend(f"dot-{min(i, 2)}", name) for i, name in enumerate(names))
    picture = svg.drawing(THIRD, said, body, readout(steps_domain(run), columns))
    caption = f"Evaluation on {count(own[-1].problems, 'problem')}." if own[-1].problems else ""
    return Figure(title, "", caption, (picture,), legend)


def comparison_picture(comparisons: Sequence[Comparison]) -> Markup:
    """Before and after as points with interval bars on one scale, a pair of rows a measure."""
    row, gap = 24, 14
    rows = len(comparisons) * (2 * row + gap)
    frame = Frame(520, rows + 34, left=116, right=146, top=4, bottom=30)
    edges = [e for c in comparisons for m in (c.before, c.after) for e in (m.accuracy, m.low, m.high)]
    top = min(1.0, svg.nice_domain(edges, from_zero=True)[1])
    x = frame.x((0.0, 1.0 if top > 0.7 else top))
    ticks = svg.nice_ticks(x.domain)
    body = svg.tag("path", d="".join(f"M{x(t):.1f} 4V{frame.height - 30}" for t in ticks), class_="rules")
    body += svg.x_axis(frame, x, ticks, show=lambda v: f"{number(100 * v)}{NO_BREAK}%")
    for i, comparison in enumerate(comparisons):
        top_row = 4 + i * (2 * row + gap) + row / 2
        body += svg.label(comparison.measure, 0, top_row + row / 2 + 5, "measure")
        pairs = ((comparison.before, comparison.before_name), (comparison.after, comparison.after_name))
        for height, css, (estimate, name) in zip((top_row, top_row + row), ("before", "after"), pairs):
            body += svg.label(name, frame.left - 12, height + 4, "tick", "end")
            body += svg.level(estimate.low, estimate.high, height, x, css)
            body += svg.tag("circle", cx=x(estimate.accuracy), cy=float(height), r=5, class_=f"dot {css}")
            inside = interval(estimate)
            shown = f"{percent(estimate.accuracy)}{f' ({inside})' if inside else ''}"
            body += svg.label(shown, frame.width, height + 4, f"value {css}", "end")
    said = "; ".join(
        f"{c.measure} {percent(c.before.accuracy)} before, {percent(c.after.accuracy)} after" for c in comparisons
    )
    return svg.drawing(frame, said, body, class_="picture")
