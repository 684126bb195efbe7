"""How a step grows with processes: the same run by one and by several, each with as many threads."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from step_growth import PHASES, lab_run

DIVIDED = ("sample", "verify", "contexts", "score", "update")  # the bank is one, and kept by the first process


def processes(small: bool, repetitions: int, threads: int) -> tuple[dict[str, Any], str]:
    """Seconds of a step of the lab's SGSD over processes (DDP, gloo), runs in turns; the rollouts stay as many."""
    counts = [1, 2] if small else [n for n in (1, 2, 4, 8) if n * threads <= (os.cpu_count() or 1)]
    settings = lab_run(steps=2 if small else 6, rollouts=4 if small else 64, threads=threads)
    rounds = [{n: steps_by(n, settings, threads) for n in counts} for _ in range(repetitions)]
    points = []
    for n in counts:
        seconds = {phase: statistics.median(r[n][phase] for r in rounds) for phase in PHASES}
        faster = [whole(r[1]) / whole(r[n]) for r in rounds]
        points.append({"processes": n, "seconds": seconds, "faster": statistics.median(faster), "each": faster})
    lines = [f"{'processes':>9} {'step s':>8} {'faster':>7} {'range':>12}" + "".join(f"{p:>10}" for p in PHASES)]
    for p in points:
        seconds, low, high = p["seconds"], min(p["each"]), max(p["each"])
        lines.append(
            f"{p['processes']:>9} {whole(seconds):>8.2f} {p['faster']:>7.2f} {f'{low:.2f}–{high:.2f}':>12}"
            + "".join(f"{seconds[phase]:>10.3f}" for phase in PHASES)
        )
    return {"repetitions": repetitions, "config": settings, "points": points}, "\n".join(lines)


def whole(seconds: Mapping[str, float]) -> float:
    return sum(seconds[phase] for phase in DIVIDED)


def steps_by(count: int, settings: dict[str, Any], threads: int) -> dict[str, float]:
    """Median seconds of a step's phases, of all steps but the first, as the first process has them."""
    with tempfile.TemporaryDirectory() as folder:
        file, output = Path(folder) / "run.yaml", Path(folder) / "run"
        file.write_text(yaml.safe_dump(settings | {"output": str(output)}))
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)] if count > 1 else []
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "sgsd.cli", "train", str(file)],
            env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{count} processes: {(done.stdout + done.stderr)[-2000:]}")
        timings = [json.loads(line) for line in (output / "timings.jsonl").read_text().splitlines()]
    later = timings[1:] or timings
    return {phase: statistics.median(record[phase] for record in later) for phase in PHASES}
