"""The source of a step's rollouts: kept by a checkpoint, prefetched while the step before trained, or sampled now.

Prefetching is `rollout.prefetch`, off by default:

    the engine has the weights θ before step t → it samples for step t + 1 while step t makes θ' out of θ

so step t + 1 trains θ' on what θ wrote: one update stale. The first step, and the first after a resume without such
rollouts, have nothing to overlap with and are on-policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sgsd.checkpoint.pending import Pending, shard_files
from sgsd.distributed.processes import all_max
from sgsd.notices import warn
from sgsd.records.timing import StopRequest
from sgsd.rollout import BackgroundEngine
from sgsd.train.batch import Batch, grade
from sgsd.train.policy import Policy
from sgsd.train.sampler_mismatch import check_fresh, check_sampler, draws_dropout
from sgsd.train.sampling import Sampler
from sgsd.types import Rollout, RolloutRequest, UserError, Verdict
from sgsd.verify import Verifier

STALENESS = 1  # updates between the weights that sampled and those that train, where rollouts are prefetched


class StopTraining(Exception):
    """A stop was asked for while a step's rollouts were made: they are kept, and the step is not trained."""

    def __init__(self, batch: Batch) -> None:
        super().__init__("a stop was asked for before the step's update")
        self.batch = batch


@dataclass
class RolloutPrefetcher:
    """Has the engine sample a step's rollouts in the background."""

    policy: Policy
    sampler: Sampler
    engine: BackgroundEngine
    step: int = 0
    requests: Sequence[RolloutRequest] = field(default=())  # kept: the bank behind their prompts may change meanwhile

    def begin(self, step: int) -> None:
        """Check that the engine has the current weights and let it begin with the rollouts of `step`.

        Raises StaleSamplerError: it samples from other weights; EngineError: it does not sample.
        """
        requests = self.sampler.requests(step)
        check_fresh(self.policy, self.sampler, requests)
        self.step, self.requests = step, requests
        self.engine.begin(*self.sampler.engine_arguments(requests), seed=self.sampler.config.seed)

    def rollouts(self) -> list[Rollout]:
        """The rollouts that were begun, once they are there. Raises EngineError."""
        return self.sampler.answer(self.requests)

    def shards(self, step: int) -> Mapping[str, str]:
        """The rollouts of `step` for a checkpoint; none where none were begun, or some process has none.

        Where sampling failed, whoever takes the rollouts gets the error.
        """
        if self.step != step:
            return {}
        rollouts: list[Rollout] = []
        try:
            rollouts = self.rollouts()
        except UserError as error:
            warn(f"rollout.prefetch: the checkpoint is without the rollouts of step {step}: {error}")
        if all_max(self.policy.accelerator, not rollouts):
            return {}
        return shard_files(rollouts, None, {}, staleness=STALENESS)


@dataclass
class RolloutSource:
    """Gives the loop each step's rollouts and verdicts, wherever they come from."""

    policy: Policy
    sampler: Sampler
    verifier: Verifier
    stop: StopRequest
    steps: int  # of the run
    pending: Pending | None = None  # rollouts of the first step, kept by the checkpoint it goes on from
    staleness: int = 0  # of the rollouts given last
    prefetcher: RolloutPrefetcher | None = field(init=False)

    def __post_init__(self) -> None:
        self.prefetcher = None
        if isinstance(self.sampler.engine, BackgroundEngine):
            self.prefetcher = RolloutPrefetcher(self.policy, self.sampler, self.sampler.engine)
        self.graded: list[Verdict] | None = None
        self.dropout, self.checked = draws_dropout(self.policy.model), False

    def sample(self, step: int) -> list[Rollout]:
        """This process's rollouts of the step. Raises EngineError."""
        rollouts, self.graded, self.staleness = None, None, 0
        if self.pending is not None:
            rollouts, self.graded = self.pending.take(self.sampler.requests(step))
            self.staleness = self.pending.staleness
        elif self.prefetcher is not None and self.prefetcher.step == step:
            rollouts, self.staleness = self.prefetcher.rollouts(), STALENESS
        self.sampler.engine.sync()  # also where rollouts are there: a critic or a writer asks the policy as it is now
        return self.sampler.sample(step) if rollouts is None else rollouts

    def grade(self, rollouts: Sequence[Rollout]) -> list[Verdict]:
        """Their verdicts, by the verifier or as a checkpoint kept them."""
        if self.graded is not None:
            return self.graded
        return grade(self.verifier, rollouts)

    def admit(self, step: int, batch: Batch) -> None:
        """Let the batch train: its sampler has the student's weights, and nobody has asked for a stop.

        Raises StaleSamplerError: the engine samples from other weights; StopTraining: a stop was asked for, on any
        process.
        """
        if not self.checked or self.dropout:
            check_sampler(self.policy, self.sampler, batch)
            self.checked = self.pending is None  # rollouts of another session say nothing of this one's engine
        if all_max(self.policy.accelerator, self.stop.asked):
            raise StopTraining(batch)
        self.pending = None
        if self.prefetcher is not None and step < self.steps:
            self.prefetcher.begin(step + 1)

    def wait(self) -> None:
        """Return once nothing is being sampled in the background."""
        if self.prefetcher is not None:
            self.prefetcher.engine.wait()

    def shards(self, step: int) -> Mapping[str, str]:
        """Prefetched rollouts of `step` as files of a checkpoint."""
        return {} if self.prefetcher is None else self.prefetcher.shards(step)
