"""A run's time, memory and disk before it is run: from its own first steps, made in a folder that does not stay."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import rmtree
from statistics import fmean, linear_regression
from tempfile import mkdtemp
from typing import Any

import torch

from sgsd.rollout import Engine, Sampling
from sgsd.scorer import Pack, Role
from sgsd.train.arithmetic import Lengths, Operations, Rows, Shape, bytes_of
from sgsd.train.config import RunConfig
from sgsd.train.estimate import evaluations
from sgsd.train.launch import make_accelerator
from sgsd.train.loop import train
from sgsd.train.meta_pass import Ghost
from sgsd.train.processes import check_processes, from_first
from sgsd.train.records import Records
from sgsd.train.resume import begin
from sgsd.train.sections import CheckpointConfig, TrackConfig
from sgsd.train.setup import Parts, build_parts
from sgsd.types import Completion, UserError

PHASES = ("sample", "verify", "contexts", "score", "update", "bank")
ENGINE_ROWS = 64  # of an evaluation's share, where an engine of its own makes up the batches


@dataclass(frozen=True)
class Step:
    """What one measured step took."""

    wall: float
    processor: float  # of this process's threads
    phases: Mapping[str, float]
    tokens: float  # sampled, by all processes


@dataclass(frozen=True)
class Generated:
    """One call of the engine."""

    rows: int
    prompt: int  # the longest
    longest: int  # completion
    seconds: float


@dataclass(frozen=True)
class Measured:
    """A run as it will be, if it goes on as it began. The first step warmed up and counts once, as it will."""

    config: RunConfig
    first: Step
    steps: Sequence[Step]
    setup: float  # seconds until the first step: loading, hashing
    save: float  # of one checkpoint
    evaluation: float  # of one; 0 where none is configured
    evaluation_share: tuple[int, int, bool]  # problems measured, of how many, and whether their answers were cut off
    peak: float  # bytes: allocated on the device, or resident above what was at the start
    on_cpu: bool
    lengths: Lengths
    teacher_rows: float  # a step, on this process
    disk: Mapping[str, float]  # bytes by what they are, when the run is over

    @property
    def phases(self) -> dict[str, list[float]]:
        """Seconds of every measured step; "rest" is what no phase counts: records and, once, the sampler's proof."""
        found = {name: [step.phases.get(name, 0.0) for step in self.steps] for name in PHASES}
        return found | {"rest": [step.wall - sum(step.phases.values()) for step in self.steps]}

    @property
    def step(self) -> float:
        return fmean(step.wall for step in self.steps)

    @property
    def tokens(self) -> float:
        """Sampled in the run."""
        return self.config.steps * fmean(step.tokens for step in self.steps)

    @property
    def teacher_tokens(self) -> float:
        """Read by teachers in the run, on this process."""
        return self.config.steps * self.teacher_rows * self.lengths.teacher

    @property
    def run(self) -> dict[str, float]:
        """Seconds of the whole run, by what they go to."""
        checkpoints, every = 1, self.config.checkpoint.every
        if every:
            checkpoints = math.ceil(self.config.steps / every)
        return {
            "loading": self.setup,
            "steps": self.first.wall + (self.config.steps - 1) * self.step,
            "evaluations": evaluations(self.config) * self.evaluation,
            "checkpoints": checkpoints * self.save,
        }

    def at_full_length(self) -> float:
        """Seconds of a step whose completions all reach max_tokens: phases grow as their operations do."""
        mean = {name: fmean(values) for name, values in self.phases.items()}
        ghost = Ghost.of(self.config)
        shape, most = Shape.of(ghost), self.config.sampling.max_tokens
        now, then = (
            Operations.of(
                shape,
                Rows.of(self.config, ghost.method, lengths),
                lengths,
                compares_distributions=ghost.method.matches_distribution,
            )
            for lengths in (self.lengths, self.lengths.at(most))
        )
        grown = {
            "sample": most / self.lengths.longest,
            "score": then.score / now.score if now.score else 1.0,
            "update": then.update / now.update,
        }
        return sum(seconds * grown.get(name, 1.0) for name, seconds in mean.items())


def measure(config: RunConfig, count: int) -> Measured:
    """Make the first `count` steps of the run, a share of its evaluation and a checkpoint; nothing of it stays.

    Raises:
        UserError: fewer than two steps, a run without any, or what would stop the run itself.
    """
    if count < 2:
        raise UserError(f"--steps: {count} leaves none after the warm-up; make at least 2")
    if config.steps == 0:
        raise UserError("steps: 0 trains nothing, so there is no step to measure; plan a run that trains")
    accelerator = make_accelerator()
    check_processes(accelerator.num_processes)
    gauge = Gauge(accelerator.device)
    folder = Path(from_first(accelerator, lambda: mkdtemp(prefix="sgsd-plan-")))
    try:
        found = _measure(config, _trial(config, count, folder / "run"), accelerator, gauge)
    finally:
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            rmtree(folder, ignore_errors=True)
    return found


