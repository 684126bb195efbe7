"""A run's time, memory and disk before it is run: from its own first steps, made in a folder that does not stay."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from statistics import fmean, linear_regression
from tempfile import mkdtemp
from typing import Any

from sgsd.checkpoint.saving import Position, checkpoints
from sgsd.config.run_config import RunConfig
from sgsd.config.sections import CheckpointConfig, TrackConfig
from sgsd.distributed.launcher import make_accelerator
from sgsd.distributed.processes import check_processes, from_first, largest
from sgsd.plan.gauges import PHASES, EngineCall, MemoryGauge, Step, StepTimer, TimedEngine, counted_lengths
from sgsd.plan.meta_model import MetaModel
from sgsd.plan.sizes import Lengths, Shape, bytes_in
from sgsd.records.run_files import Records
from sgsd.rollout import BackgroundEngine
from sgsd.train.engines import close_engine
from sgsd.train.loop import train_steps
from sgsd.train.resume_run import Start, begin
from sgsd.train.setup import Run, build_run
from sgsd.types import UserError

ENGINE_ROWS = 64  # of an evaluation's share, where an engine of its own makes up the batches


@dataclass(frozen=True)
class Measured:
    """A run's time, memory and disk if it goes on as it began; the first step warmed up and counts once."""

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
    teacher_rows: float  # a step, of all processes
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
        """Read by teachers in the run."""
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
        shape, most, n = Shape.of(MetaModel.of(self.config)), self.config.sampling.max_tokens, self.lengths

        def growth(prompt: int) -> float:
            return shape.operations(prompt, most) / shape.operations(prompt, n.completion)

        grown = {
            "sample": most / n.longest,
            "score": growth(n.teacher_prompt),
            "update": growth(n.student_prompt),
        }
        return sum(fmean(seconds) * grown.get(name, 1.0) for name, seconds in self.phases.items())


def evaluations(config: RunConfig) -> int:
    """How many evaluations a run makes: before, during and after."""
    if config.evaluation.data is None:
        return 0
    every = config.evaluation.every
    between = (config.steps - 1) // every if every and config.steps else 0
    return between + (2 if config.steps else 1)


def measure(config: RunConfig, count: int, seconds: float = 0.0) -> Measured:
    """Make the first `count` steps of the run, a share of its evaluation and a checkpoint; nothing of it stays.

    Further steps follow until those after the first have taken so many `seconds`: where a step takes half a second, the
    first few still warm up libraries and caches, and three of them are noise. Raises UserError: fewer than two steps, a
    run without any, or what would stop the run itself.
    """
    if count < 2:
        raise UserError(f"--steps: {count} leaves none after the warm-up; make at least 2")
    if config.steps == 0:
        raise UserError("steps: 0 trains nothing, so there is no step to measure; plan a run that trains")
    accelerator = make_accelerator()
    check_processes(accelerator.num_processes)
    gauge = MemoryGauge(accelerator.device)
    folder = Path(from_first(accelerator, lambda: mkdtemp(prefix="sgsd-plan-")))
    try:
        found = _measure(config, _trial(config, count, folder / "run"), seconds, accelerator, gauge)
    finally:
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            rmtree(folder, ignore_errors=True)
    return found


def _trial(config: RunConfig, count: int, output: Path) -> RunConfig:
    """The run's beginning, without bank updates and trackers; the evaluation is measured apart."""
    return config.model_copy(
        update={
            "output": str(output),
            "steps": count,
            "track": TrackConfig(),
            "checkpoint": CheckpointConfig(),
            "evaluation": config.evaluation.model_copy(update={"every": 0}),
            "skills": config.skills.model_copy(update={"every": 0}),
        }
    )


def _measure(config: RunConfig, trial: RunConfig, seconds: float, accelerator: Any, gauge: MemoryGauge) -> Measured:
    began = time.perf_counter()
    run = build_run(trial, accelerator)
    engine = timed_engine(run)
    with run.verifier, ExitStack() as closing:
        closing.callback(close_engine, run.engine)
        records = Records(trial.folder)
        start = begin(run, records)
        if run.critic is not None:
            closing.enter_context(run.critic)
        setup = time.perf_counter() - began
        counter, timer = closing.enter_context(counted_lengths(run)), StepTimer()
        end = train_whole(run, records, start, timer)
        if more := further_steps(timer.steps, config.steps, seconds):
            run.config = trial.model_copy(update={"steps": end.step + more})
            timer.restart()
            end = train_whole(run, records, Start(end), timer)
        save = time.perf_counter() - timer.last[0]  # all that comes after the last step
        lengths = counter.lengths(fmean(call.longest for call in engine.calls) if engine.calls else 0)
        # Last, as the run's last evaluation is: what steps have left of the memory is then in use already.
        share = EvaluationShare.of(run, engine) if run.evaluator else None
        return Measured(
            config=config,
            first=timer.steps[0],
            steps=timer.steps[1:],
            setup=setup,
            save=save,
            evaluation=0.0 if share is None else share.whole(engine.calls),
            evaluation_share=(0, 0, False) if share is None else (share.measured, share.problems, share.cut_off),
            peak=largest(accelerator, gauge.peak()),
            on_cpu=accelerator.device.type == "cpu",
            lengths=lengths,
            teacher_rows=counter.rows["teacher"] / end.step * accelerator.num_processes,
            disk=_disk(config, run),
        )


