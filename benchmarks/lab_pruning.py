"""Pruning by order or by standing, on the lab: does a bank that learns keep what helps?

    python benchmarks/lab_pruning.py --seeds 40 41 42 43 --out results.json

The bank begins with off-topic and stylistic items only. Every four steps a scripted writer proposes skills and mistakes
for the problems of the window, helpful and misleading ones with even chances; up to six come in and ten are kept.
Figures: the share of helpful ones among the learned items, over the second half's updates, and held-out avg@4. Two runs
a seed, each a minute on one core. results/lab_pruning.json was made when there was a quarantine beside (docs/LOG.md).
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import statistics
import sys
import tempfile
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import sgsd.train.bank_upkeep
from sgsd.bank import BankStore, is_dynamic, item_texts, save_bank
from sgsd.config.yaml_text import parse_yaml
from sgsd.lab.demo_bank import demo_bank
from sgsd.lab.task import FAMILIES
from sgsd.lab.task_skills import HELPFUL, MISLEADING, Aim, make_mistake, make_skill
from sgsd.skills import Request, ScriptedWriter
from sgsd.train import make_config, run_training

KIND: dict[tuple[str, str, str], str] = {}  # what the writer meant, by an item's words


def propose(request: Request) -> str:
    """An item about the problem's branch, helpful or misleading by a hash; merging leaves all as it is."""
    prompt, answer = request.messages[-1][1], request.form
    names = [name for name in answer.draft.model_fields if name != "sources"]
    numbered = [json.loads(line) for line in prompt.splitlines() if line.startswith('{"number"')]
    if numbered:
        return json.dumps({answer.key: [{**{n: i[n] for n in names}, "sources": [i["number"]]} for i in numbered]})
    rng = random.Random(hashlib.sha256(prompt.encode()).hexdigest())
    family = next(f for f in reversed(FAMILIES) if f"\n{f.wording.split(':')[0]}:" in prompt)
    aim = Aim(rng.choice((HELPFUL, MISLEADING)), rng.choice(family.branches))
    item = (make_skill if answer.key == "general_skills" else make_mistake)("draft", aim, rng)
    KIND[item_texts(item)] = aim.kind
    return json.dumps({answer.key: [dict(zip(names, item_texts(item)))]})


def run(seed: int, prune: str, folder: Path) -> dict[str, Any]:
    """One run; the writer is the script above."""
    bank = folder / "bank.json"
    save_bank(demo_bank(seed, helpful=0, misleading=0, stylistic=3, irrelevant=3), bank)
    demo = parse_yaml((files("sgsd.lab") / "demo.yaml").read_text(encoding="utf-8"), "demo.yaml")
    growth = {"every": 4, "threshold": 1.0, "add": 6, "capacity": 10, "merge_patience": 1}
    changes = {
        "seed": seed,
        "output": str(folder / "run"),
        "bank": {"path": str(bank), "pairing": "rotated"},
        "skills": {**growth, "prune": prune},
        "compute": {"threads": 1},
    }
    run_folder = run_training(make_config({**demo, **changes}), Console(quiet=True)).folder
    accuracy = json.loads((run_folder / "summary.json").read_text())["after"]["avg_at_4"]
    found = {"seed": seed, "prune": prune, "avg_at_4": accuracy}
    return {**found, **told(run_folder)}


def told(run_folder: Path) -> dict[str, Any]:
    """What the bank held and lost."""
    updates = [json.loads(line) for line in (run_folder / "bank.jsonl").read_text().splitlines()]
    shares, sizes = [], []
    with BankStore(run_folder / "bank.sqlite", read_only=True) as store:
        for update in updates:
            if update["step"] > 30:
                learned = [item for item in store.snapshot(update["event"]).items if is_dynamic(item)]
                sizes.append(len(learned))
                shares += [statistics.fmean(KIND[item_texts(item)] == HELPFUL for item in learned)] if learned else []
        items = (store.item_of(event) for event in store.events() if event.change.item_id)
        kinds = {item.id: KIND[item_texts(item)] for item in items if is_dynamic(item)}
    return {
        "helpful": statistics.fmean(shares),
        "learned": statistics.fmean(sizes),
        "added": Counter(kinds[item] for update in updates for item in update["added"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[40, 41, 42, 43])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sgsd.train.bank_upkeep.make_writer = lambda *_, **__: ScriptedWriter(propose)
    found = []
    for seed, prune in itertools.product(arguments.seeds, ("paper", "evidence")):
        with tempfile.TemporaryDirectory() as folder:
            found.append(run(seed, prune, Path(folder)))
        sys.stdout.write(json.dumps(found[-1]) + "\n")
        sys.stdout.flush()
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