def _trial(config: RunConfig, count: int, output: Path) -> RunConfig:
    """The run's beginning: no writer is asked, no tracker told, and the evaluation is measured apart."""
    return config.model_copy(
        update={
            "output": str(output),
            "steps": count,
            "track": TrackConfig(),
            "checkpoint": CheckpointConfig(),
            "evaluation": config.evaluation.model_copy(update={"every": 0}),
            "growth": config.growth.model_copy(update={"every": 0}),
        }
    )


def _measure(config: RunConfig, trial: RunConfig, accelerator: Any, gauge: Gauge) -> Measured:
    began = time.perf_counter()
    parts = build_parts(trial, accelerator)
    engine = TimedEngine(parts.engine)
    parts.engine = engine
    with parts.verifier, ExitStack() as closing:
        records = Records(trial.folder)
        start = begin(parts, records)
        if parts.critic is not None:
            closing.enter_context(parts.critic)
        setup = time.perf_counter() - began
        share = EvaluationShare.of(parts, engine) if parts.evaluator else None
        passes, before = closing.enter_context(watched(parts)), len(engine.calls)
        watch = StepWatch()
        end = train(parts, records, start, watch)
        save = time.perf_counter() - watch.last[0]  # all that comes after the last step
        if end.step < trial.steps:
            raise KeyboardInterrupt
        calls = engine.calls[before:]
        lengths = passes.lengths(fmean(call.longest for call in calls) if calls else 0)
        return Measured(
            config=config,
            first=watch.steps[0],
            steps=watch.steps[1:],
            setup=setup,
            save=save,
            evaluation=0.0 if share is None else share.whole(engine.calls),
            evaluation_share=(0, 0, False) if share is None else (share.measured, share.problems, share.cut_off),
            peak=parts.largest(gauge.peak()),
            on_cpu=accelerator.device.type == "cpu",
            lengths=lengths,
            teacher_rows=passes.rows["teacher"] / trial.steps,
            disk=_disk(config, trial, parts),
        )


