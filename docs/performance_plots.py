"""Draws docs/performance_*.svg from benchmarks/results/step_*.json: `python docs/performance_plots.py`, in a checkout.

A result that is not there is left out, and its drawing with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sgsd.report.svg import EMPTY, tag

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"
WIDTH, HEIGHT, LEFT, TOP, GAP = 250, 150, 58, 34, 78  # pixels: of a panel, of what stands round it
STYLE = """
svg{--bg:#fff;--ink:#1f2328;--soft:#59636e;--line:#d1d9e0;--mark:#0969da}
@media(prefers-color-scheme:dark){svg{--bg:#0d1117;--ink:#e6edf3;--soft:#9198a1;--line:#3d444d;--mark:#58a6ff}}
.bg{fill:var(--bg)}text{font:11px ui-monospace,Menlo,Consolas,monospace;fill:var(--ink)}
.head{font-weight:bold}.soft{fill:var(--soft)}.right{text-anchor:end}.middle{text-anchor:middle}
.axis{stroke:var(--line)}.fit{stroke:var(--soft);stroke-dasharray:4 3}.mark,.bar{fill:var(--mark)}
"""


def growth(found: dict[str, Any]) -> str:
    """A column a curve: seconds with their line above, peak extra memory below, all axes from 0."""
    panels: list[Markup] = []
    for column, (name, curve) in enumerate(found["curves"].items()):
        x = curve["x"]
        left = LEFT + column * (WIDTH + GAP)
        seconds, line = curve["processor"]["seconds"], curve["processor"]["line"]
        mebibytes = [peak / 2**20 for peak in curve["peak_extra_bytes"]]
        panels += _panel(f"processor seconds over {name}", left, TOP, x, seconds, (line["start"], line["slope"]))
        panels += _panel(f"peak extra MiB over {name}", left, TOP + HEIGHT + GAP, x, mebibytes)
    width = LEFT + len(found["curves"]) * (WIDTH + GAP) - GAP + 24
    return _svg("How a step grows", panels, width, TOP + 2 * HEIGHT + GAP + 34)


def _panel(
    title: str, left: float, top: float, x: Sequence[float], y: Sequence[float], line: tuple[float, float] | None = None
) -> Iterator[Markup]:
    far, high = max(x), 1.1 * max(*y, 1e-9)

    def place(at: float, value: float) -> tuple[float, float]:
        return left + WIDTH * at / far, top + HEIGHT * (1 - value / high)

    yield tag("text", title, class_="head", x=left, y=top - 12)
    yield tag("path", class_="axis", fill="none", d=f"M{left} {top}V{top + HEIGHT}H{left + WIDTH}")
    for value in (0.0, max(y)):
        yield tag("text", f"{value:,.3g}" if value < 1000 else f"{value:,.0f}", class_="soft right", x=left - 6,
                  y=place(0, value)[1] + 4)  # fmt: skip
    for at in (0, far):
        yield tag("text", f"{at:,}", class_="soft middle", x=place(at, 0)[0], y=top + HEIGHT + 16)
    if line is not None:
        (x1, y1), (x2, y2) = (place(at, line[0] + line[1] * at) for at in (0.0, far))
        yield tag("line", class_="fit", x1=x1, y1=y1, x2=x2, y2=y2)
    for at, value in zip(x, y):
        cx, cy = place(at, value)
        yield tag("circle", tag("title", f"{at:,}: {value:,.4g}"), class_="mark", cx=cx, cy=cy, r=3.5)


def shares(found: dict[str, Any]) -> str:
    """A bar a phase of a step."""
    total, parts = sum(found["seconds"].values()), []
    for row, (phase, seconds) in enumerate(found["seconds"].items()):
        y = TOP + 24 * row
        length = 360 * seconds / total
        parts += [
            tag("text", phase, class_="right", x=LEFT + 16, y=y + 12),
            tag("rect", class_="bar", x=LEFT + 24, y=y, width=length, height=16),
            tag("text", f"{seconds:.3f} s, {seconds / total:.0%}", class_="soft", x=LEFT + 30 + length, y=y + 12),
        ]
    heading = tag("text", f"Where {total:.2f} s of a step go, on the lab", class_="head", x=14, y=20)
    return _svg("Where a step's time goes", [heading, *parts], 580, TOP + 24 * len(found["seconds"]) + 10)


def _svg(title: str, parts: Sequence[Markup], width: float, height: float) -> str:
    body = [
        tag("title", title),
        tag("style", Markup(STYLE)),
        tag("rect", class_="bg", width=width, height=height, rx=6),
    ]
    box = f"0 0 {width:.0f} {height:.0f}"
    namespace = "http://www.w3.org/2000/svg"
    inside = EMPTY.join([*body, *parts])
    return str(tag("svg", inside, xmlns=namespace, role="img", viewBox=box, width=width, height=height))


def main(results: Path = RESULTS, folder: Path = HERE) -> list[Path]:
    """Draw what has been measured; returns the files."""
    drawn = []
    for preset, name, draw in (("curves", "growth", growth), ("parts", "parts", shares)):
        file = results / f"step_{preset}.json"
        if file.is_file():
            drawn.append(folder / f"performance_{name}.svg")
            drawn[-1].write_text(draw(json.loads(file.read_text(encoding="utf-8"))) + "\n", encoding="utf-8")
    return drawn


if __name__ == "__main__":
    main()
