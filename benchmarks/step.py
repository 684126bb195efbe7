"""What a training step costs: ours against the direct way and against the floor, and how it grows.

    python benchmarks/step.py --preset cpu       # the comparison: 16 rollouts, 8 teachers, vocabulary 151,936
    python benchmarks/step.py --preset small     # the same with 4 rollouts
    python benchmarks/step.py --preset curves    # time and memory over teachers, tokens and rollouts
    python benchmarks/step.py --preset sharing   # prompts that several completions share
    python benchmarks/step.py --preset parts     # where a step's time goes, in a real short run on the lab
    python benchmarks/step.py --preset processes --threads 1    # one and two processes, a thread each
    python benchmarks/step.py --preset gpu       # Qwen3-1.7B's shape in bfloat16, with and without checkpointing

`--toy` makes any of them so small that it only shows that it runs. The ways are told in step_ways.py, how they are
measured in step_measure.py. Each preset writes results/step_PRESET.json; docs/performance.md reads them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import accelerate
import peft
import torch
import transformers

from machine import commit, processor
from step_measure import WAYS, alone, in_turns, peak_extra, toy
from step_ways import SMALL_SHAPE, Case, Shape, make_bench

RESULTS = Path(__file__).resolve().parent / "results"
QWEN3_1_7B = Shape(hidden=2048, layers=28, heads=16, kv_heads=8, head_dim=128, intermediate=6144)
# Passes of a size for the CPU; with the defaults, which are for GPUs, a step holds more.
CPU = Case(
    SMALL_SHAPE,
    rollouts=16,
    teachers=8,
    max_tokens=512,
    student_prompt=100,
    teacher_prompt=300,
    student_tokens=2048,
    teacher_tokens=4096,
)
GPU = Case(
    QWEN3_1_7B,
    rollouts=8,
    teachers=8,
    max_tokens=1024,
    student_prompt=200,
    teacher_prompt=600,
    mixed=False,
    lora_rank=64,
    dtype="bfloat16",
    student_tokens=8192,
    teacher_tokens=32768,
)
TARGETS = {"direct_over_ours": 8.0, "ours_over_floor": 1.2, "peak_over_direct": 1 / 20, "loss_difference": 1e-4}


def compare(case: Case, repetitions: int, threads: int) -> dict[str, Any]:
    """All three ways on one case."""
    peaks = {way: peak_extra(case, way, threads) for way in WAYS}
    ways = [way for way in WAYS if peaks[way] is not None]
    bench = make_bench(case)
    tokens = {
        "completion": sum(len(row.completion_ids) for row in bench.batch.student_rows()),
        "student": sum(map(len, bench.batch.student_rows())),
        "teachers": sum(map(len, bench.batch.teacher_rows())),
    }
    found = {"case": asdict(case), "tokens": tokens, **in_turns(bench, repetitions, ways), "peak_extra_bytes": peaks}
    if peaks["ours"] and peaks["direct"]:
        found["peak_over_direct"] = peaks["ours"] / peaks["direct"]
    return found


def machine_of(threads: int) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    libraries = (torch, transformers, accelerate, peft)
    return {
        "machine": f"{platform.system()} {platform.machine()}, {processor()}",
        "gpu": gpu,
        "threads": threads,
        "load_before": os.getloadavg()[0],
        "versions": {library.__name__: library.__version__ for library in libraries},
        "commit": commit(),
    }


def table(found: dict[str, Any]) -> str:
    """One comparison, to be read."""
    case, tokens = found["case"], found["tokens"]
    lines = [
        f"{case['rollouts']} rollouts × {case['teachers']} teachers, {tokens['completion']:,} completion tokens, "
        f"{tokens['teachers']:,} tokens of teachers; {case['dtype']}"
        + (", gradient checkpointing" if case["checkpointing"] else ""),
        f"{'':<8} {'wall s':>9} {'cpu s':>9} {'peak extra MiB':>15}",
    ]
    for way in WAYS:
        seconds = [found[clock]["seconds_a_step"].get(way) for clock in ("wall", "processor")]
        peak = found["peak_extra_bytes"][way]
        cells = ["–" if value is None else f"{value:.1f}" for value in seconds]
        memory = "out of memory" if peak is None else f"{peak / 2**20:,.0f}"
        lines.append(f"{way:<8} {cells[0]:>9} {cells[1]:>9} {memory:>15}")
    for clock in ("wall", "processor"):
        for name in ("direct_over_ours", "ours_over_floor"):
            if name in found[clock]:
                each, sign = found[clock][name]["each"], "≥" if name == "direct_over_ours" else "≤"
                lines.append(
                    f"{name} ({clock}): {found[clock][name]['median']:.2f}, range {min(each):.2f}–{max(each):.2f} "
                    f"over {len(each)} (target {sign} {TARGETS[name]})"
                )
    if "peak_over_direct" in found:
        lines.append(f"peak_over_direct: 1/{1 / found['peak_over_direct']:.1f} (target ≤ 1/20)")
    if "agreement" in found:
        same = found["agreement"]
        lines.append(
            f"loss: {same['loss_ours']:.8f} and {same['loss_direct']:.8f}, apart {same['loss_difference']:.1e}; "
            f"gradient norm apart {same['gradient_norm_relative_difference']:.1e} of itself"
        )
    return "\n".join(lines)


def run_compare(preset: str, small: bool, repetitions: int, threads: int) -> tuple[dict[str, Any], str]:
    if preset == "gpu":
        cases = [replace(GPU, checkpointing=on) for on in (True, False)]
    else:
        cases = [replace(CPU, rollouts=4) if preset == "small" else CPU]
    found = [compare(toy(case) if small else case, repetitions, threads) for case in cases]
    return {"targets": TARGETS, "comparisons": found}, "\n\n".join(map(table, found))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    presets = ("cpu", "small", "curves", "sharing", "parts", "processes", "gpu")
    parser.add_argument("--preset", choices=presets, default="cpu")
    parser.add_argument("--toy", action="store_true", help="a miniature, to see that it runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, help="5, and 3 for curves, sharing, parts and processes")
    parser.add_argument("--out", type=Path, help="default: results/step_PRESET.json, with _toy for --toy")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("sgsd").setLevel(logging.ERROR)  # of a random model and a borrowed template it would warn
    transformers.utils.logging.disable_progress_bar()
    if arguments.alone:
        sys.stdout.write(json.dumps(alone(arguments.alone)) + "\n")
        return
    torch.set_num_threads(arguments.threads)
    about = machine_of(arguments.threads)
    preset, small, threads = arguments.preset, arguments.toy, arguments.threads
    if preset in ("curves", "sharing", "parts"):
        import step_growth

        run = {"curves": step_growth.curves, "sharing": step_growth.sharing, "parts": step_growth.parts}[preset]
        found, text = run(small, arguments.repetitions or 3, threads)
    elif preset == "processes":
        from step_processes import processes

        found, text = processes(small, arguments.repetitions or 3, threads)
    else:
        found, text = run_compare(preset, small, arguments.repetitions or 5, threads)
    out = arguments.out or RESULTS / f"step_{preset}{'_toy' if small else ''}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(about | found, indent=1) + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