# ── Time ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class StepWatch:
    """Told by the loop after every step."""

    steps: list[Step] = field(default_factory=list)
    last: tuple[float, float] = field(default_factory=lambda: (time.perf_counter(), time.process_time()))

    def __call__(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        now = (time.perf_counter(), time.process_time())
        wall, processor = (after - before for after, before in zip(now, self.last))
        phases = {name: timing[name] for name in PHASES if name in timing}
        self.steps.append(Step(wall, processor, phases, timing["tokens"]))
        self.last = now


@dataclass
class TimedEngine:
    """The engine, and how long each of its calls took."""

    engine: Engine
    calls: list[Generated] = field(default_factory=list)

    def sample(
        self, prompts: Sequence[Sequence[int]], indices: Sequence[int], sampling: Sampling, *, seed: int
    ) -> list[Completion]:
        start = time.perf_counter()
        done = self.engine.sample(prompts, indices, sampling, seed=seed)
        if done:
            longest = max(len(completion.token_ids) for completion in done)
            seconds = time.perf_counter() - start
            self.calls.append(Generated(len(prompts), max(map(len, prompts)), longest, seconds))
        return done

    def sync(self) -> None:
        self.engine.sync()


@dataclass
class PassWatch:
    """What the scorer is given, by role: rows, tokens with their pads, and completion tokens."""

    rows: dict[Role, int] = field(default_factory=lambda: {"student": 0, "teacher": 0})
    tokens: dict[Role, int] = field(default_factory=lambda: {"student": 0, "teacher": 0})
    completion: dict[Role, int] = field(default_factory=lambda: {"student": 0, "teacher": 0})

    def __call__(self, module: Any, args: tuple[Pack, ...], kwargs: dict[str, Any]) -> None:
        pack, role = args[0], kwargs.get("role", "student")
        self.rows[role] += pack.completion_BT.shape[0]
        self.tokens[role] += pack.input_ids_RL.numel()
        self.tokens[role] += pack.prefixes.input_ids_PL.numel() if pack.prefixes is not None else 0
        self.completion[role] += pack.targets_N.numel()

    def lengths(self, longest: float) -> Lengths:
        def mean(count: Mapping[Role, int], role: Role) -> float:
            return count[role] / max(1, self.rows[role])

        roles: tuple[Role, Role] = ("student", "teacher")
        student, teacher = (max(0.0, mean(self.tokens, role) - mean(self.completion, role)) for role in roles)
        completion = mean(self.completion, "student")
        return Lengths(round(student), round(teacher), round(completion), round(max(longest, completion)))


@contextmanager
def watched(parts: Parts) -> Iterator[PassWatch]:
    """Look at every pass that the scorer makes."""
    watch = PassWatch()
    handle = parts.bare_scorer.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        yield watch
    finally:
        handle.remove()


# ── The evaluation ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class EvaluationShare:
    """An evaluation of the first few problems: as many as make one whole batch of samples."""

    measured: int
    problems: int
    samples: int
    per_batch: float  # rows that are sampled together in the whole evaluation
    greedy: Generated
    sampled: Generated
    grading: float  # seconds beside sampling
    most: int  # tokens of a completion in the whole evaluation
    cut_off: bool  # whether the share's completions were held shorter, and some ran into that

    @classmethod
    def of(cls, parts: Parts, engine: TimedEngine) -> EvaluationShare:
        evaluator, config = parts.evaluator, parts.config
        assert evaluator is not None
        count, samples, most = len(evaluator.problems), evaluator.samples, evaluator.sampling.max_tokens
        prompt = len(evaluator.maker.student(evaluator.problems[0], thinking=evaluator.thinking))
        own = config.rollout.engine == "transformers"
        fit = max(1, config.compute.rollout_tokens // (prompt + most)) if own else math.inf
        processes = parts.accelerator.num_processes
        wanted = math.ceil((fit if own else ENGINE_ROWS) / samples) * processes
        problems = evaluator.problems[: max(processes, min(count, wanted))]
        held = min(most, config.sampling.max_tokens)
        start, before = time.perf_counter(), len(engine.calls)
        engine.sync()
        replace(
            evaluator,
            engine=engine,
            problems=problems,
            sampling=replace(evaluator.sampling, max_tokens=held),
        ).run()
        seconds = time.perf_counter() - start
        greedy, sampled = engine.calls[before:]
        return cls(
            measured=len(problems),
            problems=count,
            samples=samples,
            per_batch=fit,
            greedy=greedy,
            sampled=sampled,
            grading=seconds - greedy.seconds - sampled.seconds,
            most=most,
            cut_off=held < most and max(greedy.longest, sampled.longest) == held,
        )

    def whole(self, calls: Sequence[Generated]) -> float:
        """Seconds of the whole evaluation: its batches by the line of a token's time over rows, the rest by share."""
        start, slope = token_line([call for call in calls if call.rows <= self.per_batch])
        scale = self.problems / self.measured
        seconds = self.grading * scale
        for call in (self.greedy, self.sampled):
            longest = self.most if self.cut_off else call.longest
            rows = call.rows * scale
            batches = max(1.0, rows / self.per_batch)  # a last one that is not full counts by its rows
            seconds += longest * (batches * start + rows * slope)
        return seconds


def token_line(calls: Sequence[Generated]) -> tuple[float, float]:
    """Seconds a token of a batch, start + slope · rows, from what calls took; neither is negative."""
    rows, seconds = [call.rows for call in calls], [call.seconds / call.longest for call in calls]
    if max(rows) < 1.5 * min(rows):
        return 0.0, sum(seconds) / sum(rows)
    slope, start = linear_regression(rows, seconds)
    if slope <= 0:
        return fmean(seconds), 0.0
    return (start, slope) if start >= 0 else (0.0, sum(seconds) / sum(rows))


# ── Memory and disk ────────────────────────────────────────────────────────────────────────────────────────────────


class Gauge:
    """The most memory since it was made: allocated on a GPU, or resident above what was resident then."""

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


def _disk(config: RunConfig, trial: RunConfig, parts: Parts) -> dict[str, float]:
    """What the finished run leaves, from what the trial has left."""
    folder, every = trial.folder, config.checkpoint.every
    checkpoint = sum(file.stat().st_size for file in folder.glob("checkpoints/*/*"))
    lines = sum(file.stat().st_size for file in folder.glob("*.jsonl"))
    rest = sum(file.stat().st_size for file in folder.glob("*") if file.is_file()) - lines
    kept = min(config.checkpoint.keep, math.ceil(config.steps / every) if every else 1)
    scorer = parts.bare_scorer
    return {
        "checkpoints": float(kept * checkpoint),
        "adapter" if config.lora else "model": float(bytes_of(scorer.model, trained=True if config.lora else None)),
        "records": lines / trial.steps * config.steps,
        "bank and configuration": float(rest),
    }
