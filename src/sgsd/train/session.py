"""A session of a run: what happens around its steps. It logs, evaluates, saves and heeds stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from accelerate.utils import gather_object

from sgsd.checkpoint.pending import shard_files
from sgsd.checkpoint.saving import Position, save_checkpoint
from sgsd.config.run_config import RunConfig
from sgsd.distributed.processes import all_max, all_sum, from_first, largest
from sgsd.notices import note
from sgsd.records.first_look import examples, first_look
from sgsd.records.metrics import rollout_record
from sgsd.records.monitor import Monitor, log_findings
from sgsd.records.run_files import Records
from sgsd.records.style import StyleTokens
from sgsd.records.timing import Clock, throughput
from sgsd.train.batch import Batch
from sgsd.train.consistency import CANARY, take_canary
from sgsd.train.resume_run import Start
from sgsd.train.rollout_source import RolloutSource, StopTraining
from sgsd.train.sampler_mismatch import StaleSamplerError
from sgsd.train.setup import Run
from sgsd.train.step import StepResult
from sgsd.types import UserError

OnStep = Callable[[dict[str, Any], dict[str, Any]], None]


class Session:
    """Stands between the steps, from where the run is taken up to where it ends or is asked to stop."""

    def __init__(self, run: Run, records: Records, start: Start, source: RolloutSource, on_step: OnStep) -> None:
        self.run, self.records, self.start, self.source, self.on_step = run, records, start, source, on_step
        self.config, self.policy, self.position = run.config, run.policy, start.position
        self.monitor = Monitor(self.config.guards, from_first(self.policy.accelerator, lambda: records.read("metrics")))
        self.style = StyleTokens(self.policy.tokenizer)
        self.clock = Clock()
        self.batch: Batch | None = None  # the last one, of which a checkpoint keeps a rollout to be checked by

    def catch_up(self) -> None:
        """Evaluate where the stop that ended the last session did not wait for it."""
        step = self.position.step
        if evaluation_due(self.config, step) and step not in evaluated(self.run, self.records):
            evaluate(self.run, self.records, step)

    def start_clock(self) -> Clock:
        """The clock of the next step; rollouts that were kept have taken their time already."""
        self.clock = Clock() if self.source.pending is None else Clock(dict(self.source.pending.seconds))
        return self.clock

    def log(self, result: StepResult) -> None:
        """Write the step to the run's files and show it to guards, trackers and whoever looks on."""
        step, batch, details, metrics = result.step, result.batch, result.details, result.metrics
        self.batch = batch
        if evaluation_due(self.config, step) or checkpoint_due(self.config, step):
            with self.clock.phase("sample"):
                self.source.wait()
        metrics.add_rollouts(batch.rollouts, batch.verdicts, self.run.method)
        metrics.add_outputs(batch, details, self.style)
        accelerator = self.policy.accelerator
        measured = metrics.finish(partial(all_sum, accelerator), partial(largest, accelerator), gather_object)
        staleness = {} if self.source.prefetcher is None else {"staleness": batch.staleness}
        record = self.monitor.with_trend({"step": step, "lr": result.lr, **staleness, **measured})
        findings = self.monitor(record)
        self.source.stop.asked |= self.monitor.ended_by is not None
        timing = {"step": step, **self.clock.seconds, **throughput(record, self.clock)}
        graded = gather_object(batch.verdicts) if step == 1 else []
        if accelerator.is_main_process:
            self._write(record, timing, result)
            self.on_step(record, timing)
            log_findings(self.records, findings, examples(batch.rollouts, batch.verdicts))
            for line in first_look(batch.rollouts, graded) if graded else ():
                note(line)

    def _write(self, record: dict[str, Any], timing: dict[str, Any], result: StepResult) -> None:
        self.records.write("metrics", record)
        self.records.write("timings", timing)
        batch, tokenizer = result.batch, self.policy.tokenizer
        for detail in result.details[: self.config.logged_rollouts]:
            rollout, verdict = batch.rollouts[detail.position], batch.verdicts[detail.position]
            tokens = [tokenizer.decode([token]) for token in rollout.completion.token_ids]
            pool = batch.views[detail.position]
            self.records.write(
                "rollouts", rollout_record(record["step"], rollout, verdict, tokens, detail.mask_T, detail, pool)
            )

    def close(self, step: int) -> bool:
        """Evaluate and save where it is time for it; returns True where the next step is to follow."""
        if evaluation_due(self.config, step) and not self.stop_asked():
            try:
                evaluate(self.run, self.records, step)
            except UserError:  # a resumed run makes up for it
                if self.policy.accelerator.num_processes == 1:
                    self.save(step)
                raise
        stopping = self.stop_asked()
        if stopping or checkpoint_due(self.config, step):
            self.save(step)
        if stopping:
            self.monitor.check_end(self.config.folder, step, self.config.steps)
        return not stopping

    # ── Stopping and saving ────────────────────────────────────────────────────────────────────────────────────────

    def stop_asked(self) -> bool:
        """True where any process was asked to stop."""
        return bool(all_max(self.policy.accelerator, self.source.stop.asked))

    def where(self, step: int, *, pending: bool) -> Position:
        """The position after `step`, as a checkpoint states it."""
        bank, start = self.run.bank, self.start.position
        event, version = (bank.event, bank.current.version) if bank else (0, "")
        return Position(step, self.records.offsets(), start.fingerprint, start.config, event, version, pending)

    def save(self, step: int) -> None:
        """Save a checkpoint of a whole step, with the next one's rollouts where they were prefetched."""
        shards = self.source.shards(step + 1)
        self._write_checkpoint(self.where(step, pending=bool(shards)), shards)

    def keep_rollouts(self, step: int, stop: StopTraining) -> None:
        """Save a checkpoint of the step before with the rollouts of this one, unless there is such a one already."""
        reached, batch = self.where(step - 1, pending=True), stop.batch
        if self.source.pending is None and reached != self.position:
            self.batch = batch
            kept = shard_files(batch.rollouts, batch.verdicts, self.clock.seconds, staleness=batch.staleness)
            self._write_checkpoint(reached, kept)

    def _write_checkpoint(self, reached: Position, shards: Mapping[str, str]) -> None:
        assert self.batch is not None, "a step has been made, or has been begun"
        policy, folder, keep = self.policy, self.config.folder / "checkpoints", self.config.checkpoint.keep
        beside = {CANARY: take_canary(policy, self.batch), **shards}
        scorer, optimizer, strategy = policy.bare_scorer, policy.strategy.optimizer, policy.strategy
        save_checkpoint(folder, reached, scorer, optimizer, keep=keep, beside=beside, strategy=strategy)
        policy.accelerator.wait_for_everyone()
        self.position = reached

    @contextmanager
    def last_step_kept(self, step: int) -> Iterator[None]:
        """An engine that fails in the middle of a step ends the run, but takes no whole step with it."""
        before = self.policy.updates
        try:
            yield
        except (UserError, StaleSamplerError) as error:
            # The one is heard by a single process, whom the others cannot help; the other is found by all together.
            together = isinstance(error, StaleSamplerError) or self.policy.accelerator.num_processes == 1
            if together and self.policy.updates == before and self.position.step < step - 1:
                self.save(step - 1)
            raise


def checkpoint_due(config: RunConfig, step: int) -> bool:
    """True after the last step and after every `checkpoint.every` steps."""
    every = config.checkpoint.every
    return step == config.steps or (every > 0 and step % every == 0)


# ── Held-out accuracy before, during and after training ────────────────────────────────────────────────────────────


def evaluation_due(config: RunConfig, step: int) -> bool:
    """Between the first step and the last; those two are the run's own."""
    every = config.evaluation.every
    return every > 0 and 0 < step < config.steps and step % every == 0


def evaluate(run: Run, records: Records, step: int) -> dict[str, Any] | None:
    """Held-out accuracy now, written to evaluations.jsonl; None where no evaluation is configured."""
    if run.evaluator is None:
        return None
    run.engine.sync()
    record = {"step": step, "split": "held-out", **run.evaluator.run().to_dict()}
    if run.accelerator.is_main_process:
        records.write("evaluations", record)
    return record


def evaluated(run: Run, records: Records) -> set[int]:
    """The steps whose evaluation has been written."""
    return from_first(run.accelerator, lambda: {record["step"] for record in records.read("evaluations")})
