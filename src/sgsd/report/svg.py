"""Inline SVG from numbers: scales, ticks, and marks. Pure functions; every piece comes back escaped.

Colours and fonts are classes of the page's style sheet, so that light, dark and print need one drawing only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from sgsd.report.labels import number, plain

Points = Sequence[tuple[float, float]]
Domain = tuple[float, float]
Show = Callable[[float], str]
EMPTY = Markup("")
TINY = 1e-290  # below it, floats lose the digits that round steps need


def tag(name: str, body: Markup | str = EMPTY, **attributes: object) -> Markup:
    """One element; `class_` and `data_x` are written class and data-x, floats with one decimal."""
    parts = [Markup("<") + Markup(name)]
    for key, value in attributes.items():
        shown = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else plain(value)
        parts.append(Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), shown))
    inner = body if isinstance(body, Markup) else Markup.escape(plain(body))
    closing = Markup("/>") if inner == "" else Markup(">") + inner + Markup("</") + Markup(name) + Markup(">")
    return EMPTY.join(parts) + closing


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight line from data to pixels."""

    domain: Domain
    pixels: Domain

    def __call__(self, value: float) -> float:
        low, high = self.domain
        share = (value - low) / (high - low)
        return self.pixels[0] + share * (self.pixels[1] - self.pixels[0])


@dataclass(frozen=True, slots=True)
class Frame:
    """The size of a drawing and the margins that its axes need."""

    width: int
    height: int
    left: int = 44
    right: int = 10
    top: int = 8
    bottom: int = 26

    def x(self, domain: Domain) -> Scale:
        return Scale(domain, (float(self.left), float(self.width - self.right)))

    def y(self, domain: Domain) -> Scale:
        return Scale(domain, (float(self.height - self.bottom), float(self.top)))


def nice_step(span: float, wanted: int) -> float:
    """The 1, 2, 2.5 or 5 × 10^n that cuts `span` into about `wanted` parts."""
    rough = span / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if rough <= factor * power * 1.0001)


def nice_ticks(domain: Domain, wanted: int = 4, whole: bool = False) -> tuple[float, ...]:
    """Round numbers inside the domain, about `wanted` + 1 of them; `whole` for counts such as steps."""
    low, high = domain
    step = nice_step(high - low, wanted)
    step = max(1.0, float(math.ceil(step))) if whole else step
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return tuple(i * step for i in range(first, last + 1))


