"""Draws docs/bank_item.svg: one item of a bank, from the rollouts it was learned from to its record in a run.

`python docs/bank_item.py` (in a checkout, with the extra `writer`) builds a bank from 64 rollouts of the lab's policy,
trains 20 steps with it, takes the item with the longest way behind it and draws it: half a minute on one core. Policy,
verifier, merging and ledger are the real ones; the writer is tests/scripted_server.py, which answers by rule, so that
the picture needs no model from elsewhere.
"""

from __future__ import annotations

import os
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sgsd.bank import BankStore, ItemHistory, ItemRow, Kind, item_history, item_texts
from sgsd.cli.bank_ledger import read_ledger
from sgsd.report.svg import EMPTY, tag

HERE = Path(__file__).parent
STEPS = 20
LINE, PAD, GAP = 15, 7, 26  # pixels: of a line of text, within a box, between columns
CHAR = 7.0  # of a character of the 11-pixel monospaced font, with something to spare
ROLLOUTS_SHOWN = 4  # of one proposal
WIDTHS = {"rollouts": 180, "proposals": 214, "merged": 130, "bank": 226}
STYLE = """
svg{--bg:#fff;--ink:#1f2328;--soft:#59636e;--line:#8c959f;--box:#f6f8fa;--bank:#ddf4ff;--good:#116329;--bad:#a40e26}
@media(prefers-color-scheme:dark){svg{--bg:#0d1117;--ink:#e6edf3;--soft:#9198a1;--line:#656c76;--box:#161b22;
--bank:#0c2d4d;--good:#56d364;--bad:#ff9492}}
.bg{fill:var(--bg)}text{font:11px ui-monospace,Menlo,Consolas,monospace;fill:var(--ink);white-space:pre}
.head{font-weight:bold}.soft{fill:var(--soft)}.good{fill:var(--good)}.bad{fill:var(--bad)}
.box{fill:var(--box);stroke:var(--line)}.bank{fill:var(--bank);stroke:var(--line)}
path{fill:none;stroke:var(--line)}
"""

Line = tuple[str, str]  # a class of the style sheet, and what is said


@dataclass(frozen=True)
class Node:
    """A piece of text in a column, in a box but for rollouts, and the nodes it came from."""

    kind: str  # a key of WIDTHS
    column: int  # counted from the rollouts, which are 0
    lines: Sequence[Line]
    sources: Sequence[Node] = ()

    @property
    def height(self) -> float:
        return LINE * len(self.lines) + 2 * (PAD if self.column else 2)

    @property
    def behind(self) -> float:
        """The height of all that it came from."""
        return sum(source.room for source in self.sources) + 6 * max(0, len(self.sources) - 1)

    @property
    def room(self) -> float:
        return max(self.height, self.behind)


def drawing(life: ItemHistory, row: ItemRow | None = None, steps: int = STEPS) -> str:
    """The item's way as one SVG document; `row` is its line in the ledger after a run of that many steps."""
    merged = _merged(life)
    last = max(2, merged.column + 1)
    bank = Node("bank", last, _bank_lines(life, row, steps), [merged])
    names = ["rollouts", "proposals", *(f"merged, layer {n}" for n in range(1, last - 1)), "bank → ledger"]
    heads = [tag("text", name, x=_left(column), y=22, class_="head") for column, name in enumerate(names[:-1])]
    heads.append(tag("text", names[-1], x=_left(last), y=22, class_="head"))
    width, height = _left(last) + WIDTHS["bank"] + 14, round(bank.room) + 48
    parts = [
        tag("title", f"The way of {life.item.id} from its rollouts to its record in a run"),
        tag("style", Markup(STYLE)),
        tag("rect", class_="bg", width=width, height=height, rx=6),
        *heads,
        *_drawn(bank, 34.0),
    ]
    box = f"0 0 {width} {height}"
    namespace = "http://www.w3.org/2000/svg"
    return str(tag("svg", EMPTY.join(parts), xmlns=namespace, role="img", viewBox=box, width=width, height=height))


def _drawn(node: Node, top: float) -> Iterator[Markup]:
    """The node in the middle of its room, and left of it those it came from, each joined to it by a line."""
    x, y = _left(node.column), top + (node.room - node.height) / 2
    pad = PAD if node.column else 2
    if node.column:
        yield tag("rect", class_=node.kind if node.kind == "bank" else "box", x=x, y=y, width=WIDTHS[node.kind],
                  height=node.height, rx=5)  # fmt: skip
    for number, (look, text) in enumerate(node.lines):
        yield tag("text", text, class_=look or "plain", x=x + pad, y=y + pad + LINE * number + 11)
    below = top + (node.room - node.behind) / 2
    for source in node.sources:
        start, end = below + source.room / 2, top + node.room / 2
        bend = x - GAP
        yield tag("path", d=f"M{_left(source.column) + WIDTHS[source.kind]} {start:.0f}H{bend}"
                  f"C{x - GAP / 2:.0f} {start:.0f} {x - GAP / 2:.0f} {end:.0f} {x} {end:.0f}")  # fmt: skip
        yield from _drawn(source, below)
        below += source.room + 6


