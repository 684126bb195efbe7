"""What the teachers of a lab run were shown: the share of each kind of item, in the first and the second half.

    python benchmarks/lab_evidence.py --write-bank bank.json --seed 20
    sgsd train src/sgsd/lab/demo.yaml --seed 20 --bank.path bank.json --bank.pairing rotated --bank.rerank 0.5 \\
        --output runs/reranked
    python benchmarks/lab_shares.py runs/reranked

An item's kind is that for the problem it was shown on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from sgsd.bank import open_bank
from sgsd.config.loading import load_config
from sgsd.data.problems import load_problems, problem_at
from sgsd.lab.task_skills import kind_for_problem


def shares(folder: Path) -> dict[str, dict[str, float]]:
    """Half of the run → kind → share of all items shown."""
    config = load_config(folder / "config.yaml")
    items = {item.id: item for item in open_bank(folder / "bank.sqlite").items}
    problems, halves = load_problems(config.data), {"first": Counter[str](), "second": Counter[str]()}
    for line in (folder / "sightings.jsonl").read_text(encoding="utf-8").splitlines():
        step = json.loads(line)
        half = halves["first" if step["step"] <= config.steps / 2 else "second"]
        for index, ids, *_ in step["teachers"]:
            branches = problem_at(problems, index // config.group_size, config.seed).meta["branches"]
            half.update(kind_for_problem(items[name], branches) for name in ids)
    return {name: {kind: n / half.total() for kind, n in sorted(half.items())} for name, half in halves.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, nargs="+")
    for folder in parser.parse_args().runs:
        for half, found in shares(folder).items():
            told = ", ".join(f"{kind} {share:.1%}" for kind, share in found.items())
            sys.stdout.write(f"{folder}, {half} half: {told}\n")


if __name__ == "__main__":
    main()
