"""A step's batch: rollouts, verdicts, and the prompts of the teachers that score them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor

from sgsd.contexts import Graded
from sgsd.scorer import Row
from sgsd.train.context_resources import Contexts
from sgsd.types import Rollout, TeacherView, Verdict
from sgsd.verify import Verifier, grade_problems


@dataclass(frozen=True)
class Batch:
    """This process's share of a step's rollouts. B rollouts, K teachers."""

    rollouts: list[Rollout]
    verdicts: list[Verdict]
    views: list[tuple[TeacherView, ...]]  # K a rollout; one with an empty prompt is a teacher that was left out
    nulls: Sequence[TeacherView] = ()  # the null teacher of each rollout, where the stance is a contrast to one
    staleness: int = 0  # updates between the weights that sampled and those that train

    def student_rows(self) -> list[Row]:
        return [Row(r.prompt_ids, r.completion.token_ids) for r in self.rollouts]

    def teacher_rows(self) -> list[Row]:
        """The rows of the teachers that were not left out, over rollouts, then teachers."""
        pools = zip(self.rollouts, self.views)
        return [Row(v.prompt_ids, r.completion.token_ids) for r, pool in pools for v in pool if v.prompt_ids]

    def null_rows(self) -> list[Row]:
        """The rows of the null teachers that were not left out."""
        nulls = zip(self.rollouts, self.nulls)
        return [Row(null.prompt_ids, r.completion.token_ids) for r, null in nulls if null.prompt_ids]

    def sampled_logps(self) -> list[Tensor] | None:
        """The sampler's log-probs of its own tokens, [T] a rollout; None where an engine gives none."""
        if not all(rollout.completion.logps for rollout in self.rollouts):
            return None
        return [torch.tensor(rollout.completion.logps) for rollout in self.rollouts]

    @property
    def teachers(self) -> int:
        return max(map(len, self.views))

    def weights(self, rollout: int) -> list[float]:
        """The weights of its K teachers; 0 where a pool has fewer."""
        weights = [view.weight for view in self.views[rollout]]
        return weights + [0.0] * (self.teachers - len(weights))

    def rows_of_teachers(self) -> list[list[int | None]]:
        """[K][B]: where among `teacher_rows` each rollout's teacher k stands; none where there is no such row."""
        numbers = count()
        rows_BK = [[next(numbers) if view.prompt_ids else None for view in pool] for pool in self.views]
        return [[pool[k] if k < len(pool) else None for pool in rows_BK] for k in range(self.teachers)]

    def rows_of_nulls(self) -> list[int | None]:
        """[B]: where among `null_rows` each rollout's null teacher stands."""
        numbers = count()
        return [next(numbers) if null.prompt_ids else None for null in self.nulls]


def grade(verifier: Verifier, rollouts: Sequence[Rollout]) -> list[Verdict]:
    """Ask the verifier about every rollout."""
    done = [rollout.completion for rollout in rollouts]
    return grade_problems(verifier, [c.text for c in done], [r.problem for r in rollouts], [c.token_ids for c in done])


def build_batch(
    contexts: Contexts,
    rollouts: list[Rollout],
    verdicts: list[Verdict],
    staleness: int = 0,
) -> Batch:
    """Put the prompts of their teachers beside graded rollouts."""
    graded = [Graded(*pair) for pair in zip(rollouts, verdicts, strict=True)]
    views = contexts.teachers.views(graded)
    if contexts.null_teachers is None:
        return Batch(rollouts, verdicts, views, staleness=staleness)
    null_views = [null for (null,) in contexts.null_teachers.views(graded)]
    # Without a null teacher nothing can be said of a pool: where that one does not fit, all of it is left out.
    views = [
        pool if null.prompt_ids else tuple(map(left_out, pool)) for pool, null in zip(views, null_views, strict=True)
    ]
    return Batch(rollouts, verdicts, views, null_views, staleness)


def left_out(view: TeacherView) -> TeacherView:
    return replace(view, prompt_ids=(), weight=0.0)