def _merged(life: ItemHistory) -> Node:
    """An item as the proposal it was, and as what it was merged into, one column past the last of its parents."""
    sources = [_merged(parent) for parent in life.parents]
    if life.own or not sources:
        sources = [_proposal(life), *sources]
    if not life.parents:
        return sources[0]
    event = next(event for event in reversed(life.events) if event.change.kind in (Kind.MERGED, Kind.CREATED))
    lines = [("head", life.item.id), ("soft", f"event {event.seq}")]
    return Node("merged", 1 + max(source.column for source in sources), lines, sources)


def _proposal(life: ItemHistory) -> Node:
    said = _wrapped(item_texts(life.item)[1], "proposals")
    seen = [_rollout(memory) for memory in life.own[:ROLLOUTS_SHOWN]]
    if len(life.own) > ROLLOUTS_SHOWN:
        seen.append(Node("rollouts", 0, [("soft", f"… and {len(life.own) - ROLLOUTS_SHOWN} more")]))
    return Node("proposals", 1, [("head", life.item.id), *(("soft", line) for line in said)], seen)


def _rollout(memory: Mapping[str, Any]) -> Node:
    look, mark = ("good", "✓") if memory.get("correct") is True else ("bad", "✗")
    said = textwrap.shorten(str(memory.get("problem", "")), 25, placeholder="…")
    return Node("rollouts", 0, [(look, f"{mark} {said}")])


def _bank_lines(life: ItemHistory, row: ItemRow | None, steps: int) -> list[Line]:
    lines = [("head", life.item.id)]
    lines += [("plain", line) for text in item_texts(life.item) for line in _wrapped(text, "bank")]
    if row is None:
        return lines
    told = (
        f"a run of {steps} steps:",
        f"shown by       {row.retrieved} teachers",
        f"validated      {row.validated}",
        f"reversed       {row.reversed}",
        f"neutral        {row.neutral}",
        f"on successes   {_signed(row.support_on_success)}",
        f"on failures    {_signed(row.support_on_failure)}",
        f"contrast       {_signed(row.contrast)}",
        f"standing       {_signed(row.standing)}",
        f"trust          {_signed(row.trust)}",
    )
    return [*lines, ("plain", ""), *(("soft", line) for line in told)]


def _wrapped(text: str, kind: str) -> list[str]:
    return textwrap.wrap(text, int((WIDTHS[kind] - 2 * PAD) / CHAR))


def _left(column: int) -> int:
    """Where a column begins: rollouts, proposals, then the layers of merging and, as the last, the bank."""
    widths = [WIDTHS["rollouts"], WIDTHS["proposals"]][:column] + [WIDTHS["merged"]] * max(0, column - 2)
    return 14 + sum(widths) + GAP * column


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"


def real_item(folder: Path) -> tuple[ItemHistory, ItemRow]:
    """The item with the longest way behind it, of a bank built and trained with in `folder`."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from runs import SMALL, merged, quiet
    from scripted_server import scripted_server
    from sgsd.train import make_config, run_training
    from sgsd.train.bank_building import build_from_config

    os.environ.setdefault("OPENAI_API_KEY", "none")
    bank = {"path": str(folder / "bank.sqlite"), "pairing": "rotated"}
    with scripted_server() as (url, _):
        writer = {"kind": "server", "model": "scripted", "base_url": url, "retries": 0}
        skills = {"rollouts": 64, "merge_group": 8}
        build_from_config(make_config(merged(SMALL, {"bank": bank, "writer": writer, "skills": skills})), quiet())
    changes = {"output": str(folder / "run"), "bank": bank, "steps": STEPS, "rollouts": 32}
    run_training(make_config(merged(SMALL, changes)), quiet())
    ledger = read_ledger(folder / "run")
    with BankStore(folder / "bank.sqlite", read_only=True) as store:
        lives = [item_history(store, item.id) for item in store.snapshot().items if item.id in ledger.items]
    life = max(lives, key=lambda life: (_merged(life).column, len(life.memories), life.item.id))
    (row,) = replace(ledger, items={life.item.id: ledger.stats(life.item.id)}).rows()
    return life, row


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        (HERE / "bank_item.svg").write_text(drawing(*real_item(Path(scratch))) + "\n", encoding="utf-8")
