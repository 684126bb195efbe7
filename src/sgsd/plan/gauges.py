"""Gauges on a run while it goes: times of its steps and its engine's calls, lengths of texts, and peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sgsd.plan.sizes import Lengths
from sgsd.rollout import Engine, Sampling
from sgsd.scorer import PackedBatch, Role
from sgsd.train.setup import Run
from sgsd.types import Completion

PHASES = ("sample", "verify", "contexts", "score", "update", "bank")


@dataclass(frozen=True)
class Step:
    """Seconds and tokens of one measured step."""

    wall: float
    processor: float  # of this process's threads
    phases: Mapping[str, float]
    tokens: float  # sampled, by all processes


@dataclass(frozen=True)
class EngineCall:
    """Sizes and seconds of one call of the engine."""

    rows: int
    prompt: int  # the longest
    longest: int  # completion
    seconds: float


@dataclass
class StepTimer:
    """Times every step; the loop calls it after each."""

    steps: list[Step] = field(default_factory=list)
    last: tuple[float, float] = field(default_factory=lambda: _clocks())

    def restart(self) -> None:
        """Leave out of the next step what was done since the last one."""
        self.last = _clocks()

    def __call__(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        before = self.last
        self.restart()
        wall, processor = (after - since for after, since in zip(self.last, before))
        phases = {name: timing[name] for name in PHASES if name in timing}
        self.steps.append(Step(wall, processor, phases, timing["tokens"]))


def _clocks() -> tuple[float, float]:
    """Seconds by the wall and of this process's threads."""
    return time.perf_counter(), time.process_time()


@dataclass
class TimedEngine:
    """Times each call of an engine."""

    engine: Engine
    calls: list[EngineCall] = field(default_factory=list)

    def sample(
        self, prompts: Sequence[Sequence[int]], indices: Sequence[int], sampling: Sampling, *, seed: int
    ) -> list[Completion]:
        start = time.perf_counter()
        done = self.engine.sample(prompts, indices, sampling, seed=seed)
        if done:
            longest = max(len(completion.token_ids) for completion in done)
            seconds = time.perf_counter() - start
            self.calls.append(EngineCall(len(prompts), max(map(len, prompts)), longest, seconds))
        return done

    def sync(self) -> None:
        self.engine.sync()

    @property
    def dtype(self) -> str | None:
        return getattr(self.engine, "dtype", None)

    def close(self) -> None:
        close: Any = getattr(self.engine, "close", lambda: None)
        close()


@dataclass
class LengthCounter:
    """Counts what the scorer is given, by role: rows, tokens with their pads, and completion tokens."""

    rows: dict[Role, int] = field(default_factory=lambda: {"student": 0, "teacher": 0})
    tokens: dict[Role, int] = field(default_factory=lambda: {"student": 0, "teacher": 0})
    completion: dict[Role, int] = field(default_factory=lambda: {"student": 0, "teacher": 0})

    def __call__(self, module: Any, args: tuple[PackedBatch, ...], kwargs: dict[str, Any]) -> None:
        pack, role = args[0], kwargs.get("role", "student")
        rows = pack.completion_BT.shape[0]
        self.rows[role] += rows
        self.tokens[role] += pack.input_ids_RL.numel()
        if pack.prefixes is not None:  # a prompt that several rows share counts for each
            self.tokens[role] += rows * pack.prefixes.input_ids_PL.shape[1]
        self.completion[role] += pack.targets_N.numel()

    def lengths(self, longest: float) -> Lengths:
        def mean(count: Mapping[Role, int], role: Role) -> float:
            return count[role] / max(1, self.rows[role])

        roles: tuple[Role, Role] = ("student", "teacher")
        student, teacher = (max(0.0, mean(self.tokens, role) - mean(self.completion, role)) for role in roles)
        completion = mean(self.completion, "student")
        return Lengths(round(student), round(teacher), round(completion), round(max(longest, completion)))


@contextmanager
def counted_lengths(run: Run) -> Iterator[LengthCounter]:
    """Count the lengths of every micro-batch that the scorer gets."""
    counter = LengthCounter()
    handle = run.policy.bare_scorer.register_forward_pre_hook(counter, with_kwargs=True)
    try:
        yield counter
    finally:
        handle.remove()


class MemoryGauge:
    """Peak memory since it was made: allocated on a GPU, or resident above what was resident then."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        status = Path("/proc/self/clear_refs")
        if status.exists():
            status.write_text("5")  # the high-water mark goes down to what is resident
        self.before = _most_resident()

    def peak(self) -> float:
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        return float(_most_resident() - self.before)


def _most_resident() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
