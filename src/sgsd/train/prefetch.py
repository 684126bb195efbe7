"""The next step's rollouts, sampled while this step trains: `rollout.prefetch`, off by default.

    the engine has the weights θ before step t → it samples for step t + 1 while step t makes θ' out of θ

so step t + 1 trains θ' on what θ wrote: one update stale. The first step, and the first after a resume without such
rollouts, have nothing to overlap with and are on-policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sgsd.checkpoint.pending import shard_files
from sgsd.notices import warn
from sgsd.rollout.background import BackgroundEngine
from sgsd.train.batch import Question, answer, questions, request
from sgsd.train.consistency import check_fresh
from sgsd.train.setup import Parts
from sgsd.types import Rollout, UserError

STALENESS = 1  # updates between the weights that sampled and those that train


@dataclass
class RolloutPrefetcher:
    """What has been asked of the engine for a step to come."""

    parts: Parts
    engine: BackgroundEngine
    step: int = 0
    questions: Sequence[Question] = field(default=())  # kept: the bank that words them may change before the answers

    @classmethod
    def configured(cls, parts: Parts) -> RolloutPrefetcher | None:
        return cls(parts, parts.engine) if isinstance(parts.engine, BackgroundEngine) else None

    def ask(self, step: int) -> None:
        """See that the engine, which was given the current weights, has them; let it begin with the rollouts of `step`.

        Raises:
            StaleSamplerError: it samples from other weights.
            EngineError: it does not sample.
        """
        asked = questions(self.parts, step)
        check_fresh(self.parts, asked)
        self.step, self.questions = step, asked
        self.engine.begin(*request(self.parts, self.questions), seed=self.parts.config.seed)

    def wait(self) -> None:
        """Until what was asked for is there, or has failed."""
        self.engine.wait()

    def rollouts(self) -> list[Rollout]:
        """What was asked for, once it is there. Raises EngineError."""
        return answer(self.parts, self.questions)

    def shards(self, step: int) -> Mapping[str, str]:
        """The rollouts of `step` for a checkpoint; none where none were asked for, or some process has none.

        Where sampling failed, whoever takes the rollouts is told why.
        """
        if self.step != step:
            return {}
        rollouts: list[Rollout] = []
        try:
            rollouts = self.rollouts()
        except UserError as error:
            warn(f"rollout.prefetch: the checkpoint is without the rollouts of step {step}: {error}")
        if self.parts.all_max(not rollouts):
            return {}
        return shard_files(rollouts, None, {}, staleness=STALENESS)
