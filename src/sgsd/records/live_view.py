"""The live view: a table that a newcomer can follow on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sgsd.records.glossary import GLOSSARY

#: Which metrics are shown, and in which format; label and meaning are the glossary's.
ROWS = {
    "accuracy": "{:.0%}",
    "length": "{:.1f}",
    "truncated": "{:.0%}",
    "entropy": "{:.3f}",
    "stance/supports": "{:.0%}",
    "stance/neutral": "{:.0%}",
    "stance/suppresses": "{:.0%}",
    "polarity/validated": "{:.0%}",
    "polarity/reversed": "{:.0%}",
    "gate_kept": "{:.0%}",
    "loss": "{:+.5f}",
    "grad_norm": "{:.4f}",
    "tokens_per_s": "{:.0f}",
}


class LiveView:
    """Shows each step: a table that stays in place on a terminal, a line every tenth of the run elsewhere."""

    def __init__(self, console: Console, title: str, steps: int, done: int = 0) -> None:
        self.console, self.title, self.steps, self.first = console, title, steps, done
        self.started = time.perf_counter()
        self.recent: list[float] = []
        self.live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None

    def __enter__(self) -> LiveView:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()

    def __call__(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        self.recent = [*self.recent[-9:], record["accuracy"]]
        if self.live is not None:
            self.live.update(self._table(record, timing))
        elif record["step"] % max(1, self.steps // 10) == 0 or record["step"] == self.first + 1:
            self.console.print(self._line(record, timing), highlight=False, soft_wrap=True)

    def seconds_left(self, step: int) -> float:
        return (time.perf_counter() - self.started) / max(1, step - self.first) * (self.steps - step)

    def _line(self, record: dict[str, Any], timing: dict[str, Any]) -> str:
        mean = sum(self.recent) / len(self.recent)
        validated, reversed_ = record.get("polarity/validated"), record.get("polarity/reversed")
        teachers = "" if validated is None else f"  validated {validated:.0%} reversed {reversed_:.0%}"
        return (
            f"  step {record['step']:>4}/{self.steps}  accuracy {record['accuracy']:>4.0%} (last ten {mean:.0%})"
            f"  length {record['length']:.1f}{teachers}  {timing['tokens_per_s']:.0f} tokens/s"
            f"  {_clock(self.seconds_left(record['step']))} left"
        )

    def _table(self, record: dict[str, Any], timing: dict[str, Any]) -> Table:
        left = _clock(self.seconds_left(record["step"]))
        heading = Text(f"{self.title} · step {record['step']} of {self.steps} · {left} left")
        table = Table(title=heading, title_justify="left")
        table.add_column("")
        table.add_column("now", justify="right")
        table.add_column("", style="dim")
        table.add_column("what it is", style="dim")
        values = {**record, "tokens_per_s": timing["tokens_per_s"]}
        for key, style in ROWS.items():
            if key in values:
                metric = GLOSSARY[key]
                unit = "" if metric.unit == "share" else metric.unit
                table.add_row(metric.label, style.format(values[key]), unit, Text(metric.sentence))
        return table


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
