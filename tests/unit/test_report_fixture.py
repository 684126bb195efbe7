"""A seeded synthetic run and a parser that judges pages; shared by the tests of the report."""

from __future__ import annotations

import json
import math
import random
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sgsd.report import write_report

VOID = {"meta", "br", "hr", "img", "input", "link", "area", "base", "col", "embed", "source", "track", "wbr"}


class Page(HTMLParser):
    """The page taken apart: elements with attributes, text, and whether every tag is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if len(dict(attrs)) != len(attrs):
            self.faults.append(f"<{tag}> repeats an attribute")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> out of order at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        shown = [part for tag, parts in self.texts.items() if tag not in ("style", "script") for part in parts]
        return " ".join("".join(shown).replace("\u00a0", " ").split())


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_metrics(rng: random.Random, steps: int) -> list[dict[str, Any]]:
    rows = []
    for step in range(1, steps + 1):
        ready = step / steps
        plus, minus = 0.15 + 0.25 * ready + rng.gauss(0, 0.03), 0.35 - 0.15 * ready + rng.gauss(0, 0.03)
        right, wrong = 0.2 + 0.3 * ready + rng.gauss(0, 0.03), 0.2 - 0.1 * ready + rng.gauss(0, 0.02)
        rows.append(
            {
                "step": step,
                "loss": -0.02 * ready + rng.gauss(0, 0.004),
                "grad_norm": 0.5 + abs(rng.gauss(0, 0.15)),
                "lr": 1e-4 * min(1.0, step / 6),
                "rollouts": 64,
                "accuracy": min(1.0, max(0.0, 0.42 + 0.45 * (1 - math.exp(-3 * ready)) + rng.gauss(0, 0.05))),
                "ungraded": 0.0,
                "length": 23 + 4 * ready + rng.gauss(0, 0.5),
                "truncated": max(0.0, 0.06 * (1 - ready) + rng.gauss(0, 0.01)),
                "entropy": 0.31 - 0.15 * ready + rng.gauss(0, 0.01),
                "stance/supports": plus,
                "stance/neutral": 1 - plus - minus,
                "stance/suppresses": minus,
                "polarity/validated": right,
                "polarity/neutral": 1 - right - wrong,
                "polarity/reversed": wrong,
                "gate_kept": 0.6 + 0.1 * ready + rng.gauss(0, 0.02),
                "delta_abs": 0.12 + rng.gauss(0, 0.01),
                "bank_items": 24 + step // 10,
            }
        )
    return rows


def make_rollout(rng: random.Random, index: int, step: int, length: int = 22, teachers: int = 4) -> dict[str, Any]:
    words = ["3", " +", " 4", " =", " 7", "\n", "so", " the", " total", " is", " 12", ",", " then", " 23"]
    correct = index % 3 != 0
    tokens = [rng.choice(words) for _ in range(length - 1)] + ["<eos>"]
    pool: list[dict[str, Any]] = []
    for k in range(teachers):
        delta = [rng.gauss(0.1 if correct else -0.1, 0.8) for _ in tokens]
        stance = rng.choice([1, 0, -1])
        pool.append(
            {
                "source": "skill_pair",
                "items": [f"gen_{k + 1:03d}", f"err_{k + 2:03d}"],
                "weight": 1 / teachers,
                "support": sum(delta) / length,
                "stance": stance,
                "polarity": stance * (1 if correct else -1),
                "delta": delta,
                "gate": [1 / (1 + math.exp(d * d / 2)) for d in delta],
            }
        )
    return {
        "step": step,
        "index": index,
        "problem_id": f"p{index}",
        "problem": f"Anna has {index} apples and buys 3 boxes with 5 apples each. How many apples does she have now?",
        "gold": str(index + 15),
        "completion": "".join(tokens),
        "tokens": tokens,
        "status": "correct" if correct else "incorrect",
        "answer": str(index + 15) if correct else None,
        "outcome": 1 if correct else -1,
        "mask": [1] * (length - 1) + [0],
        "advantages": [
            sum(t["polarity"] * t["weight"] * t["delta"][i] * t["gate"][i] for t in pool) for i in range(length)
        ],
        "teachers": pool,
    }


BEFORE = {
    "greedy": {"accuracy": 0.508, "low": 0.465, "high": 0.551},
    "avg_at_4": {"accuracy": 0.4214, "low": 0.401, "high": 0.442},
}
AFTER = {
    "greedy": {"accuracy": 0.881, "low": 0.853, "high": 0.909},
    "avg_at_4": {"accuracy": 0.8634, "low": 0.846, "high": 0.881},
}


def make_run(run: Path, steps: int = 60, finished: bool = True, seed: int = 0, **size: int) -> Path:
    """A run folder as the trainer leaves it; unfinished, it has no summary and stops early."""
    rng = random.Random(seed)
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(
        f"name: demo\nmethod: sgsd\nseed: {seed}\nsteps: {steps}\nbank:\n  api_key: hunter2\n"
    )
    done = steps if finished else steps // 5
    write_lines(run / "metrics.jsonl", make_metrics(rng, steps)[:done])
    times = {"sample": 0.2, "verify": 0.01, "contexts": 0.02, "score": 0.1, "update": 0.08}
    timings = [
        {"step": s, "tokens": 700, "tokens_per_s": 2000 + rng.gauss(0, 120)}
        | {stage: mean * rng.uniform(0.8, 1.3) for stage, mean in times.items()}
        for s in range(1, done + 1)
    ]
    write_lines(run / "timings.jsonl", timings)
    evaluations = []
    for step in range(0, done + 1, max(steps // 4, 1)):
        centre = 0.4214 + 0.442 * (1 - math.exp(-3 * step / steps)) / (1 - math.exp(-3))
        measure = {"accuracy": centre, "low": centre - 0.02, "high": centre + 0.018}
        greedy = {"accuracy": centre + 0.05, "low": centre + 0.01, "high": centre + 0.09}
        row = {"step": step, "split": "held-out", "problems": 512, "samples": 4}
        evaluations.append(row | {"greedy": greedy, "avg_at_k": measure | {"k": 4}})
    write_lines(run / "evaluations.jsonl", evaluations)
    amount = size.pop("rollouts", 12)
    write_lines(
        run / "rollouts.jsonl", [make_rollout(rng, i, 1 + i * done // max(amount, 1), **size) for i in range(amount)]
    )
    if finished:
        summary = {"name": "demo", "method": "sgsd", "seed": seed, "before": BEFORE, "after": AFTER}
        details = {
            "versions": {"python": "3.11.7", "torch": "2.13.0"},
            "model_sha256": "ab" * 32,
            "bank_version": "b3f1",
        }
        command = {"train_seconds": 14.2, "command": ["sgsd", "demo", "--seed", "0"]}
        (run / "summary.json").write_text(json.dumps(summary | details | command))
    return run


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def edit_lines(path: Path, change: Any) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for i, row in enumerate(rows):
        change(i, row)
    write_lines(path, rows)


def edit_summary(run: Path, **changes: Any) -> None:
    summary = json.loads((run / "summary.json").read_text()) | changes
    (run / "summary.json").write_text(json.dumps(summary))


@pytest.mark.parametrize(
    "html", ["<p><b>x</p></b>", "<p>x", "</p>", '<p id="a" id="b">x</p>', "<svg><path></svg>", "<ul><li>x</ul>"]
)
def test_the_judge_notices_what_is_not_well_formed(html: str) -> None:
    page = Page(html)
    assert page.faults or page.open


def test_the_synthetic_run_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    one, other, third = (make_run(tmp_path / str(i), seed=seed) for i, seed in enumerate((0, 0, 1)))
    for file in one.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes()
    assert (one / "metrics.jsonl").read_bytes() != (third / "metrics.jsonl").read_bytes()
