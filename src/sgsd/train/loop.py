"""The loop: sample → verify → contexts → score → loss → step. Read it top to bottom."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from sgsd.scorer.module import causal_lm
from sgsd.train.ahead import STALENESS, Ahead
from sgsd.train.checkpoint import Position, save_checkpoint
from sgsd.train.config import RunConfig
from sgsd.train.gap import StaleSamplerError, draws_dropout
from sgsd.train.metrics import StepMetrics, rollout_record
from sgsd.train.pending import Pending, shard_files
from sgsd.train.processes import from_first
from sgsd.train.proof import CANARY, prove_sampler, take_canary
from sgsd.train.records import Records
from sgsd.train.resume import Start
from sgsd.train.sections import OptimizerConfig
from sgsd.train.setup import Parts
from sgsd.train.step import (
    Batch,
    Detail,
    NonFiniteError,
    sample,
    score_teachers,
    sightings,
    update,
    verify,
    with_contexts,
)
from sgsd.train.style import StyleTokens
from sgsd.train.upkeep import Upkeep
from sgsd.train.watch import Watch, tell
from sgsd.types import UserError

OnStep = Callable[[dict[str, Any], dict[str, Any]], None]


@dataclass
class Clock:
    """Seconds of the step's phases."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass
class StopRequest:
    """Ctrl-C and SIGTERM ask for a stop, before the step's update or after it; a second Ctrl-C stops at once."""

    asked: bool = False

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:
        if self.asked and signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def listen_for_stop() -> Iterator[StopRequest]:
    request = StopRequest()
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(parts: Parts, records: Records, start: Start, on_step: OnStep) -> Position:
    """Steps to the end, or to where a person or a guard asks for a stop; the position reached is saved."""
    config, main = parts.config, parts.accelerator.is_main_process
    position, pending, proven = start.position, start.pending, False
    batch: Batch | None = None
    dropout, ahead = draws_dropout(parts.bare_scorer.model), Ahead.configured(parts)

    def where(step: int) -> Position:
        event, version = (parts.bank.event, parts.bank.current.version) if parts.bank else (0, "")
        here = Position(step, records.offsets(), start.position.fingerprint, start.position.config)
        return replace(here, bank_event=event, bank_version=version)

    parts.books.open()
    upkeep = Upkeep(parts, records)
    watch = Watch(config.guards, from_first(parts.accelerator, lambda: records.read("metrics")))
    style = StyleTokens(parts.tokenizer)
    vocabulary = causal_lm(parts.bare_scorer.model).config.get_text_config().vocab_size
    with listen_for_stop() as stop:

        def stop_asked() -> bool:
            return bool(parts.all_max(int(stop.asked)))

        def save_step(step: int) -> Position:
            shards = {} if ahead is None else ahead.shards(step + 1)
            reached = replace(where(step), pending=bool(shards))
            assert batch is not None, "a step of this session has been made, or is being made"
            save(parts, reached, batch, shards)
            return reached

        @contextmanager
        def last_step_kept(step: int) -> Iterator[None]:
            """An engine that fails in the middle of a step ends the run, but takes no whole step with it."""
            try:
                yield
            except (UserError, StaleSamplerError) as error:
                # The one is heard by a single process, whom the others cannot help; the other is found by all together.
                together = isinstance(error, StaleSamplerError) or parts.accelerator.num_processes == 1
                if together and position.step < step - 1:
                    save_step(step - 1)
                raise

        if evaluation_due(config, position.step) and position.step not in evaluated(parts, records):
            evaluate(parts, records, position.step)  # the stop that ended the last session did not wait for it
        for step in range(position.step + 1, config.steps + 1):
            clock, metrics = Clock(dict(pending.seconds) if pending else {}), StepMetrics(vocabulary)
            seed_dropout(config.seed, step, parts.accelerator.process_index)
            with last_step_kept(step):
                batch = collect(parts, step, pending, clock, ahead)
                if not proven or dropout:
                    prove_sampler(parts, batch)
                    proven = pending is None  # what another session sampled says nothing of this one's engine
                if stop_asked():
                    if pending is None and position != (kept := replace(where(step - 1), pending=True)):
                        shards = shard_files(batch.rollouts, batch.verdicts, clock.seconds, staleness=batch.staleness)
                        save(parts, position := kept, batch, shards)
                    break
                pending = None
                if ahead is not None and step < config.steps:
                    with clock.phase("sample"):
                        ahead.ask(step + 1)
            with clock.phase("score"):
                taught = score_teachers(parts, batch)
            with clock.phase("update"):
                lr = learning_rate(config.optimizer, step, config.steps)
                try:
                    with last_step_kept(step):
                        details = update(parts, batch, taught, metrics, lr)
                except NonFiniteError as error:
                    raise NonFiniteError(f"step {step}: {error}; the last checkpoint is untouched") from error
                parts.keeper.after_step(step)
            with clock.phase("bank"):
                parts.books.after_step(step, sightings(batch, details))
                upkeep.after_step(step, batch.rollouts, batch.verdicts)
            if ahead is not None and (evaluation_due(config, step) or checkpoint_due(config, step)):
                with clock.phase("sample"):
                    ahead.wait()
            metrics.add_rollouts(batch.rollouts, batch.verdicts)
            metrics.add_judged(batch, details, style)
            measured = metrics.finish(parts.all_sum, parts.largest, gather_object)
            staleness = {} if ahead is None else {"staleness": batch.staleness}
            record = watch.with_trend({"step": step, "lr": lr, **staleness, **measured})
            findings = watch(record)
            stop.asked |= watch.ended_by is not None
            timing = {"step": step, **clock.seconds, **throughput(record, clock)}
            if main:
                write_step(parts, records, record, timing, batch, details)
                on_step(record, timing)
                tell(records, findings)
            if evaluation_due(config, step) and not stop_asked():
                try:
                    evaluate(parts, records, step)
                except UserError:  # a resumed run makes up for it
                    if parts.accelerator.num_processes == 1:
                        save_step(step)
                    raise
            stopping = stop_asked()
            if stopping or checkpoint_due(config, step):
                position = save_step(step)
            if stopping:
                watch.check_end(config.folder, step, config.steps)
                break
    return position


