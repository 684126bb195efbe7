"""What `sgsd plan` says of a run, by a few steps and by a trace of its memory, against the run itself.

    python benchmarks/plan.py                # three runs, planned and run in turns; about eight minutes on two cores
    python benchmarks/plan.py --threads 1    # where other work goes on: then read the processor's seconds
    python benchmarks/plan.py --toy          # so small that it only shows that it runs

Every plan and every run is a process of its own, so that none finds memory that another has left. Writes
results/plan.json; docs/plan.md reads it.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import transformers
from rich.console import Console

from machine import commit, processor
from sgsd.cli.plan_command import SECONDS, STEPS
from sgsd.config.run_config import RunConfig
from sgsd.config.sections import EvaluationConfig, ModelConfig
from sgsd.plan import measured as plan
from sgsd.plan.fit import Fit
from sgsd.plan.gauges import MemoryGauge, StepTimer
from sgsd.plan.measured import Measured, measure
from sgsd.plan.sizes import Lengths
from sgsd.train import loop, make_config, run, run_training
from sgsd.train.models import load_tokenizer

RESULTS = Path(__file__).resolve().parent / "results"
TARGET = 0.15
LAB: dict[str, Any] = {
    "data": {"path": "lab:train"},
    "prompts": {
        "folder": "lab",
        "student_thinking": False,
        "teacher_thinking": False,
        "evaluation_thinking": False,
        "max_tokens": 512,
    },
    "sampling": {"max_tokens": 96},
    "bank": {"path": "lab"},
    "optimizer": {"lr": 3e-4, "max_grad_norm": 1.0},
}
CASES: dict[str, dict[str, Any]] = {
    "lab": {
        "steps": 20,
        "rollouts": 32,
        "method": {"name": "sgsd", "k": 4, "confidence": 0.01},
        "model": {"path": "lab", "dtype": "float32"},
        "lora": None,
        "evaluation": {
            "data": {"path": "lab:held-out"},
            "problems": 256,
            "samples": 4,
            "sampling": {"max_tokens": 96},
        },
        "checkpoint": {"every": 8},
    },
    "adapter": {
        "steps": 8,
        "rollouts": 8,
        "method": {"name": "sgsd", "k": 8, "confidence": 0.01},
        "model": {"path": "RANDOM", "dtype": "float32"},
        "lora": {"rank": 16, "alpha": 32},
        "checkpoint": {"every": 3},
        "compute": {"student_tokens": 1024, "teacher_tokens": 4096},
    },
    "full": {
        "steps": 8,
        "rollouts": 16,
        "method": {"name": "sgsd", "k": 4, "confidence": 0.01},
        "model": {"path": "RANDOM", "dtype": "float32"},
        "lora": None,
        "compute": {"student_tokens": 1024, "teacher_tokens": 4096},
    },
}
VOCABULARY = {"adapter": 32_000, "full": 8_192}


def config_of(name: str, folder: Path, threads: int, toy: bool) -> RunConfig:
    """The case's config; its run has a folder of its own, its random model is the one in `folder`."""
    case = {**LAB, **CASES[name], "output": tempfile.mkdtemp(dir=folder)}
    if case["model"]["path"] == "RANDOM":
        case["model"] = {**case["model"], "path": str(folder / "model")}
    if toy:
        case |= {"steps": 4, "rollouts": 4}
        case["sampling"] = {"max_tokens": 16}
        if "evaluation" in case:
            case["evaluation"] = {**case["evaluation"], "problems": 8}
    return make_config(case | {"name": name, "compute": {**case.get("compute", {}), "threads": threads}})


