"""The guards that fired in a run, as the page shows them. Read from guards.jsonl, which a run without trouble lacks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sgsd.report.jsonl import Row, read_lines


@dataclass(frozen=True, slots=True)
class Fired:
    """One guard at the step where it began to fire; `stopped` where it ended the session."""

    step: int
    guard: str
    message: str
    stopped: bool


def read_fired(folder: Path) -> tuple[Fired, ...]:
    """All of them in order; a line that is still being written is left out. Raises UserError for a broken one."""
    return tuple(map(parse_fired, read_lines(folder / "guards.jsonl").rows))


def parse_fired(row: Row) -> Fired:
    return Fired(row.integer("step"), row.text("guard"), row.text("message"), row.text("action") == "stop")
