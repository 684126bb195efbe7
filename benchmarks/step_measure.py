"""Seconds of a way to make a step, and its peak extra memory in a process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from machine import Elapsed, peak_extra_bytes, timed
from step_ways import Bench, Case, Outcome, Products, Shape, direct, floor, make_bench, ours

WAYS = ("ours", "direct", "floor")
TOY = Shape(hidden=16, layers=2, heads=2, kv_heads=1, head_dim=8, intermediate=32, vocabulary=1000)


def toy(case: Case) -> Case:
    """The same step in miniature, to see that it runs."""
    lengths = {"max_tokens": 24, "student_prompt": 6, "teacher_prompt": 12, "student_tokens": 64, "teacher_tokens": 96}
    return replace(case, shape=TOY, rollouts=4, teachers=min(case.teachers, 3), lora_rank=4, **lengths)


def in_turns(bench: Bench, repetitions: int, ways: Sequence[str] = WAYS) -> dict[str, Any]:
    """Each way once a repetition, one after the other, so that other load on the machine strikes all alike.

    The direct way takes one rollout at a time, so its rollouts are dealt out over the repetitions: each is measured
    once, and the sum of all is one whole step. A repetition's ratio is made from its seconds a rollout.
    """
    products = Products(bench)
    rollouts = range(bench.case.rollouts)
    rounds: list[dict[str, Elapsed]] = []
    loss, gradient, mine = 0.0, None, None
    ours(make_bench(toy(bench.case)))  # threads and kernels are there from now on
    for number in range(repetitions):
        rounds.append({})
        for way in ways:
            if way == "ours":
                rounds[-1][way], mine = timed(partial(ours, bench))
            elif way == "floor":
                rounds[-1][way], _ = timed(partial(floor, bench, products))
            elif share := rollouts[number::repetitions]:
                elapsed, (part, grads) = timed(partial(direct, bench, share))
                loss += part
                gradient = grads if gradient is None else [a + b for a, b in zip(gradient, grads)]
                rounds[-1][way] = Elapsed(elapsed.wall / len(share), elapsed.processor / len(share))
    found: dict[str, Any] = {
        clock: ratios([{way: getattr(e, clock) for way, e in r.items()} for r in rounds], len(rollouts))
        for clock in ("wall", "processor")
    }
    if gradient is not None and mine is not None:
        theirs = Outcome(loss, float(torch.stack([g.float().norm() for g in gradient]).norm()))
        found["agreement"] = agreement(mine, theirs)
    return found


def ratios(rounds: Sequence[dict[str, float]], rollouts: int) -> dict[str, Any]:
    """Of one clock: the samples (direct: seconds a rollout), medians of a whole step, and ratios repetition by one."""
    samples = {way: [r[way] for r in rounds if way in r] for way in WAYS}
    step = {way: statistics.median(s) * (rollouts if way == "direct" else 1) for way, s in samples.items() if s}
    found: dict[str, Any] = {"samples": samples, "seconds_a_step": step}
    for name, above, below, factor in (
        ("direct_over_ours", "direct", "ours", rollouts),
        ("ours_over_floor", "ours", "floor", 1),
    ):
        if each := [factor * r[above] / r[below] for r in rounds if above in r and below in r]:
            found[name] = {"median": statistics.median(each), "each": each}
    return found


def agreement(mine: Outcome, theirs: Outcome) -> dict[str, float]:
    return {
        "loss_ours": mine.loss,
        "loss_direct": theirs.loss,
        "loss_difference": abs(mine.loss - theirs.loss),
        "gradient_norm_ours": mine.grad_norm,
        "gradient_norm_direct": theirs.grad_norm,
        "gradient_norm_relative_difference": abs(mine.grad_norm / theirs.grad_norm - 1),
    }


def peak_extra(case: Case, way: str, threads: int) -> int | None:
    """Bytes beyond what was resident before, at the worst moment of one step; None where memory ran out."""
    request = json.dumps({"case": asdict(case), "way": way, "threads": threads})
    command = [sys.executable, str(Path(__file__).with_name("step.py")), "--alone", request]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{way} alone: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])["peak_extra_bytes"]


def alone(request: str) -> dict[str, Any]:
    """What `peak_extra` asks a fresh process for."""
    asked = json.loads(request)
    case = Case(**asked["case"] | {"shape": Shape(**asked["case"]["shape"])})
    torch.set_num_threads(asked["threads"])
    _run(make_bench(toy(case)), asked["way"])  # loads threads and kernels, which are no tensor memory
    bench = make_bench(case)
    try:
        return {"peak_extra_bytes": peak_extra_bytes(lambda: _run(bench, asked["way"]))}
    except torch.OutOfMemoryError:
        return {"peak_extra_bytes": None}


def _run(bench: Bench, way: str) -> None:
    if way == "direct":
        direct(bench, [0])  # one at a time: another would need what the first has given back
    elif way == "ours":
        ours(bench)
    else:
        floor(bench, Products(bench))
