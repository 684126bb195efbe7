"""The lab's demo with rollouts from transformers and from vLLM, in time or one update late: the same training, or not?

    python benchmarks/engines.py --out benchmarks/results/engines.json
    python benchmarks/engines.py --ways vllm overlap weighed --out benchmarks/results/engines_overlap.json

Needs an environment with vLLM in it, such as that of `make test-vllm`. Each way trains with each seed as the demo says;
shown are held-out avg@4 with its interval before and after, the largest mean gap between sampler and trainer, and the
seconds that sampling and everything else took. Seeds draw other rollouts in each engine, so the differences from the
first way, paired by seed and with their interval, are what tells whether one of them trains worse.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console

from machine import commit, processor
from sgsd.evaluation.stats import over_seeds
from sgsd.train import load_config, run_training

# Captured graphs take longer to make than so small a model takes to sample.
VLLM = {"rollout.engine": "vllm", "rollout.options": {"enforce_eager": True, "max_num_seqs": 256}}
WAYS: dict[str, dict[str, Any]] = {
    "transformers": {},
    "vllm": VLLM,
    "overlap": {**VLLM, "rollout.prefetch": True},
    "weighed": {**VLLM, "rollout.prefetch": True, "rollout.importance_cap": 2.0},
}


def train(way: str, seed: int, changes: dict[str, Any], folder: Path) -> dict[str, Any]:
    overrides = {"seed": seed, "output": str(folder), **WAYS[way], **changes}
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
        "way": way,
        "seed": seed,
        "before": told["before"]["avg_at_4"],
        "after": told["after"]["avg_at_4"],
        "sampler_gap": max(record["sampler_mismatch"] for record in metrics),
        "sampling_seconds": sampling,
        "training_seconds": told["train_seconds"] - sampling,
        "all_seconds": time.perf_counter() - begun,
    }


def paired(runs: list[dict[str, Any]], way: str, first: str) -> dict[str, float | None]:
    """A way's avg@4 after training less the first one's: mean over seeds, and Student's 95 % interval of several."""
    after = {(run["way"], run["seed"]): run["after"]["accuracy"] for run in runs}
    found = over_seeds([after[way, seed] - after[first, seed] for name, seed in after if name == way])
    known = math.isfinite(found.high - found.low)
    return {"mean": found.accuracy, "low": found.low if known else None, "high": found.high if known else None}


def show(run: dict[str, Any]) -> str:
    before, after = ("{accuracy:.3f} [{low:.3f}, {high:.3f}]".format(**run[when]) for when in ("before", "after"))
    return (
        f"{run['way']:13} seed {run['seed']}: avg@4 {before} → {after}, gap {run['sampler_gap']:.1e},"
        f" sampling {run['sampling_seconds']:.0f} s, rest of training {run['training_seconds']:.0f} s,"
        f" all {run['all_seconds']:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=["transformers", "vllm"])
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
            for way in chosen.ways:
                runs.append(train(way, seed, changes, Path(scratch, f"{way}-{seed}")))
                sys.stderr.write(show(runs[-1]) + "\n")
    first, *others = chosen.ways
    differences = {f"{way} less {first}": paired(runs, way, first) for way in others}
    for name, difference in differences.items():
        sys.stderr.write(f"{name}, avg@4 after training: {difference}\n")
    packages = {name: version(name) for name in ("torch", "transformers")}
    command = f"benchmarks/engines.py --ways {' '.join(chosen.ways)} --seeds {' '.join(map(str, chosen.seeds))}"
    by = {"commit": commit(), "processor": processor(), "command": command, "packages": packages}
    if chosen.out is not None:
        chosen.out.write_text(json.dumps({"differences": differences, "runs": runs, "made_by": by}, indent=1) + "\n")


if __name__ == "__main__":
    main()
