"""Methods against one another on the lab: equal rollouts, several seeds, intervals.

Every run is a command of its own (`sgsd train CONFIG`) in a folder of its own, so that a table that was stopped goes on
where it was, and any cell of it can be looked at or run again by hand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.resources import files
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from sgsd.evaluation import Estimate, over_seeds
from sgsd.types import UserError

REPLACED = ("method", "bank")  # replaced as a whole; the other sections are laid over the demo's


def lab_configs() -> dict[str, dict[str, Any]]:
    """The configuration of every method that learns on the lab, by the method's name."""
    demo, changes = (_read(name) for name in ("demo.yaml", "methods.yaml"))
    return {name: {**overlaid(demo, change or {}), "name": f"lab-{name}"} for name, change in changes.items()}


def overlaid(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `change` over `base`, section by section."""
    merged = dict(base)
    for key, value in change.items():
        inner = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(inner, Mapping) and key not in REPLACED
        merged[key] = {**inner, **value} if both else value  # type: ignore[dict-item]
    return merged


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((files("sgsd.lab") / name).read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class Cell:
    """One method with one seed."""

    method: str
    seed: int
    folder: Path

    @property
    def summary(self) -> dict[str, Any] | None:
        """The run's summary, if it has ended."""
        file = self.folder / "summary.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


@dataclass(frozen=True)
class Row:
    """A method over its seeds: held-out avg@4 after training, its mean, and a 95 % interval of the mean over seeds."""

    method: str
    before: float
    after: tuple[float, ...]
    greedy: float
    seconds: float

    @property
    def estimate(self) -> Estimate:
        return over_seeds(self.after)

    def cells(self) -> tuple[str, ...]:
        """The row's texts in a table."""
        e, several = self.estimate, len(self.after) > 1
        return (
            self.method,
            f"{self.before:.3f}",
            f"{e.accuracy:.3f}",
            f"{e.low:.3f}–{e.high:.3f}" if several else "one seed",
            " ".join(f"{value:.3f}" for value in self.after),
            f"{self.greedy:.3f}",
            f"{self.seconds:.0f}",
        )

    def to_dict(self) -> dict[str, Any]:
        """The row for JSON, which knows no infinity: one run tells nothing about the spread, and has no bounds."""
        found = self.estimate.to_dict()
        return {**asdict(self), "over_seeds": {key: x if isfinite(x) else None for key, x in found.items()}}


def cells(methods: Sequence[str], seeds: Sequence[int], root: Path) -> list[Cell]:
    """List the table's cells, seeds outside and methods inside, so that a stopped table has whole seeds.

    Raises UserError: a method the lab has no configuration for.
    """
    known = lab_configs()
    if strange := [name for name in methods if name not in known]:
        raise UserError(f"lab table: {strange[0]} has no lab configuration; there are {', '.join(known)}")
    return [Cell(name, seed, root / f"{name}-{seed}") for seed in seeds for name in methods]


def run_cells(wanted: Sequence[Cell], workers: int, report: Callable[[Cell, str], None]) -> None:
    """Run what has not run yet, `workers` at a time with one thread each; `report` gets each with its error, or ""."""
    configs = lab_configs()
    with ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(run_cell, cell, configs[cell.method]): cell for cell in wanted if cell.summary is None}
        for future in as_completed(waiting):
            report(waiting[future], future.result())


def run_cell(cell: Cell, config: Mapping[str, Any]) -> str:
    """Train one cell; returns what went wrong in one line, or nothing."""
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    file = cell.folder.with_suffix(".yaml")
    own = {**config, "seed": cell.seed, "output": str(cell.folder), "compute": {"threads": 1}}
    file.write_text(yaml.safe_dump(own, sort_keys=False), encoding="utf-8")
    resume = ["--resume"] if (cell.folder / "config.yaml").is_file() else []
    command = [sys.executable, "-m", "sgsd.cli", "train", str(file), *resume]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    lines = (done.stderr or done.stdout).strip().splitlines()
    return "" if done.returncode == 0 else (lines[-1] if lines else f"ended with {done.returncode}")


def rows(wanted: Sequence[Cell]) -> Iterator[Row]:
    """Yield a row for every method whose cells have all ended, best first."""
    found = []
    for method in dict.fromkeys(cell.method for cell in wanted):
        summaries = [cell.summary for cell in wanted if cell.method == method]
        ended = [summary for summary in summaries if summary is not None]
        if len(ended) == len(summaries):
            found.append(_row(method, ended))
    yield from sorted(found, key=lambda row: -row.estimate.accuracy)


def _row(method: str, summaries: Sequence[Mapping[str, Any]]) -> Row:
    return Row(
        method=method,
        before=fmean(summary["before"]["avg_at_4"]["accuracy"] for summary in summaries),
        after=tuple(summary["after"]["avg_at_4"]["accuracy"] for summary in summaries),
        greedy=fmean(summary["after"]["greedy"]["accuracy"] for summary in summaries),
        seconds=fmean(summary["train_seconds"] for summary in summaries),
    )
