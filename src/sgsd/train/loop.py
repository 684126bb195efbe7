"""The loop: sample → verify → contexts → score → loss → step. Read it top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from sgsd.checkpoint.pending import Pending, shard_files
from sgsd.checkpoint.saving import Position, save_checkpoint
from sgsd.config.run_config import RunConfig
from sgsd.distributed.processes import from_first
from sgsd.records.metrics import StepMetrics, rollout_record
from sgsd.records.monitor import Monitor, tell
from sgsd.records.run_files import Records
from sgsd.records.style import StyleTokens
from sgsd.records.timing import Clock, StopRequest, listen_for_stop, throughput
from sgsd.scorer.module import causal_lm
from sgsd.train.bank_upkeep import Upkeep
from sgsd.train.batch import Batch, sample, verify, with_contexts
from sgsd.train.consistency import CANARY, check_sampler, take_canary
from sgsd.train.held_out import evaluate, evaluated, evaluation_due
from sgsd.train.prefetch import STALENESS, RolloutPrefetcher
from sgsd.train.resume_run import Start
from sgsd.train.sampler_mismatch import StaleSamplerError, draws_dropout
from sgsd.train.setup import Parts
from sgsd.train.step import Detail, NonFiniteError, score_teachers, sightings, update
from sgsd.types import UserError

OnStep = Callable[[dict[str, Any], dict[str, Any]], None]


def train(parts: Parts, records: Records, start: Start, on_step: OnStep) -> Position:
    """Steps to the end, or to where a person or a guard asks for a stop; the position reached is saved."""
    parts.evidence_log.open()
    with listen_for_stop() as stop:
        session = Session(parts, records, start, on_step, stop)
        session.catch_up()
        for step in range(start.position.step + 1, parts.config.steps + 1):
            if not session.make(step):
                break
    return session.position


class Session:
    """Steps one after the other, from where the run stands to where it ends or is asked to stop."""

    def __init__(self, parts: Parts, records: Records, start: Start, on_step: OnStep, stop: StopRequest) -> None:
        self.parts, self.records, self.on_step, self.stop = parts, records, on_step, stop
        self.config, self.start, self.position, self.pending = parts.config, start, start.position, start.pending
        self.ahead, self.upkeep = RolloutPrefetcher.configured(parts), Upkeep(parts, records)
        self.watch = Monitor(self.config.guards, from_first(parts.accelerator, lambda: records.read("metrics")))
        self.style = StyleTokens(parts.tokenizer)
        self.vocabulary: int = causal_lm(parts.bare_scorer.model).config.get_text_config().vocab_size
        self.dropout, self.proven = draws_dropout(parts.bare_scorer.model), False
        self.batch: Batch | None = None  # the last one, for a checkpoint to be tried on

    def catch_up(self) -> None:
        """Evaluate where the stop that ended the last session did not wait for it."""
        step = self.position.step
        if evaluation_due(self.config, step) and step not in evaluated(self.parts, self.records):
            evaluate(self.parts, self.records, step)

    def make(self, step: int) -> bool:
        """One step; returns whether the next is to follow."""
        parts, clock, metrics = self.parts, Clock(), StepMetrics(self.vocabulary)
        seed_dropout(self.config.seed, step, parts.accelerator.process_index)
        with self.last_step_kept(step):
            batch = self.batch = self.collect(step, clock)
            if self.stop_asked():
                self.keep_rollouts(step, clock)
                return False
            self.pending = None
            if self.ahead is not None and step < self.config.steps:
                with clock.phase("sample"):
                    self.ahead.ask(step + 1)
        with clock.phase("score"):
            taught = score_teachers(parts, batch)
        with clock.phase("update"):
            lr = self.config.optimizer.rate(step, self.config.steps)
            try:
                with self.last_step_kept(step):
                    details = update(parts, batch, taught, metrics, lr)
            except NonFiniteError as error:
                raise NonFiniteError(f"step {step}: {error}; the last checkpoint is untouched") from error
            parts.teacher_updater.after_step(step)
        with clock.phase("bank"):
            parts.evidence_log.after_step(step, sightings(batch, details))
            self.upkeep.after_step(step, batch.rollouts, batch.verdicts)
        if self.ahead is not None and (evaluation_due(self.config, step) or checkpoint_due(self.config, step)):
            with clock.phase("sample"):
                self.ahead.wait()
        self.write(step, lr, batch, details, metrics, clock)
        return self.close(step)

    def collect(self, step: int, clock: Clock) -> Batch:
        """The step's batch, from a sampler that has been seen to have the student's weights."""
        if self.pending is not None:
            clock.seconds.update(self.pending.seconds)
        batch = collect(self.parts, step, self.pending, clock, self.ahead)
        if not self.proven or self.dropout:
            check_sampler(self.parts, batch)
            self.proven = self.pending is None  # what another session sampled says nothing of this one's engine
        return batch

    def write(
        self, step: int, lr: float, batch: Batch, details: list[Detail], metrics: StepMetrics, clock: Clock
    ) -> None:
        """What came of the step, to files, guards and whoever looks on."""
        metrics.add_rollouts(batch.rollouts, batch.verdicts)
        metrics.add_judged(batch, details, self.style)
        measured = metrics.finish(self.parts.all_sum, self.parts.largest, gather_object)
        staleness = {} if self.ahead is None else {"staleness": batch.staleness}
        record = self.watch.with_trend({"step": step, "lr": lr, **staleness, **measured})
        findings = self.watch(record)
        self.stop.asked |= self.watch.ended_by is not None
        timing = {"step": step, **clock.seconds, **throughput(record, clock)}
        if self.parts.accelerator.is_main_process:
            write_step(self.parts, self.records, record, timing, batch, details)
            self.on_step(record, timing)
            tell(self.records, findings)

    def close(self, step: int) -> bool:
        """Evaluate and save where it is time for it; returns whether the next step is to follow."""
        if evaluation_due(self.config, step) and not self.stop_asked():
            try:
                evaluate(self.parts, self.records, step)
            except UserError:  # a resumed run makes up for it
                if self.parts.accelerator.num_processes == 1:
                    self.save(step)
                raise
        stopping = self.stop_asked()
        if stopping or checkpoint_due(self.config, step):
            self.save(step)
        if stopping:
            self.watch.check_end(self.config.folder, step, self.config.steps)
        return not stopping

    # ── Stopping and saving ────────────────────────────────────────────────────────────────────────────────────────

    def stop_asked(self) -> bool:
        """Of any process."""
        return bool(self.parts.all_max(int(self.stop.asked)))

    def where(self, step: int, *, pending: bool) -> Position:
        bank, start = self.parts.bank, self.start.position
        event, version = (bank.event, bank.current.version) if bank else (0, "")
        return Position(step, self.records.offsets(), start.fingerprint, start.config, event, version, pending)

    def save(self, step: int) -> None:
        """A checkpoint of a whole step, with the next one's rollouts where they have been asked for."""
        shards = {} if self.ahead is None else self.ahead.shards(step + 1)
        self.write_checkpoint(self.where(step, pending=bool(shards)), shards)

    def keep_rollouts(self, step: int, clock: Clock) -> None:
        """A checkpoint of the step before, with the rollouts of this one, unless there is such a checkpoint already."""
        reached = self.where(step - 1, pending=True)
        if self.pending is None and reached != self.position:
            assert self.batch is not None, "its rollouts have just been collected"
            batch = self.batch
            kept = shard_files(batch.rollouts, batch.verdicts, clock.seconds, staleness=batch.staleness)
            self.write_checkpoint(reached, kept)

    def write_checkpoint(self, reached: Position, shards: Mapping[str, str]) -> None:
        """With a rollout to try it on: gathered from all processes, written by the first."""
        assert self.batch is not None, "a step has been made, or has been begun"
        parts, saving = self.parts, self.config.checkpoint
        beside = {CANARY: take_canary(parts, self.batch), **shards}
        root = self.config.folder / "checkpoints"
        save_checkpoint(
            root, reached, parts.bare_scorer, parts.optimizer, keep=saving.keep, beside=beside, strategy=parts.strategy
        )
        parts.accelerator.wait_for_everyone()
        self.position = reached

    @contextmanager
    def last_step_kept(self, step: int) -> Iterator[None]:
        """An engine that fails in the middle of a step ends the run, but takes no whole step with it."""
        try:
            yield
        except (UserError, StaleSamplerError) as error:
            # The one is heard by a single process, whom the others cannot help; the other is found by all together.
            together = isinstance(error, StaleSamplerError) or self.parts.accelerator.num_processes == 1
            if together and self.position.step < step - 1:
                self.save(step - 1)
            raise


def checkpoint_due(config: RunConfig, step: int) -> bool:
    every = config.checkpoint.every
    return step == config.steps or (every > 0 and step % every == 0)


def collect(
    parts: Parts, step: int, pending: Pending | None, clock: Clock, ahead: RolloutPrefetcher | None = None
) -> Batch:
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
