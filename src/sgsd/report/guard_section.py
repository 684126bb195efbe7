"""The guards of a run: which of them watched, and which fired. A run without trouble has no guards.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sgsd.report.jsonl import Row, read_lines
from sgsd.report.values import Fired, GuardSetting, Run


def read_fired(folder: Path) -> tuple[Fired, ...]:
    """All of them in order; a line that is still being written is left out. Raises UserError for a broken one."""
    return tuple(map(parse_fired, read_lines(folder / "guards.jsonl").rows))


def parse_fired(row: Row) -> Fired:
    return Fired(row.integer("step"), row.text("guard"), row.text("message"), row.text("action") == "stop")


def guard_settings(config: Mapping[str, Any]) -> tuple[GuardSetting, ...]:
    """Every guard that the resolved config knows, whole; none where it is of another make."""
    known = config.get("guards")
    found = known.items() if isinstance(known, Mapping) else ()
    return tuple(
        GuardSetting(str(name), setting["window"], setting.get("action") != "off")
        for name, setting in found
        if isinstance(setting, Mapping) and isinstance(setting.get("window"), int)
    )


def stopper(run: Run) -> Fired | None:
    """The guard that ended an unfinished run where it now stands."""
    return next((fired for fired in run.fired if ended(run, fired) and fired.step == run.step), None)


def ended(run: Run, fired: Fired) -> bool:
    """Whether it ended a session: at the last step there is nothing left to stop."""
    return fired.stops and fired.step != run.planned_steps


def watch_words(run: Run) -> str:
    """How many guards watched, so that silence can be told from blindness; empty where the config does not say."""
    if not run.guards:
        return ""
    on = [guard for guard in run.guards if guard.on]
    short = sum(guard.window > run.step for guard in on)
    said = f"{'No guard' if not run.fired else 'A guard'} fired: {len(on)} watched, {len(run.guards) - len(on)} off"
    waited = f"; {short} had fewer steps than {'its' if short == 1 else 'their'} window" if short else ""
    return f"{said}{waited}. A guard whose figure the method does not log says nothing."
