"""A run as a folder: start it, resume it, finish it. Nothing that is already there is overwritten."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from sgsd.config.run_config import RunConfig
from sgsd.distributed.launcher import make_accelerator
from sgsd.distributed.processes import check_processes
from sgsd.files import write_atomic
from sgsd.hub.export import save_model, tell_vllm_remarks
from sgsd.records.live_view import LiveView
from sgsd.records.monitor import fired
from sgsd.records.run_files import Records
from sgsd.records.tracking import check_tracker, tracked
from sgsd.train.engines import close_engine
from sgsd.train.loop import train
from sgsd.train.resume_run import begin, check_folder, restore
from sgsd.train.session import evaluate, evaluated
from sgsd.train.setup import Run, build_run


def run_training(config: RunConfig, console: Console, *, resume: bool = False, command: str = "") -> Path:
    """Train as configured; returns the run folder, complete or stopped on request with a checkpoint.

    Raises:
        UserError: the folder holds another run, there is nothing to resume, or the configuration has changed.
    """
    accelerator = make_accelerator()
    check_processes(accelerator.num_processes)
    folder, main = config.folder, accelerator.is_main_process
    if not main:
        console = Console(quiet=True)
    else:
        check_folder(folder, config, resume=resume)
        check_tracker(config.track)
        tell_vllm_remarks(config, console)
    run = build_run(config, accelerator)
    with run.verifier, ExitStack() as closing:
        closing.callback(close_engine, run.engine)
        records = Records(folder)
        start = restore(run, records, console) if resume else begin(run, records)
        if main:
            records = closing.enter_context(tracked(records, config, console, resumed=resume))
        if run.critic is not None:
            closing.enter_context(run.critic)
        first = start.position.step
        if run.evaluator is not None and first == 0 and 0 not in evaluated(run, records):
            console.print(f"Measuring the {'model' if config.steps == 0 else 'untrained model'} on held-out problems …")
            evaluate(run, records, 0)
        started, before = time.perf_counter(), train_seconds(records)
        with LiveView(console, title(run), config.steps, first) as view:
            end = train(run, records, start, view)
        seconds = before + time.perf_counter() - started
        if end.step < config.steps:
            go_on = f"sgsd train {folder / 'config.yaml'} --resume"
            saved = f"saved with the rollouts of step {end.step + 1}" if end.pending else "saved"
            console.print(f"Stopped after step {end.step}, {saved}. Go on with: {go_on}", markup=False, soft_wrap=True)
            return folder
        if run.evaluator is not None and config.steps > 0:
            console.print("Measuring the trained model on the same problems …")
            evaluate(run, records, config.steps)
        weights = run.policy.strategy.whole_state(run.policy.model)
        if main:
            run.evidence_log.close()
            records.path("metrics").touch()  # a run without a step is a run as well, and has a report
            result = summary(run, records, seconds, command)
            shown = config.model_dump(mode="json")
            save_model(run.policy.model, run.tokenizer, folder, shown, result, weights)
            write_atomic(folder / "summary.json", json.dumps(result, indent=1))
        accelerator.wait_for_everyone()  # who fails on the way out would end those that still write
    return folder


def train_seconds(records: Records) -> float:
    """What the steps so far took, from the timings file."""
    names = ("sample", "verify", "contexts", "score", "update", "bank")
    return sum(record.get(name, 0.0) for record in records.read("timings") for name in names)


def title(run: Run) -> str:
    return f"{run.config.name}: {run.method.name}, {run.method.context.teachers} teachers"


def summary(run: Run, records: Records, seconds: float, command: str) -> dict[str, Any]:
    """What came out, and all one needs to get it again."""
    evaluations = {record["step"]: record for record in records.read("evaluations")}
    config = run.config

    def accuracies(step: int) -> dict[str, Any] | None:
        if step not in evaluations:
            return None
        found = evaluations[step]
        average = {key: found["avg_at_k"][key] for key in ("accuracy", "low", "high")}
        return {"greedy": found["greedy"], f"avg_at_{found['samples']}": average}

    return {
        "name": config.name,
        "method": run.method.name,
        "seed": config.seed,
        "before": accuracies(0),
        "after": accuracies(config.steps),
        "problems": config.evaluation.problems if run.evaluator else 0,
        "guards": fired(records),
        "steps": config.steps,
        "rollouts": config.rollouts,
        "train_seconds": round(seconds, 3),
        **run.provenance(),
        "command": command,
    }