def nice_domain(values: Iterable[float], from_zero: bool = False, wanted: int = 4) -> Domain:
    """A domain with round ends that holds every finite value, and is never empty."""
    finite = [value if abs(value) > TINY else 0.0 for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    low, high = (min(low, 0.0), max(high, 0.0)) if from_zero else (low, high)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if high else (0.0, 1.0)
    step = nice_step(high - low, wanted)
    return math.floor(low / step + 1e-6) * step, math.ceil(high / step - 1e-6) * step


def line(points: Points, x: Scale, y: Scale, class_: str) -> Markup:
    """A line through the points, interrupted where a value is not finite; a lone point becomes a dot."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for at, value in points:
        if math.isfinite(value):
            pieces[-1].append((at, value))
        elif pieces[-1]:
            pieces.append([])
    drawn = [piece for piece in pieces if piece]
    path = "".join("M" + "L".join(_pair(x(a), y(v)) for a, v in piece) for piece in drawn if len(piece) > 1)
    dots = [dot(piece[0], x, y, class_ + " lone", 2.0) for piece in drawn if len(piece) == 1]
    return (tag("path", d=path, class_=f"line {class_}") if path else EMPTY) + EMPTY.join(dots)


def band(lower: Points, upper: Points, x: Scale, y: Scale, class_: str) -> Markup:
    """The surface between two lines over the same places; places where either is not finite are left out."""
    both = [(a, b) for a, b in zip(lower, upper) if math.isfinite(a[1]) and math.isfinite(b[1])]
    if len(both) < 2:
        return EMPTY
    outline = [upper_point for _, upper_point in both] + [lower_point for lower_point, _ in reversed(both)]
    path = "M" + "L".join(_pair(x(a), y(v)) for a, v in outline) + "Z"
    return tag("path", d=path, class_=f"area {class_}")


def stacked_areas(
    xs: Sequence[float], layers: Sequence[Sequence[float]], x: Scale, y: Scale, css: Sequence[str]
) -> Markup:
    """Layers on top of each other, the first at the bottom; `layers` holds one sequence a layer."""
    floors = [[sum(layer[i] for layer in layers[:depth]) for i in range(len(xs))] for depth in range(len(layers) + 1)]
    edges = [list(zip(xs, floor)) for floor in floors]
    return EMPTY.join(band(low, high, x, y, c) for (low, high), c in zip(pairwise(edges), css))


def stacked_bars(
    xs: Sequence[float], layers: Sequence[Sequence[float]], x: Scale, y: Scale, css: Sequence[str]
) -> Markup:
    """One bar a place, cut into layers, the first at the bottom; values that are not finite count as zero."""
    width = max(1.0, min(24.0, 0.8 * abs(x.pixels[1] - x.pixels[0]) / max(len(xs), 1)))
    paths = ["" for _ in layers]
    for i, at in enumerate(xs):
        floor = 0.0
        for depth, layer in enumerate(layers):
            height = layer[i] if math.isfinite(layer[i]) else 0.0
            if height > 0:
                left = _short(x(at) - width / 2)
                top, bottom = y(floor + height), y(floor)
                paths[depth] += f"M{left} {_short(bottom)}V{_short(top)}h{_short(width)}V{_short(bottom)}Z"
            floor += height
    return EMPTY.join(tag("path", d=path, class_=f"area {c}") for path, c in zip(paths, css) if path)


def dot(point: tuple[float, float], x: Scale, y: Scale, class_: str, radius: float = 3.5) -> Markup:
    return tag("circle", cx=x(point[0]), cy=y(point[1]), r=radius, class_=f"dot {class_}")


def upright(at: float, low: float, high: float, x: Scale, y: Scale, class_: str, shift: float = 0.0) -> Markup:
    """A vertical interval with short caps; `shift` in pixels keeps neighbours apart."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return EMPTY
    centre, top, bottom = x(at) + shift, y(high), y(low)
    path = f"M{_pair(centre, top)}V{_short(bottom)}"
    path += "".join(f"M{_pair(centre - 3, edge)}h6" for edge in (top, bottom))
    return tag("path", d=path, class_=f"bar {class_}")


def level(low: float, high: float, height: float, x: Scale, class_: str) -> Markup:
    """A horizontal interval at a pixel height."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return EMPTY
    return tag("path", d=f"M{_pair(x(low), height)}H{_short(x(high))}", class_=f"bar {class_}")


def label(text: str, x: float, y: float, class_: str = "", anchor: str = "start") -> Markup:
    return tag("text", text, x=float(x), y=float(y), class_=class_ or "tick", text_anchor=anchor)


def x_axis(frame: Frame, x: Scale, ticks: Sequence[float], name: str = "", show: Show = number) -> Markup:
    """The rule and its numbers; the first number carries the name of the axis: "step 0"."""
    base = frame.height - frame.bottom
    rule = tag("path", d=f"M{frame.left} {base}H{frame.width - frame.right}", class_="axis")
    names = [f"{name} {show(t)}" if i == 0 and name else show(t) for i, t in enumerate(ticks)]
    return rule + EMPTY.join(label(text, x(t), base + 16, anchor="middle") for text, t in zip(names, ticks))


def y_axis(frame: Frame, y: Scale, ticks: Sequence[float], show: Show = number) -> Markup:
    path = "".join(f"M{frame.left} {_short(y(t))}H{frame.width - frame.right}" for t in ticks)
    texts = [label(show(t), frame.left - 7, y(t) + 4, anchor="end") for t in ticks]
    return tag("path", d=path, class_="rules") + EMPTY.join(texts)


def drawing(frame: Frame, title: str, body: Markup, readout: str = "", class_: str = "plot") -> Markup:
    """The <svg>: named for those who listen, scaled by its viewBox; `readout` is the JSON that the pointer reads."""
    pointer = EMPTY
    extra: dict[str, object] = {}
    if readout:
        # The empty title keeps the browser's own tooltip away from ours.
        cover = {"x": frame.left, "y": 0, "width": frame.width - frame.left, "height": frame.height}
        pointer = tag("path", d="", class_="cross") + tag("rect", tag("title", Markup(" ")), class_="cover", **cover)
        extra = {
            "data_readout": readout,
            "data_plot": f"{frame.left} {frame.width - frame.right} {frame.top} {frame.height - frame.bottom}",
        }
    return tag(
        "svg",
        tag("title", title) + body + pointer,
        viewBox=f"0 0 {frame.width} {frame.height}",
        class_=class_,
        role="img",
        aria_label=title,
        **extra,
    )


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _pair(x: float, y: float) -> str:
    return f"{_short(x)} {_short(y)}"
