"""The live view: one table that a newcomer can follow, or one line now and then where nobody watches."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

_ROWS = (
    ("correct", "accuracy", "share of the step's rollouts the verifier called correct", "{:.0%}"),
    ("length", "length", "tokens a rollout", "{:.1f}"),
    ("cut off", "truncated", "rollouts that ran into the length limit", "{:.0%}"),
    ("entropy", "entropy", "nats a token: how undecided the policy is", "{:.3f}"),
    ("teachers for", "support_plus", "teachers that made the rollout likelier", "{:.0%}"),
    ("teachers silent", "support_zero", "teachers within the confidence threshold", "{:.0%}"),
    ("teachers against", "support_minus", "teachers that made the rollout less likely", "{:.0%}"),
    ("validated", "validated", "teachers followed, because the outcome agreed", "{:.0%}"),
    ("reversed", "reversed", "teachers inverted, because the outcome disagreed", "{:.0%}"),
    ("gate kept", "gate_kept", "of each gap, what the gate lets through", "{:.0%}"),
    ("loss", "loss", "the objective", "{:+.5f}"),
    ("gradient", "grad_norm", "its norm before clipping", "{:.4f}"),
)


class LiveView:
    """Shows each step. On a terminal a table that stays in place; elsewhere a line every tenth of the run."""

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
        teachers = (
            f"  validated {record['validated']:.0%} reversed {record['reversed']:.0%}" if "validated" in record else ""
        )
        return (
            f"  step {record['step']:>4}/{self.steps}  correct {record['accuracy']:>4.0%} (last ten {mean:.0%})"
            f"  length {record['length']:.1f}{teachers}  {timing['tokens_per_s']:.0f} tokens/s"
            f"  {_clock(self.seconds_left(record['step']))} left"
        )

    def _table(self, record: dict[str, Any], timing: dict[str, Any]) -> Table:
        left = _clock(self.seconds_left(record["step"]))
        heading = Text(f"{self.title} · step {record['step']} of {self.steps} · {left} left")
        table = Table(title=heading, title_justify="left")
        table.add_column("")
        table.add_column("now", justify="right")
        table.add_column("what it is", style="dim")
        for name, key, meaning, style in _ROWS:
            if key in record:
                table.add_row(name, style.format(record[key]), meaning)
        table.add_row("speed", f"{timing['tokens_per_s']:.0f}", "sampled tokens a second, everything counted")
        return table


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