def train_whole(run: Run, records: Records, start: Start, timer: StepTimer) -> Position:
    """Train to the end; the steps that the first process timed go to the others."""
    end = train_steps(run, records, start, timer)
    if end.step < run.config.steps:
        raise KeyboardInterrupt
    timer.steps = from_first(run.accelerator, lambda: timer.steps)
    return end


def further_steps(made: Sequence[Step], steps: int, seconds: float) -> int:
    """How many are to follow until those after the first have taken so many `seconds`."""
    taken = [step.wall for step in made[1:]]
    return max(0, min(math.ceil((seconds - sum(taken)) / fmean(taken)), steps - len(made)))


def timed_engine(run: Run) -> TimedEngine:
    """Put a clock before the engine; before the one within, where the next step's rollouts are sampled meanwhile."""
    if isinstance(run.engine, BackgroundEngine):
        run.engine.engine = engine = TimedEngine(run.engine.engine)
    else:
        run.engine = engine = TimedEngine(run.engine)
    return engine


# ── The evaluation ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class EvaluationShare:
    """An evaluation of the first few problems: as many as make one whole batch of samples."""

    measured: int
    problems: int
    samples: int
    per_batch: float  # rows that are sampled together in the whole evaluation
    greedy: EngineCall
    sampled: EngineCall
    grading: float  # seconds beside sampling
    most: int  # tokens of a completion in the whole evaluation
    cut_off: bool  # whether the share's completions were held shorter, and some ran into that

    @classmethod
    def of(cls, run: Run, engine: TimedEngine) -> EvaluationShare:
        evaluator, config = run.evaluator, run.config
        assert evaluator is not None
        count, samples, most = len(evaluator.problems), evaluator.samples, evaluator.sampling.max_tokens
        prompt = len(evaluator.prompts.student(evaluator.problems[0], thinking=evaluator.thinking))
        own = config.rollout.engine == "transformers"
        fit = max(1, config.compute.rollout_tokens // (prompt + most)) if own else math.inf
        processes = run.accelerator.num_processes
        wanted = int((fit if own else ENGINE_ROWS) // samples) * processes
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

    def whole(self, calls: Sequence[EngineCall]) -> float:
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


def token_line(calls: Sequence[EngineCall]) -> tuple[float, float]:
    """Seconds a token of a batch, start + slope · rows, from what calls took; neither is negative."""
    rows, seconds = [call.rows for call in calls], [call.seconds / call.longest for call in calls]
    if max(rows) < 1.5 * min(rows):
        return 0.0, sum(seconds) / sum(rows)
    slope, start = linear_regression(rows, seconds)
    if slope <= 0:
        return fmean(seconds), 0.0
    return (start, slope) if start >= 0 else (0.0, sum(seconds) / sum(rows))


# ── Disk ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _disk(config: RunConfig, run: Run) -> dict[str, float]:
    """Bytes that the finished run leaves, from what the trial has left."""
    trial, every = run.config, config.checkpoint.every
    folder = trial.folder
    newest = checkpoints(folder / "checkpoints")[-1]
    checkpoint = sum(file.stat().st_size for file in newest.iterdir())
    lines = sum(file.stat().st_size for file in folder.glob("*.jsonl"))
    rest = sum(file.stat().st_size for file in folder.glob("*") if file.is_file()) - lines
    kept = min(config.checkpoint.keep, math.ceil(config.steps / every) if every else 1)
    saved = [p for p in run.policy.model.parameters() if config.lora is None or p.requires_grad]
    return {
        "checkpoints": float(kept * checkpoint),
        "adapter" if config.lora else "model": float(bytes_in(saved)),
        "records": lines / trial.steps * config.steps,
        "bank and configuration": float(rest),
    }
