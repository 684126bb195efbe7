"""Which stance tells helpful items from the others? On the lab every item's kind is known.

    python benchmarks/lab_evidence.py                          # the untrained policy, five seeds, all three stances
    python benchmarks/lab_evidence.py --run runs/a runs/b      # what trained runs have entered in their ledgers
    python benchmarks/lab_evidence.py --write-bank bank.json --seed 3     # the bank of a seed, for such a run

The bank holds 24 skills and 24 mistakes, of each half misleading, a quarter helpful, an eighth stylistic and an eighth
irrelevant. 30 problems × 4 rollouts, 4 teachers each: 20 sightings an item on average (retrieval decides how many it
really gets; one that is never shown stands at 0).

The score of an item is `Ledger.standing`; beside all items stand those that were shown at all. The score of an (item,
problem) pair is the standing that a ledger of such pairs has for it. An item's kind is that of what it aims at; for one
problem an item about a branch that the problem does not meet is irrelevant. Figures: AUC, the share of (helpful, other)
couples in which the helpful one stands higher; mean over seeds with Student's 95 % interval of that mean.

A run's folder holds `ledger.json` and `sightings.jsonl`; its items are scored by the first, its pairs by the second.
results/lab_evidence.json was made when a decayed score stood beside the standing; docs/LOG.md has its figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

import sgsd
from sgsd.bank import Bank, Ledger, TeacherObservation, load_bank, save_bank
from sgsd.config.loading import load_config, make_config
from sgsd.data.problems import load_problems, problem_at
from sgsd.evaluation.probe import STANCES, ProbedRollout, TeacherSupport, teacher_observations
from sgsd.evaluation.stats import Scored, auc, over_seeds
from sgsd.lab.demo_bank import demo_bank
from sgsd.lab.task_skills import HELPFUL, IRRELEVANT, MISLEADING, STYLISTIC, kind_for_problem
from sgsd.train.setup import build_run
from sgsd.train.skill_probe import observe
from sgsd.types import BankItem, Problem

MIX = {HELPFUL: 6, MISLEADING: 12, STYLISTIC: 3, IRRELEVANT: 3}
SEEDS = (0, 1, 2, 3, 4)
GROUP, K, CONFIDENCE = 4, 4, 0.01
ROLLOUTS = 120
COMPARISONS = {
    "helpful over misleading": ((HELPFUL,), (MISLEADING,)),
    "helpful over irrelevant and stylistic": ((HELPFUL,), (IRRELEVANT, STYLISTIC)),
    "irrelevant and stylistic over misleading": ((IRRELEVANT, STYLISTIC), (MISLEADING,)),
}
Kinds = Mapping[str, str]
Figures = dict[str, float | None]


def bank_of(seed: int) -> Bank:
    return demo_bank(seed, **MIX)


def config_of(seed: int, bank: Path) -> dict[str, Any]:
    """The demo's settings, as far as they decide rollouts and teachers."""
    off = {"student_thinking": False, "teacher_thinking": False, "evaluation_thinking": False}
    return {
        "name": "lab_evidence",
        "seed": seed,
        "rollouts": 8 * GROUP,
        "group": GROUP,
        "method": {"name": "sgsd", "k": K, "confidence": CONFIDENCE},
        "model": {"path": "lab", "dtype": "float32"},
        "lora": None,
        "data": {"path": "lab:train"},
        "prompts": {"folder": "lab", "max_tokens": 512, **off},
        "sampling": {"max_tokens": 96},
        "bank": {"path": str(bank)},
        "compute": {"threads": 1},
    }


def pair_id(item: str, problem: str) -> str:
    return f"{item} @ {problem}"


def of_pairs(observation: ProbedRollout, reading: TeacherSupport) -> tuple[str, ...]:
    return tuple(pair_id(item, observation.problem_id) for item in reading.items)


def item_kinds(items: Iterable[BankItem]) -> dict[str, str]:
    return {item.id: item.meta["kind"] for item in items}


def pair_kinds(bank: Bank, shown: Iterable[tuple[str, Problem]]) -> dict[str, str]:
    """Of every item that was shown for a problem: what it is there."""
    return {
        pair_id(item, problem.id): kind_for_problem(bank.item(item), problem.meta["branches"])
        for item, problem in shown
    }


def figures(score: Callable[[str], float], kinds: Kinds) -> Figures:
    """AUC of every comparison; None where a side is empty."""
    found: Figures = {}
    for name, (above, below) in COMPARISONS.items():
        scored = [(score(i), kind in above) for i, kind in kinds.items() if kind in (*above, *below)]
        sides = {right for _, right in scored}
        sample = Scored([s for s, _ in scored], [r for _, r in scored]) if len(sides) == 2 else None
        found[name] = None if sample is None else auc(sample, resamples=1).value
    return found


def all_figures(of_items: Ledger, kinds: Kinds, by_pair: Ledger, kinds_of_pairs: Kinds) -> dict[str, Figures]:
    shown = {item: kind for item, kind in kinds.items() if item in of_items.items}
    return {
        "items": figures(of_items.standing, kinds),
        "shown items": figures(of_items.standing, shown),
        "pairs": figures(by_pair.standing, kinds_of_pairs),
    }


