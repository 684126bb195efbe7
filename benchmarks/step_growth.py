"""How a step grows, what shared prefixes save, and where the time of a real step goes."""

from __future__ import annotations

import io
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from machine import timed
from sgsd.bank import make_retriever, pairs_for
from sgsd.data.problems import load_problems
from sgsd.lab.demo_bank import demo_bank
from sgsd.scorer import Layout, Row, collate, plan_layout
from sgsd.train import make_config, run_training, session
from step_measure import peak_extra, toy
from step_ways import SMALL_SHAPE, Bench, Case, make_bench, ours

# Budgets that the smallest point of a curve already fills: what then grows is not the pass.
BASE = Case(
    SMALL_SHAPE,
    rollouts=4,
    teachers=2,
    max_tokens=256,
    student_prompt=100,
    teacher_prompt=300,
    mixed=False,
    student_tokens=1024,
    teacher_tokens=2048,
)
LONG = replace(BASE, rollouts=1, student_tokens=8192, teacher_tokens=8192)
CURVES: dict[str, list[Case]] = {
    "teachers": [replace(BASE, teachers=k) for k in (1, 2, 4, 8, 16)],
    "tokens": [replace(LONG, max_tokens=t) for t in (128, 256, 512, 1024, 2048, 4096)],
    "rollouts": [replace(BASE, rollouts=b, max_tokens=128) for b in (4, 8, 16, 32)],
}
FIELD = {"teachers": "teachers", "tokens": "max_tokens", "rollouts": "rollouts"}

# Body to head as in Qwen3-1.7B, 4.5 to 1: at this width that is a vocabulary of 2,720.
SHARING = replace(BASE, shape=replace(SMALL_SHAPE, vocabulary=2720), rollouts=8, teachers=1, teacher_tokens=8192)
SHARING_POINTS = [(g, p, t) for g in (2, 4, 8) for p, t in ((100, 512), (300, 512), (600, 256), (1200, 256))]


@dataclass(frozen=True, slots=True)
class Line:
    """The least-squares line y = start + slope·x, and how far each point is from it as a share of its value."""

    start: float
    slope: float
    off: tuple[float, ...]


def line_through(x: Sequence[float], y: Sequence[float]) -> Line:
    slope, start = statistics.linear_regression(x, y)
    return Line(start, slope, tuple(value / (start + slope * at) - 1 for at, value in zip(x, y)))


def curves(small: bool, repetitions: int, threads: int) -> tuple[dict[str, Any], str]:
    """Seconds of a step, points of a curve in turns, and peak extra memory, each in a process of its own."""
    found, lines = {}, []
    for name, cases in CURVES.items():
        if small:  # two points make a line
            cases = [replace(toy(case), **{FIELD[name]: getattr(case, FIELD[name])}) for case in cases[:2]]
        x = [getattr(case, FIELD[name]) for case in cases]
        benches = [make_bench(case) for case in cases]
        ours(benches[0])
        rounds = [[timed(partial(ours, bench))[0] for bench in benches] for _ in range(repetitions)]
        peaks = [peak_extra(case, "ours", threads) for case in cases]
        points: dict[str, Any] = {"case": asdict(cases[0]), "x": x, "peak_extra_bytes": peaks}
        for clock in ("wall", "processor"):
            seconds = [statistics.median(getattr(r[i], clock) for r in rounds) for i in range(len(cases))]
            points[clock] = {"seconds": seconds, "line": asdict(line_through(x, seconds))}
        found[name] = points
        line = points["processor"]["line"]
        lines.append(f"\n{name}: cpu s = {line['start']:.2f} + {line['slope']:.4f} × {name}")
        lines.append(f"{name:>9} {'wall s':>8} {'cpu s':>8} {'off the line':>13} {'peak extra MiB':>15}")
        for i, at in enumerate(x):
            wall, cpu = points["wall"]["seconds"][i], points["processor"]["seconds"][i]
            lines.append(f"{at:>9,} {wall:>8.2f} {cpu:>8.2f} {line['off'][i]:>13.1%} {peaks[i] / 2**20:>15,.0f}")
    return {"repetitions": repetitions, "curves": found}, "\n".join(lines).lstrip()


def sharing(small: bool, repetitions: int, threads: int) -> tuple[dict[str, Any], str]:
    """Teachers of groups scored in plain rows and with shared prefixes; the numbers are compared too."""
    points = [
        share_at(*point, small=small, repetitions=repetitions) for point in SHARING_POINTS[: 1 if small else None]
    ]
    lines = [f"{'group':>6} {'prompt':>7} {'tokens':>7} {'rows cpu s':>11} {'shared cpu s':>13} {'saved':>7}"]
    for p in points:
        rows, shared = (p["processor"][layout] for layout in ("rows", "shared"))
        lines.append(
            f"{p['group']:>6} {p['prompt']:>7,} {p['tokens']:>7,} {rows:>11.2f} {shared:>13.2f} {p['saved']:>7.0%}"
        )
    return {"repetitions": repetitions, "case": asdict(SHARING), "points": points}, "\n".join(lines)


