"""Runs the guards after every step, logs those that fire, and ends the run where one is set to stop it.

It reads nothing but metrics.jsonl, so a resumed run finds what the uninterrupted one would have found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sgsd.config.guards_config import GuardsConfig
from sgsd.notices import warn
from sgsd.records.guards import GUARDS, ON_OUTCOMES, TREND, Record, trend
from sgsd.records.run_files import Records
from sgsd.types import RunFailure


class GuardStopError(RunFailure):
    """A guard whose action is stop ended the run; a checkpoint is saved, and --resume goes on."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A guard that fired: the step, its figure, its setting, and a message."""

    guard: str
    step: int
    value: float
    bound: float
    window: int
    action: str
    message: str

    @property
    def line(self) -> str:
        return f"guard {self.guard}, step {self.step}: {self.message}"


class Monitor:
    """A guard fires once: at its first step beyond the bound, and again only after a whole window within it."""

    def __init__(self, config: GuardsConfig, past: Sequence[Record] = ()) -> None:
        settings = {name: getattr(config, name) for name in GUARDS}
        self.settings = {name: setting for name, setting in settings.items() if setting.action != "off"}
        self.history: list[Record] = []
        self.beyond: dict[str, int] = {}  # the last step at which a guard was beyond its bound
        # A finding from before an interruption is not repeated; nothing beyond a window back matters.
        longest = max((setting.window for setting in self.settings.values()), default=0)
        self.history = list(past[: max(0, len(past) - longest - 1)])
        for record in past[len(self.history) :]:
            self(record)
        self.ended_by: Finding | None = None

    def __call__(self, record: Record) -> list[Finding]:
        """The guards that begin to fire with this record."""
        self.history.append(record)
        step, found = len(self.history), []
        for name, setting in self.settings.items():
            guard = GUARDS[name]
            value = guard.figure(self.history, setting.window) if step >= setting.window else None
            if value is None or not guard.beyond(value, setting.bound):
                continue
            quiet = step - self.beyond.get(name, -setting.window)
            self.beyond[name] = step
            if quiet > setting.window:
                message = guard.message(value, setting)
                found.append(
                    Finding(name, record["step"], value, setting.bound, setting.window, setting.action, message)
                )
        self.ended_by = next((finding for finding in found if finding.action == "stop"), None)
        return found

    def with_trend(self, record: dict[str, Any]) -> dict[str, Any]:
        """The step's record with `delta_trend`."""
        moved = trend([*self.history[-TREND + 1 :], record], "delta_abs")
        return record if moved is None else {**record, "delta_trend": moved}

    def check_end(self, folder: Path, step: int, steps: int) -> None:
        """Raises GuardStopError where a guard has ended the run before its last step."""
        if self.ended_by is not None and step < steps:
            go_on = f"saved after step {step}; go on with: sgsd train {folder / 'config.yaml'} --resume"
            raise GuardStopError(f"{self.ended_by.line}; stopped as configured, {go_on}")


def log_findings(records: Records, findings: Sequence[Finding], examples: Sequence[str] = ()) -> None:
    """Write the findings to guards.jsonl and warn of each; examples go with those on outcomes."""
    for finding in findings:
        shown = list(examples) if finding.guard in ON_OUTCOMES else []
        records.write("guards", asdict(finding) | ({"examples": shown} if shown else {}))
        warn("\n".join([finding.line, *shown]))


def fired(records: Records) -> dict[str, list[int]]:
    """The guards that fired in a run, each with its steps."""
    found: dict[str, list[int]] = {}
    for line in records.read("guards"):
        found.setdefault(line["guard"], []).append(line["step"])
    return found
