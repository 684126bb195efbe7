"""What a step trains on: problems asked, answered, graded, and shown to their teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor

from sgsd.contexts import Graded
from sgsd.data.problems import problem_at
from sgsd.rollout import Sampling
from sgsd.scorer import Row
from sgsd.train.off_policy import by_reference, reference_completion
from sgsd.train.setup import Parts
from sgsd.types import Completion, Problem, Rollout, TeacherView, Verdict


@dataclass(frozen=True)
class Batch:
    """This process's share of a step's rollouts. B rollouts, K teachers."""

    rollouts: list[Rollout]
    verdicts: list[Verdict]
    views: list[tuple[TeacherView, ...]]  # one with an empty prompt is a teacher that was left out
    nulls: Sequence[TeacherView] = ()  # the null teacher of each rollout, where the stance is a contrast to one
    staleness: int = 0  # updates between the weights that sampled and those that train

    def student_rows(self) -> list[Row]:
        return [Row(r.prompt_ids, r.completion.token_ids) for r in self.rollouts]

    def teacher_rows(self) -> list[Row]:
        """Of the teachers that were not left out; rows run over rollouts, then teachers."""
        pools = zip(self.rollouts, self.views)
        return [Row(v.prompt_ids, r.completion.token_ids) for r, pool in pools for v in pool if v.prompt_ids]

    def null_rows(self) -> list[Row]:
        """Of the null teachers that were not left out."""
        nulls = zip(self.rollouts, self.nulls)
        return [Row(null.prompt_ids, r.completion.token_ids) for r, null in nulls if null.prompt_ids]

    def sampled_logps(self) -> list[Tensor] | None:
        """What the sampler said of its own tokens, [T] a rollout; None where an engine does not say."""
        if not all(rollout.completion.logps for rollout in self.rollouts):
            return None
        return [torch.tensor(rollout.completion.logps) for rollout in self.rollouts]

    @property
    def teachers(self) -> int:
        return max(map(len, self.views))

    def weights(self, rollout: int) -> list[float]:
        """Of its K teachers; 0 where a pool has fewer."""
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


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt that waits for its rollout."""

    index: int  # the rollout's, in the run
    group: int
    problem: Problem
    prompt_ids: tuple[int, ...]

    def answered(self, completion: Completion) -> Rollout:
        return Rollout(self.problem, self.prompt_ids, completion, self.group)


def questions(parts: Parts, step: int) -> list[Question]:
    """This process's share of a step; whole groups stay together."""
    size = parts.config.group_size
    groups = parts.config.rollouts // size
    mine = range(parts.accelerator.process_index, groups, parts.accelerator.num_processes)
    thinking = parts.config.prompts.student_thinking
    asked: list[Question] = []
    for group in ((step - 1) * groups + j for j in mine):
        problem = problem_at(parts.problems, group, parts.config.seed)
        prompt_ids = parts.contexts.train_prompts.student(problem, thinking=thinking)
        asked += [Question(group * size + i, group, problem, prompt_ids) for i in range(size)]
    return asked


def sample(parts: Parts, step: int) -> list[Rollout]:
    return answer(parts, questions(parts, step))


def request(parts: Parts, asked: Sequence[Question]) -> tuple[list[tuple[int, ...]], list[int], Sampling]:
    """What the engine is asked: prompts, indices, and how to sample. Left out is what a reference solution answers."""
    own = [q for q in asked if not by_reference(parts.method.on_policy, parts.config.seed, q.index)]
    return [q.prompt_ids for q in own], [q.index for q in own], parts.config.sampling.to_sampling()


def answer(parts: Parts, asked: Sequence[Question]) -> list[Rollout]:
    """Each depends on its own index and prompt alone, never on the others asked with it."""
    done = parts.engine.sample(*request(parts, asked), seed=parts.config.seed)
    if parts.method.on_policy == 1:
        return [question.answered(completion) for question, completion in zip(asked, done, strict=True)]
    longest = parts.config.sampling.max_tokens
    # Solutions come without log-probs, and a sampler is proved by all rollouts of all processes or by none.
    sampled = {completion.index: replace(completion, logps=()) for completion in done}

    def completion_of(q: Question) -> Completion:
        return sampled.get(q.index) or reference_completion(q.problem, q.index, parts.tokenizer, longest)

    return [question.answered(completion_of(question)) for question in asked]


def verify(parts: Parts, rollouts: Sequence[Rollout]) -> list[Verdict]:
    return parts.verifier.grade([r.completion.text for r in rollouts], [r.problem.gold for r in rollouts])


def with_contexts(parts: Parts, rollouts: list[Rollout], verdicts: list[Verdict]) -> Batch:
    """The rollouts together with the prompts of their teachers."""
    graded = [Graded(*pair) for pair in zip(rollouts, verdicts, strict=True)]
    views = parts.contexts.teachers.views(graded)
    if parts.contexts.null_teachers is None:
        return Batch(rollouts, verdicts, views)
    nulls = [null for (null,) in parts.contexts.null_teachers.views(graded)]
    # Without a null teacher nothing can be said of a pool: where that one does not fit, all of it is left out.
    views = [pool if null.prompt_ids else tuple(map(left_out, pool)) for pool, null in zip(views, nulls, strict=True)]
    return Batch(rollouts, verdicts, views, nulls)


def left_out(view: TeacherView) -> TeacherView:
    return replace(view, prompt_ids=(), weight=0.0)
