"""Held-out accuracy before, during and after training."""

from __future__ import annotations

from typing import Any

from sgsd.config.run_config import RunConfig
from sgsd.distributed.processes import from_first
from sgsd.records.run_files import Records
from sgsd.train.setup import Run


def evaluation_due(config: RunConfig, step: int) -> bool:
    """Between the first step and the last; those two are the run's own."""
    every = config.evaluation.every
    return every > 0 and 0 < step < config.steps and step % every == 0


def evaluate(run: Run, records: Records, step: int) -> dict[str, Any] | None:
    """Held-out accuracy now, written to evaluations.jsonl; None where no evaluation is configured."""
    if run.evaluator is None:
        return None
    run.engine.sync()
    record = {"step": step, "split": "held-out", **run.evaluator.run().to_dict()}
    if run.accelerator.is_main_process:
        records.write("evaluations", record)
    return record


def evaluated(run: Run, records: Records) -> set[int]:
    """The steps whose evaluation has been written."""
    return from_first(run.accelerator, lambda: {record["step"] for record in records.read("evaluations")})