def evaluation_due(config: RunConfig, step: int) -> bool:
    """Between the first step and the last; those two are the run's own."""
    every = config.evaluation.every
    return every > 0 and 0 < step < config.steps and step % every == 0


def checkpoint_due(config: RunConfig, step: int) -> bool:
    every = config.checkpoint.every
    return step == config.steps or (every > 0 and step % every == 0)


def collect(parts: Parts, step: int, pending: Pending | None, clock: Clock, ahead: Ahead | None = None) -> Batch:
    """Rollouts, what the verifier says of them (both may have been kept), and the prompts of their teachers."""
    rollouts, verdicts, staleness = None, None, 0
    with clock.phase("sample"):
        if pending is not None:
            (rollouts, verdicts), staleness = pending.take(parts, step), pending.staleness
        elif ahead is not None and ahead.step == step:
            rollouts, staleness = ahead.rollouts(), STALENESS
        parts.engine.sync()  # also where rollouts are there: a critic or a writer asks the policy as it is now
        if rollouts is None:
            rollouts = sample(parts, step)
    if verdicts is None:
        with clock.phase("verify"):
            verdicts = verify(parts, rollouts)
    with clock.phase("contexts"):
        return replace(with_contexts(parts, rollouts, verdicts), staleness=staleness)


def seed_dropout(seed: int, step: int, process: int) -> None:
    """Dropout is all that draws from torch's own generator; a seed for each step leaves nothing to be saved."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, process]).generate_state(1)[0]))


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The rate of step 1…steps: linear warm-up, then constant, or down to 0 along a line or a cosine."""
    if step <= config.warmup_steps:
        return config.lr * step / config.warmup_steps
    progress = (step - 1 - config.warmup_steps) / max(1, steps - config.warmup_steps)
    fall = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}
    return config.lr * fall[config.schedule]


def throughput(record: dict[str, Any], clock: Clock) -> dict[str, float]:
    tokens = record["length"] * record["rollouts"]
    return {"tokens": tokens, "tokens_per_s": tokens / max(1e-9, sum(clock.seconds.values()))}


def write_step(
    parts: Parts, records: Records, record: dict[str, Any], timing: dict[str, Any], batch: Batch, details: list[Detail]
) -> None:
    records.write("metrics", record)
    records.write("timings", timing)
    for detail in details[: parts.config.logged_rollouts]:
        rollout, verdict = batch.rollouts[detail.position], batch.verdicts[detail.position]
        tokens = [parts.tokenizer.decode([token]) for token in rollout.completion.token_ids]
        pool = batch.views[detail.position]
        records.write("rollouts", rollout_record(record["step"], rollout, verdict, tokens, detail.mask_T, detail, pool))


def evaluate(parts: Parts, records: Records, step: int) -> dict[str, Any] | None:
    """Held-out accuracy now, written to evaluations.jsonl; None where no evaluation is configured."""
    if parts.evaluator is None:
        return None
    parts.engine.sync()
    record = {"step": step, "split": "held-out", **parts.evaluator.run().to_dict()}
    if parts.accelerator.is_main_process:
        records.write("evaluations", record)
    return record


def evaluated(parts: Parts, records: Records) -> set[int]:
    """The steps whose evaluation has been written."""
    return from_first(parts.accelerator, lambda: {record["step"] for record in records.read("evaluations")})


def save(parts: Parts, position: Position, batch: Batch, shards: Mapping[str, str] | None = None) -> None:
    """A checkpoint with a rollout to try it on: gathered from all processes, written by the first."""
    root, keep = parts.config.folder / "checkpoints", parts.config.checkpoint.keep
    beside = {CANARY: take_canary(parts, batch), **(shards or {})}
    save_checkpoint(root, position, parts.bare_scorer, parts.optimizer, keep=keep, beside=beside, launch=parts.launch)
    parts.accelerator.wait_for_everyone()
