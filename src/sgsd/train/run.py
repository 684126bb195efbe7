"""A run as a folder: start it, resume it, finish it. Nothing that is already there is overwritten."""

from __future__ import annotations

import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console

import sgsd
from sgsd.train.checkpoint import Position, load_checkpoint, newest_good, text_hash
from sgsd.train.config import RunConfig, make_config, parse_yaml
from sgsd.train.loop import evaluate, train
from sgsd.train.models import weights_hash
from sgsd.train.records import Records, write_atomic
from sgsd.train.setup import Parts, build_parts
from sgsd.train.view import LiveView
from sgsd.types import UserError

PACKAGES = ("torch", "transformers", "accelerate", "peft", "numpy", "math-verify", "bm25s")

#: What may differ between a run and its resumption: it cannot change a result.
FREE = ("output", "checkpoint", "logged_rollouts")


def run_training(config: RunConfig, console: Console, *, resume: bool = False, command: str = "") -> Path:
    """Train as configured; returns the run folder, complete or stopped on request with a checkpoint.

    Raises:
        UserError: the folder holds another run, there is nothing to resume, or the configuration has changed.
    """
    # Apple's GPUs have no float64, which the sampler and the sums need.
    accelerator = Accelerator(cpu=torch.backends.mps.is_available())
    check_processes(accelerator.num_processes)
    folder, main = config.folder, accelerator.is_main_process
    if not main:
        console = Console(quiet=True)
    else:
        check_folder(folder, config, resume=resume)
    parts = build_parts(config, accelerator)
    with parts.verifier:
        records = Records(folder)
        fresh = Position(0, {}, fingerprint(parts))
        if main and not resume:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / "config.yaml", config.to_yaml())
        parts.accelerator.wait_for_everyone()
        start = restore(parts, records, fresh, console) if resume else fresh
        if start.step == 0 and parts.evaluator is not None:
            console.print("Measuring the untrained model on held-out problems …")
            evaluate(parts, records, 0)
        started, before = time.perf_counter(), train_seconds(records)
        with LiveView(console, title(parts), config.steps, start.step) as view:
            end = train(parts, records, start, view)
        seconds = before + time.perf_counter() - started
        if end.step < config.steps:
            go_on = f"sgsd train {folder / 'config.yaml'} --resume"
            console.print(f"Stopped after step {end.step}, saved. Go on with: {go_on}", markup=False, soft_wrap=True)
            return folder
        if parts.evaluator is not None:
            console.print("Measuring the trained model on the same problems …")
            evaluate(parts, records, config.steps)
        if main:
            save_model(parts, folder)
            write_atomic(folder / "summary.json", json.dumps(summary(parts, records, seconds, command), indent=1))
    return folder


def check_processes(seen: int) -> None:
    """Raises UserError where a launcher started several processes that do not know of each other."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != seen:
        raise UserError(
            f"the launcher started {launched} processes, but each runs alone ({seen}) and all would write one folder;"
            " without GPUs set ACCELERATE_USE_CPU=true"
        )


def check_folder(folder: Path, config: RunConfig, *, resume: bool) -> None:
    """Refuse to mix runs. Raises UserError."""
    saved = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; choose a folder with --output")
    if resume:
        if not saved.is_file():
            raise UserError(f"{folder}: there is no run to resume here; leave --resume out to start one")
        refuse_changes(saved, config)
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(
            f"{folder}: the folder already holds {'a run' if saved.is_file() else 'files'};"
            " go on with it by --resume, or choose another with --output"
        )


def refuse_changes(saved: Path, config: RunConfig) -> None:
    """A resumed run must be the same run. Raises UserError that shows the first difference."""
    old = make_config(parse_yaml(saved.read_text(encoding="utf-8"), str(saved)), str(saved)).model_dump(mode="json")
    new = config.model_dump(mode="json")
    for key, (before, after) in differences(old, new).items():
        if key.split(".")[0] not in FREE:
            raise UserError(f"{key}: the run was started with {before!r}, now it is {after!r}; resume it unchanged")


def differences(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Every key whose value differs, as dotted names."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return {} if old == new else {prefix: (old, new)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*old, *[key for key in new if key not in old]]:
        found |= differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
    return found


def fingerprint(parts: Parts) -> dict[str, str]:
    """Hashes of all that decides a run besides the program: a file may change while its name stays."""
    problems = [[p.id, p.text, p.gold, p.solution] for p in parts.problems]
    return {
        "configuration": text_hash(json.dumps(parts.config.model_dump(mode="json", exclude=set(FREE)), sort_keys=True)),
        "data": text_hash(json.dumps(problems)),
        "bank": parts.bank.version if parts.bank else "",
        "model": weights_hash(parts.config.model),
    }


def restore(parts: Parts, records: Records, fresh: Position, console: Console) -> Position:
    """Go back to the newest good checkpoint and forget what was written after it.

    Raises:
        UserError: the data, the bank or the model is no longer what the run was started with.
    """
    root = parts.config.folder / "checkpoints"
    newest = newest_good(root)
    if newest is None:
        console.print(f"No complete checkpoint in {root}: starting at step 1.", markup=False)
        if parts.accelerator.is_main_process:
            records.truncate(dict.fromkeys(records.offsets(), 0))
        return fresh
    position = load_checkpoint(newest, parts.bare_scorer, parts.optimizer)
    for what, digest in fresh.fingerprint.items():
        if position.fingerprint.get(what) != digest:
            raise UserError(f"{newest}: the {what} has changed since; put back what the run was started with")
    if parts.accelerator.is_main_process:
        records.truncate(position.offsets)
    console.print(f"Resuming after step {position.step} from {newest}.", markup=False)
    return position


def train_seconds(records: Records) -> float:
    """What the steps so far took, from the timings file."""
    names = ("sample", "verify", "contexts", "score", "update")
    return sum(record.get(name, 0.0) for record in records.read("timings") for name in names)


def title(parts: Parts) -> str:
    return f"{parts.config.name}: {parts.method.name}, {parts.method.context.teachers} teachers"


def save_model(parts: Parts, folder: Path) -> None:
    """The trained adapter or model in the layout other tools load."""
    model = parts.bare_scorer.model
    if hasattr(model, "peft_config"):
        model.save_pretrained(folder / "adapter", selected_adapters=["default"])
    else:
        model.save_pretrained(folder / "model")
        parts.tokenizer.save_pretrained(folder / "model")


def summary(parts: Parts, records: Records, seconds: float, command: str) -> dict[str, Any]:
    """What came out, and all one needs to get it again."""
    evaluations = {record["step"]: record for record in records.read("evaluations")}
    config = parts.config

    def accuracies(step: int) -> dict[str, Any] | None:
        if step not in evaluations:
            return None
        found = evaluations[step]
        average = {key: found["avg_at_k"][key] for key in ("accuracy", "low", "high")}
        return {"greedy": found["greedy"], f"avg_at_{found['samples']}": average}

    return {
        "name": config.name,
        "method": parts.method.name,
        "seed": config.seed,
        "before": accuracies(0),
        "after": accuracies(config.steps),
        "problems": config.evaluation.problems if parts.evaluator else 0,
        "steps": config.steps,
        "rollouts": config.rollouts,
        "train_seconds": round(seconds, 3),
        "model": config.model.path,
        "model_sha256": weights_hash(config.model),
        "bank_version": parts.bank.version if parts.bank else None,
        "versions": {"sgsd": sgsd.__version__, **{name: version(name) for name in PACKAGES}},
        "machine": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "device": str(parts.accelerator.device),
            "threads": torch.get_num_threads(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
        },
        "command": command,
    }