def share_at(group: int, prompt: int, tokens: int, *, small: bool, repetitions: int) -> dict[str, Any]:
    case = replace(SHARING, group=group, teacher_prompt=prompt, max_tokens=tokens)
    bench = make_bench(replace(toy(case), group=group) if small else case)
    rows = bench.batch.teacher_rows()
    plain, shared = score(bench, rows, "rows"), score(bench, rows, "shared")
    rounds = [
        {layout: timed(partial(score, bench, rows, layout))[0].processor for layout in ("rows", "shared")}
        for _ in range(repetitions)
    ]
    return {
        "group": group,
        "prompt": prompt,
        "tokens": tokens,
        "processor": {layout: statistics.median(r[layout] for r in rounds) for layout in ("rows", "shared")},
        "saved": statistics.median(1 - r["shared"] / r["rows"] for r in rounds),
        "largest_difference": float((plain - shared).abs().max()),
    }


def score(bench: Bench, rows: Sequence[Row], layout: Layout) -> torch.Tensor:
    """The teachers' log-probs of all rows, in the rows' order."""
    found: dict[int, torch.Tensor] = {}
    for indices in plan_layout(rows, bench.case.teacher_tokens, layout):
        pack = collate([rows[i] for i in indices], layout=layout)
        values_N = bench.run.policy.scorer(pack, role="teacher").logps_N
        found.update(zip(indices, values_N.split([len(rows[i].completion_ids) for i in indices])))
    return torch.cat([found[i] for i in range(len(rows))])


def lab_run(*, steps: int, rollouts: int, threads: int) -> dict[str, Any]:
    """SGSD with eight teachers on the lab."""
    return {
        "steps": steps,
        "rollouts": rollouts,
        "method": {"name": "sgsd", "k": 8, "confidence": 0.01},
        "model": {"path": "lab", "dtype": "float32"},
        "lora": None,
        "data": {"path": "lab:train", "limit": 512},
        "prompts": {"folder": "lab", "teacher_thinking": False, "evaluation_thinking": False},
        "sampling": {"max_tokens": 96},
        "bank": {"path": "lab"},
        "optimizer": {"lr": 3e-4},
        "compute": {"threads": threads},
    }


PHASES = ("sample", "verify", "contexts", "score", "update", "bank")


def parts(small: bool, repetitions: int, threads: int) -> tuple[dict[str, Any], str]:
    """A short run of SGSD on the lab with a checkpoint every other step: its own timings, and what it does not time."""
    steps, saves = (2 if small else 4 * repetitions), []
    save = session.save_checkpoint

    def timed_save(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        made = save(*arguments, **options)
        saves.append(time.perf_counter() - start)
        return made

    with tempfile.TemporaryDirectory() as folder:
        settings = lab_run(steps=steps, rollouts=4 if small else 32, threads=threads)
        config = make_config(settings | {"output": folder + "/run", "checkpoint": {"every": 2}})
        session.save_checkpoint = timed_save
        try:
            start = time.perf_counter()
            run_training(config, Console(file=io.StringIO()))
            whole = time.perf_counter() - start
        finally:
            session.save_checkpoint = save
        timings = [json.loads(line) for line in (Path(folder) / "run" / "timings.jsonl").read_text().splitlines()]
    queries = [problem.text for problem in load_problems(config.data)[: config.rollouts]]
    retriever = make_retriever("bm25", demo_bank(), seed=0)
    retrieval = statistics.median(timed(partial(pairs_for, retriever, queries, 8))[0].wall for _ in range(5))
    later = timings[1:] or timings  # the first step also pays for what is made once
    seconds = {phase: statistics.median(record[phase] for record in later) for phase in PHASES}
    first = {phase: timings[0][phase] for phase in PHASES}
    total = sum(seconds.values())
    found = {
        "config": config.model_dump(mode="json") | {"output": None},
        "tokens_a_step": statistics.median(record["tokens"] for record in later),
        "seconds": seconds,
        "first_step_seconds": first,
        "retrieval_seconds": retrieval,
        "checkpoint_seconds": saves,
        "whole_run_seconds": whole,
    }
    lines = [f"{config.rollouts} rollouts × 8 teachers on the lab, {steps} steps, median of all but the first"]
    lines += [f"{phase:<10} {value:>8.3f} s {value / total:>6.1%}" for phase, value in seconds.items()]
    lines.append(f"retrieval  {retrieval:>8.4f} s of the contexts, bm25, {len(demo_bank().items)} items")
    lines.append(f"checkpoint {statistics.median(saves):>8.3f} s each, outside the step ({len(saves)} made)")
    lines.append(f"first step {sum(first.values()):>8.3f} s")
    return found, "\n".join(lines)
