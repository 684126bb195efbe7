"""The lab's demo with rollouts from transformers and from vLLM: the same training, or not?

    python benchmarks/engines.py --seeds 0 1 2 --out benchmarks/results/engines.json

Needs an environment with vLLM in it, such as that of `make test-vllm`. Each engine trains with each seed as the demo
says; shown are held-out avg@4 with its interval before and after, the largest mean gap between sampler and trainer, and
the seconds that sampling and everything else took. Seeds draw other rollouts in each engine, so the paired difference
over seeds, with its interval, is what tells whether one of them trains worse.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console

from machine import commit, processor
from sgsd.evaluate.stats import STUDENT_975
from sgsd.train import load_config, run_training

ENGINES: dict[str, dict[str, Any]] = {
    "transformers": {},
    # Captured graphs take longer to make than so small a model takes to sample.
    "vllm": {"rollout.engine": "vllm", "rollout.options": {"enforce_eager": True, "max_num_seqs": 256}},
}


def train(engine: str, seed: int, changes: dict[str, Any], folder: Path) -> dict[str, Any]:
    overrides = {"seed": seed, "output": str(folder), **ENGINES[engine], **changes}
    begun = time.perf_counter()
    demo = Path(str(files("sgsd.lab") / "demo.yaml"))
    run_training(load_config(demo, overrides), Console(quiet=True))
    metrics, timings = (
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("metrics", "timings")
    )
    told = json.loads((folder / "summary.json").read_text())
    sampling = sum(timing["sample"] for timing in timings)
    return {
        "engine": engine,
        "seed": seed,
        "before": told["before"]["avg_at_4"],
        "after": told["after"]["avg_at_4"],
        "sampler_gap": max(record["sampler_gap"] for record in metrics),
        "sampling_seconds": sampling,
        "training_seconds": told["train_seconds"] - sampling,
        "all_seconds": time.perf_counter() - begun,
    }


def paired(runs: list[dict[str, Any]]) -> dict[str, float]:
    """vLLM's avg@4 after training less that of transformers: mean over seeds and Student's 95 % interval."""
    after = {(run["engine"], run["seed"]): run["after"]["accuracy"] for run in runs}
    differences = [after["vllm", seed] - after["transformers", seed] for engine, seed in after if engine == "vllm"]
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return {"mean": mean}
    freedom = len(differences) - 1
    quantile = STUDENT_975[min(freedom, len(STUDENT_975)) - 1]
    half = quantile * statistics.stdev(differences) / len(differences) ** 0.5
    return {"mean": mean, "low": mean - half, "high": mean + half}


def show(run: dict[str, Any]) -> str:
    before, after = ("{accuracy:.3f} [{low:.3f}, {high:.3f}]".format(**run[when]) for when in ("before", "after"))
    return (
        f"{run['engine']:13} seed {run['seed']}: avg@4 {before} → {after}, gap {run['sampler_gap']:.1e},"
        f" sampling {run['sampling_seconds']:.0f} s, rest of training {run['training_seconds']:.0f} s,"
        f" all {run['all_seconds']:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="fewer than the demo's, for a look")
    parser.add_argument("--problems", type=int, help="of the evaluation: fewer than the demo's, for a look")
    parser.add_argument("--threads", type=int, default=1, help="of trainer and vLLM: two get in each other's way")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)
    told = {"steps": chosen.steps, "evaluation.problems": chosen.problems, "compute.threads": chosen.threads}
    changes = {key: value for key, value in told.items() if value is not None}
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in chosen.seeds:
            for engine in ENGINES:
                runs.append(train(engine, seed, changes, Path(scratch, f"{engine}-{seed}")))
                sys.stderr.write(show(runs[-1]) + "\n")
    difference = paired(runs)
    sys.stderr.write(f"vLLM less transformers, avg@4 after training: {difference}\n")
    packages = {name: version(name) for name in ("torch", "transformers")}
    by = {"commit": commit(), "processor": processor(), "command": " ".join(sys.argv), "packages": packages}
    if chosen.out is not None:
        chosen.out.write_text(json.dumps({"difference": difference, "runs": runs, "made_by": by}, indent=1) + "\n")


if __name__ == "__main__":
    main()