def save_model(folder: Path, vocabulary: int, hidden: int) -> None:
    """A Qwen3 with random weights and the lab's tokenizer; it hardly ever ends an answer by itself."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(ModelConfig(path="lab"))
    config = transformers.Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# ── In a process of their own ──────────────────────────────────────────────────────────────────────────────────────


def plan_alone(config: RunConfig) -> dict[str, Any]:
    found: Measured = measure(config, STEPS, SECONDS)
    return {
        "step": {"wall": found.step, "processor": statistics.fmean(step.processor for step in found.steps)},
        "phases": {name: statistics.fmean(values) for name, values in found.phases.items()},
        "run": found.run,
        "peak": found.peak,
        "disk": found.disk,
        "lengths": asdict(found.lengths),
        "traced": traced_peak(config, found.lengths),
    }


def traced_peak(config: RunConfig, lengths: Lengths) -> float:
    return Fit.of(config, math.inf, lengths, device="cpu").memory.peak


def allocated_alone(config: RunConfig) -> dict[str, Any]:
    """The most bytes that torch's own allocator had given out in the run's first steps, by torch's profiler.

    It hears of what is given out while it listens; that the weights are there before is added.
    """
    most = weights = 0

    def listened(parts: Any, *others: Any) -> Any:
        nonlocal most, weights
        weights = sum(p.numel() * p.element_size() for p in parts.policy.bare_scorer.parameters())
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            end = loop.train_steps(parts, *others)
        events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        now = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            now += event.nbytes()
            most = max(most, now)
        return end

    plan.train_steps = listened  # type: ignore[assignment]
    found = measure(config.model_copy(update={"evaluation": EvaluationConfig()}), 2)
    whole, alone = (traced_peak(one, found.lengths) for one in (config, found.config))
    return {"peak": most + weights, "traced": alone, "with_evaluation": whole}


def run_alone(config: RunConfig) -> dict[str, Any]:
    """The run itself, with a clock at every step."""
    watch = StepTimer()

    class View(run.LiveView):
        def __enter__(self) -> Any:
            watch.last = StepTimer().last
            return watch

        def __exit__(self, *_: object) -> None:
            pass

    run.LiveView = View  # type: ignore[misc]
    gauge, start = MemoryGauge(torch.device("cpu")), time.perf_counter()
    folder = run_training(config, Console(file=io.StringIO())).folder
    wall = time.perf_counter() - start
    steps = watch.steps[1:]
    return {
        "step": {
            "wall": statistics.fmean(step.wall for step in steps),
            "processor": statistics.fmean(step.processor for step in steps),
        },
        "phases": {
            name: statistics.fmean(step.phases.get(name, 0.0) for step in steps)
            for name in ("sample", "verify", "contexts", "score", "update", "bank")
        },
        "run": wall,
        "peak": gauge.peak(),
        "disk": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "length": statistics.fmean(step.tokens for step in steps) / config.rollouts,
    }


def alone(what: str, name: str, threads: int, toy: bool, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--alone", what, "--case", name, "--threads", str(threads)]
    command += ["--folder", str(folder)]
    done = subprocess.run([*command, *(["--toy"] if toy else [])], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{what} {name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# ── The comparison ─────────────────────────────────────────────────────────────────────────────────────────────────


def compare(name: str, rounds: int, threads: int, toy: bool) -> dict[str, Any]:
    """Plan and run in turns; the medians of both, and by how much the plan was off."""
    plans, runs = [], []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if name in VOCABULARY:
            save_model(folder / "model", VOCABULARY[name] // (16 if toy else 1), 32 if toy else 256)
        for _ in range(rounds):
            plans.append(alone("plan", name, threads, toy, folder))
            runs.append(alone("run", name, threads, toy, folder))
        allocated = alone("allocated", name, threads, toy, folder)

    def all_of(found: list[dict[str, Any]], *keys: str, per: float = 1.0) -> list[float]:
        return [_at(one, keys) / per for one in found]

    wall, peak = all_of(runs, "step", "wall"), all_of(runs, "peak", per=2**20)
    pairs = {
        "step, wall s": (all_of(plans, "step", "wall"), wall),
        "step, processor s": (all_of(plans, "step", "processor"), all_of(runs, "step", "processor")),
        "run, wall s": ([sum(p["run"].values()) for p in plans], all_of(runs, "run")),
        "peak, MiB": (all_of(plans, "peak", per=2**20), peak),
        "disk, MiB": ([sum(p["disk"].values()) / 2**20 for p in plans], all_of(runs, "disk", per=2**20)),
        "traced: allocated": ([allocated["traced"] / 2**20], [allocated["peak"] / 2**20]),
        "traced: resident": (all_of(plans, "traced", per=2**20), peak),
    }
    table = {what: row_of(planned, found) for what, (planned, found) in pairs.items()}
    return {"table": table, "plans": plans, "runs": runs, "allocated": allocated}


def row_of(planned: list[float], found: list[float]) -> dict[str, Any]:
    """The medians, by how much they are apart, and by how much each plan was from the run after it."""
    a, b = statistics.median(planned), statistics.median(found)
    return {"planned": a, "found": b, "off": a / b - 1, "each": [x / y - 1 for x, y in zip(planned, found)]}


def _at(found: Mapping[str, Any], keys: tuple[str, ...]) -> float:
    value: Any = found
    for key in keys:
        value = value[key]
    return float(value)


def words(name: str, found: dict[str, Any]) -> str:
    lines = [f"\n{name:<24} {'planned':>10} {'found':>10} {'off':>7}   pair by pair"]
    for what, row in found["table"].items():
        each = f"{min(row['each']):+.0%} to {max(row['each']):+.0%}"
        lines.append(f"{what:<24} {row['planned']:>10.3f} {row['found']:>10.3f} {row['off']:>+7.1%}   {each}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--case", choices=tuple(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--alone", choices=("plan", "run", "allocated"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.alone:
        transformers.utils.logging.disable_progress_bar()
        config = config_of(arguments.case, arguments.folder, arguments.threads, arguments.toy)
        found = {"plan": plan_alone, "run": run_alone, "allocated": allocated_alone}[arguments.alone](config)
        sys.stdout.write(json.dumps(found) + "\n")
        return
    about = {
        "machine": f"{platform.system()} {platform.machine()}, {processor()}",
        "threads": arguments.threads,
        "load_before": os.getloadavg()[0],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "commit": commit(),
        "target": TARGET,
        "measured": {"steps": STEPS, "seconds": SECONDS},
    }
    start, found = time.perf_counter(), {}
    for name in [arguments.case] if arguments.case else CASES:
        found[name] = compare(name, arguments.rounds, arguments.threads, arguments.toy)
        sys.stdout.write(words(name, found[name]) + "\n")
        sys.stdout.flush()
    about["seconds"] = time.perf_counter() - start
    out = arguments.out or RESULTS / f"plan{'_toy' if arguments.toy else ''}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(about | {"cases": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
