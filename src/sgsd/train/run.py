"""A run as a folder: start it, resume it, finish it. Nothing that is already there is overwritten."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from sgsd.config.loading import load_config, make_config
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
from sgsd.train.loop import train_steps
from sgsd.train.result import TrainResult, accuracies
from sgsd.train.resume_run import begin, check_folder, restore
from sgsd.train.session import OnStep, evaluate, evaluated
from sgsd.train.setup import Run, build_run


def train(
    config: RunConfig | Mapping[str, Any] | str | Path,
    *,
    resume: bool = False,
    on_step: OnStep | None = None,
    console: Console | None = None,
) -> TrainResult:
    """Train as configured, evaluate before and after, and leave a run folder. Quiet unless given a console.

    Args:
        config: a configuration, a mapping of its keys, or the path of a YAML file; docs/configuration.md has the keys.
        resume: go on from the newest checkpoint in the run folder, to the last bit as if nothing had happened.
        on_step: called after every step, on the first process, with its metrics (docs/glossary.md) and its timings
            (seconds by phase, tokens a second); an exception that it raises ends the run.
        console: shows the progress, for instance `rich.console.Console()`.

    Returns:
        The folder, the accuracies before and after, and the metrics of every step.

    Raises:
        UserError: the configuration is wrong, the folder holds another run, or there is nothing to resume.
        NonFiniteError: a weight, a loss or a gradient is no number.
        GuardStopError: a guard ended the run, as its configuration asks.

    Example:
        >>> import tempfile
        >>> config = {"model": {"path": "lab"}, "bank": {"path": "lab"}, "data": {"path": "lab:train", "limit": 64}}
        >>> config |= {"prompts": {"folder": "lab"}, "sampling": {"max_tokens": 16}, "steps": 1, "rollouts": 2}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = train({**config, "output": f"{folder}/run"}, on_step=lambda metrics, timings: None)
        ...     result.steps, [record["rollouts"] for record in result.metrics], result.model_folder.name
        (1, [2], 'adapter')
    """
    if isinstance(config, str | Path):
        config = load_config(config)
    elif not isinstance(config, RunConfig):
        config = make_config(config)
    return run_training(config, console or Console(quiet=True), resume=resume, on_step=on_step)


def run_training(
    config: RunConfig, console: Console, *, resume: bool = False, on_step: OnStep | None = None, command: str = ""
) -> TrainResult:
    """`train` for the command line, whose words go into the summary.

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
            end = train_steps(run, records, start, view if on_step is None else in_turn(view, on_step))
        seconds = before + time.perf_counter() - started
        if end.step < config.steps:
            go_on = f"sgsd train {folder / 'config.yaml'} --resume"
            saved = f"saved with the rollouts of step {end.step + 1}" if end.pending else "saved"
            console.print(f"Stopped after step {end.step}, {saved}. Go on with: {go_on}", markup=False, soft_wrap=True)
            return TrainResult(folder, end.step, stopped=True)
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
    return TrainResult(folder, end.step)


def in_turn(*listeners: OnStep) -> OnStep:
    """One listener that calls several."""

    def on_step(metrics: dict[str, Any], timings: dict[str, Any]) -> None:
        for listener in listeners:
            listener(metrics, timings)

    return on_step


def train_seconds(records: Records) -> float:
    """Seconds that the steps so far took, from the timings file."""
    names = ("sample", "verify", "contexts", "score", "update", "bank")
    return sum(record.get(name, 0.0) for record in records.read("timings") for name in names)


def title(run: Run) -> str:
    return f"{run.config.name}: {run.method.name}, {run.method.context.teachers} teachers"


def summary(run: Run, records: Records, seconds: float, command: str) -> dict[str, Any]:
    """The results, and all one needs to get them again."""
    config = run.config

    def measured(step: int) -> dict[str, Any] | None:
        found = accuracies(records, step)
        return None if found is None else {name: estimate.to_dict() for name, estimate in found.items()}

    return {
        "name": config.name,
        "method": run.method.name,
        "seed": config.seed,
        "before": measured(0),
        "after": measured(config.steps),
        "problems": config.evaluation.problems if run.evaluator else 0,
        "guards": fired(records),
        "steps": config.steps,
        "rollouts": config.rollouts,
        "train_seconds": round(seconds, 3),
        **run.provenance(),
        "command": command,
    }
