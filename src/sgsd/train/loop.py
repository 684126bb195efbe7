"""The loop: sample → grade → contexts → score → objective.loss → step → log. One step reads top to bottom below."""

from __future__ import annotations

import numpy as np
import torch

from sgsd.checkpoint.saving import Position
from sgsd.records.metrics import StepMetrics
from sgsd.records.run_files import Records
from sgsd.records.timing import Clock, listen_for_stop
from sgsd.train.bank_upkeep import Upkeep
from sgsd.train.batch import build_batch
from sgsd.train.policy import NonFiniteError
from sgsd.train.resume_run import Start
from sgsd.train.rollout_source import RolloutSource, StopTraining
from sgsd.train.session import OnStep, Session
from sgsd.train.setup import Run
from sgsd.train.step import StepResult, observations, score_teachers, update


def train_steps(run: Run, records: Records, start: Start, on_step: OnStep) -> Position:
    """Train to the last step, or to where a person or a guard asks for a stop; returns the position that is saved.

    Args:
        on_step: called with each step's metrics and timings, on the first process.

    Raises:
        NonFiniteError: a weight, a loss or a gradient is no number.
        StaleSamplerError: the engine samples from other weights than those that train.
        UserError: an engine or a verifier failed for good.
    """
    run.evidence_log.open()
    with listen_for_stop() as stop:
        source = RolloutSource(run.policy, run.sampler, run.verifier, stop, run.config.steps, start.pending)
        session = Session(run, records, start, source, on_step)
        upkeep = Upkeep(run, records)
        session.catch_up()
        for step in range(start.position.step + 1, run.config.steps + 1):
            try:
                with session.last_step_kept(step):
                    result = train_step(run, source, upkeep, step, session.start_clock())
            except StopTraining as stop_training:
                session.keep_rollouts(step, stop_training)
                break
            session.log(result)
            if not session.close(step):
                break
    return session.position


def train_step(run: Run, source: RolloutSource, upkeep: Upkeep, step: int, clock: Clock) -> StepResult:
    """Make one step: everything from the first prompt to the moved weights."""
    metrics, lr = StepMetrics(run.vocabulary), run.config.optimizer.rate(step, run.config.steps)
    seed_dropout(run.config.seed, step, run.policy.accelerator.process_index)

    # The student answers plain prompts: a rollout is a function of the weights, the seed and its index.
    with clock.phase("sample"):
        rollouts = source.sample(step)
    with clock.phase("verify"):
        verdicts = source.grade(rollouts)

    # Each teacher is the same model shown something more: a skill and a mistake, the answer, a sibling's solution …
    with clock.phase("contexts"):
        batch = build_batch(run.contexts, rollouts, verdicts, source.staleness)
    source.admit(step, batch)

    # All teachers score the student's own tokens, without a gradient.
    with clock.phase("score"):
        teachers = score_teachers(run.learner, batch)

    # The objective makes a loss of it: one student pass a rollout, whatever the number of teachers.
    with clock.phase("update"):
        try:
            details = update(run.learner, batch, teachers, metrics, lr)
        except NonFiniteError as error:
            raise NonFiniteError(f"step {step}: {error}; the last checkpoint is untouched") from error
        run.teacher_updater.after_step(step)

    # What the verifier said of every teacher goes into the evidence on its items, and from time to time into the bank.
    with clock.phase("bank"):
        run.evidence_log.after_step(step, observations(batch, details))
        upkeep.after_step(step, rollouts, verdicts)
    return StepResult(step, lr, batch, details, metrics)


def seed_dropout(seed: int, step: int, process: int) -> None:
    """Dropout is all that draws from torch's own generator; a seed for each step leaves nothing to be saved."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, process]).generate_state(1)[0]))
