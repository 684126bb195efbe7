"""The outcome of a run, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgsd.evaluation.stats import Estimate
from sgsd.records.run_files import Records

Accuracies = Mapping[str, Estimate]


@dataclass(frozen=True)
class TrainResult:
    """The result of `sgsd.train`: where everything is, and what came out.

    Args:
        folder: the run folder, with `metrics.jsonl`, `config.yaml` and checkpoints.
        steps: updates made, earlier sessions of a resumed run included.
        stopped: True where Ctrl-C or SIGTERM ended the run before its last step; `sgsd.train(…, resume=True)` goes on.

    Example:
        >>> result = TrainResult(Path("runs/none"), steps=0, stopped=True)
        >>> result.before, result.after, result.model_folder, result.metrics
        (None, None, None, [])
    """

    folder: Path
    steps: int
    stopped: bool = False

    @property
    def before(self) -> Accuracies | None:
        """Held-out accuracy of the untrained model: "greedy" and "avg_at_K", each with `low` and `high` (95 %)."""
        return accuracies(Records(self.folder), 0)

    @property
    def after(self) -> Accuracies | None:
        """The same after the last step; None where nothing was measured then."""
        return accuracies(Records(self.folder), self.steps)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One record a step, read from the file when asked for; docs/glossary.md explains the keys."""
        return Records(self.folder).read("metrics")

    @property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json; empty where the run was stopped."""
        path = self.folder / "summary.json"
        return {} if self.stopped or not path.exists() else json.loads(path.read_text(encoding="utf-8"))

    @property
    def model_folder(self) -> Path | None:
        """The saved adapter, or the model where all weights trained; None where the run was stopped."""
        saved = (self.folder / name for name in ("adapter", "model"))
        return None if self.stopped else next((path for path in saved if path.exists()), None)


def accuracies(records: Records, step: int) -> Accuracies | None:
    """The held-out accuracies after `step` updates, with their intervals; None where none were measured."""
    evaluations = [record for record in records.read("evaluations") if record["step"] == step]
    if not evaluations:
        return None
    found = evaluations[-1]
    average = {key: found["avg_at_k"][key] for key in ("accuracy", "low", "high")}
    return {"greedy": Estimate(**found["greedy"]), f"avg_at_{found['samples']}": Estimate(**average)}