def of_untrained(seed: int, folder: Path, rollouts: int) -> dict[str, Any]:
    """The figures of one seed, by stance."""
    bank, path = bank_of(seed), folder / f"bank_{seed}.json"
    save_bank(bank, path)
    config = make_config(config_of(seed, path))
    parts = build_run(config, Accelerator(cpu=True))
    with parts.verifier:
        seen = observe(parts, rollouts)
    problems = {problem.id: problem for problem in parts.problems}
    shown = [(item, problems[o.problem_id]) for o in seen for r in o.pools["bank"] for item in r.items]
    kinds, kinds_of_pairs = item_kinds(bank.items), pair_kinds(bank, shown)
    found: dict[str, Any] = {
        "rollouts": len(seen),
        "right": sum(o.outcome > 0 for o in seen),
        "sightings_an_item": len(shown) / len(bank),
        "never_shown": len(bank) - len({item for item, _ in shown}),
        "pairs": {kind: sum(k == kind for k in kinds_of_pairs.values()) for kind in MIX},
    }
    for stance in STANCES:
        of_items = Ledger().observe(teacher_observations(seen, "bank", stance, CONFIDENCE))
        by_pair = Ledger().observe(teacher_observations(seen, "bank", stance, CONFIDENCE, of_pairs))
        found[stance] = all_figures(of_items, kinds, by_pair, kinds_of_pairs)
    return found


def of_run(folder: Path) -> dict[str, Any]:
    """The figures of a trained run, by the ledger it has left behind."""
    config = load_config(folder / "config.yaml")
    bank = load_bank(Path(str(config.bank.path))) if config.bank.path != "lab" else demo_bank()
    ledger = Ledger.from_json(json.loads((folder / "ledger.json").read_text()), str(folder / "ledger.json"))
    problems, known = load_problems(config.data), {item.id for item in bank.items}
    by_pair, shown = Ledger(), []
    for line in (folder / "sightings.jsonl").read_text().splitlines():
        entered = []
        for index, ids, outcome, support, polarity in json.loads(line)["teachers"]:
            problem = problem_at(problems, index // config.group_size, config.seed)
            shown += [(item, problem) for item in ids if item in known]
            named = tuple(pair_id(item, problem.id) for item in ids)
            entered.append(TeacherObservation(named, outcome, support, polarity))
        by_pair = by_pair.observe(entered)
    kinds, kinds_of_pairs = item_kinds(bank.items), pair_kinds(bank, shown)
    stance = config.method.get("stance", "raw")
    return {
        "sightings_an_item": len(shown) / len(bank),
        "never_shown": len(bank) - len({item for item, _ in shown}),
        stance: all_figures(ledger, kinds, by_pair, kinds_of_pairs),
    }


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean over the seeds or runs, with Student's interval where there are two or more."""
    out: dict[str, Any] = {}
    for stance in STANCES:
        for of in ("items", "shown items", "pairs"):
            for name in COMPARISONS:
                values = [one[stance][of][name] for one in found if stance in one]
                if values and all(value is not None for value in values):
                    out[f"{stance} / {of} / {name}"] = mean_of(values)
    return out


def mean_of(values: Sequence[float]) -> dict[str, Any]:
    found = over_seeds(values)
    bounds = {"low": max(0.0, found.low), "high": min(1.0, found.high)} if len(values) > 1 else {}
    return {"mean": found.accuracy, **bounds, "values": list(values)}


def table(report: dict[str, Any]) -> str:
    lines = [f"{'AUC, mean over ' + str(len(report['each'])):<64}{'mean':>7}{'95 % interval':>18}   each"]
    for name, found in report["summary"].items():
        interval = f"{found['low']:.3f} to {found['high']:.3f}" if "low" in found else ""
        each = " ".join(f"{value:.2f}" for value in found["values"])
        lines.append(f"{name:<64}{found['mean']:>7.3f}{interval:>18}   {each}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, nargs="+", default=[], help="folders of trained runs on the lab")
    parser.add_argument("--write-bank", type=Path, help="write the bank of --seed as JSON, and nothing else")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two seeds of 16 rollouts, to see that it runs")
    parser.add_argument("--out", type=Path, help="default: results/lab_evidence.json; none with --quick or --run")
    arguments = parser.parse_args(argv)
    if arguments.write_bank is not None:
        save_bank(bank_of(arguments.seed), arguments.write_bank)
        return
    torch.set_num_threads(1)
    out = arguments.out
    if arguments.run:
        each = {str(folder): of_run(folder) for folder in arguments.run}
    else:
        seeds, rollouts = (SEEDS[:2], 16) if arguments.quick else (SEEDS, ROLLOUTS)
        out = out or (None if arguments.quick else Path(__file__).parent / "results" / "lab_evidence.json")
        with tempfile.TemporaryDirectory() as folder:
            each = {str(seed): of_untrained(seed, Path(folder), rollouts) for seed in seeds}
    report = {
        "versions": {"sgsd": sgsd.__version__, "torch": torch.__version__},
        "mix": MIX,
        "settings": {"group": GROUP, "k": K, "confidence": CONFIDENCE},
        "each": each,
        "summary": summary(list(each.values())),
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(table(report) + "\n")


if __name__ == "__main__":
    main()
