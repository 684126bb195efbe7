"""A step's rollouts: which problems are sampled, with which prompts, and which process samples them.

Everything is a function of the seed and the rollout's index, so a resumed run needs to remember nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sgsd.config.run_config import RunConfig
from sgsd.contexts.prompt_builders import PromptBuilder
from sgsd.data.problems import problem_at
from sgsd.rollout import Engine, Sampling
from sgsd.train.off_policy import by_reference, reference_completion
from sgsd.types import Completion, Problem, Rollout, RolloutRequest


@dataclass
class Sampler:
    """Makes the requests of a step and has the engine answer them."""

    config: RunConfig
    engine: Engine
    problems: Sequence[Problem]
    prompts: PromptBuilder  # builds the prompts of the student that trains
    tokenizer: Any
    on_policy: float  # the share of rollouts that are sampled, the others being reference solutions
    group: int  # rollouts of one problem in a step
    share: tuple[int, int] = (0, 1)  # this process among how many

    def requests(self, step: int) -> list[RolloutRequest]:
        """This process's share of step 1, 2, …; whole groups stay together."""
        size, groups = self.group, self.config.rollouts // self.group
        thinking = self.config.prompts.student_thinking
        made: list[RolloutRequest] = []
        for group in ((step - 1) * groups + j for j in range(self.share[0], groups, self.share[1])):
            problem = problem_at(self.problems, group, self.config.seed)
            prompt_ids = self.prompts.student(problem, thinking=thinking)
            made += [RolloutRequest(group * size + i, group, problem, prompt_ids) for i in range(size)]
        return made

    def sample(self, step: int) -> list[Rollout]:
        return self.answer(self.requests(step))

    def answer(self, requests: Sequence[RolloutRequest]) -> list[Rollout]:
        """Each rollout depends on its own index and prompt alone, never on the others sampled with it."""
        done = self.engine.sample(*self.engine_arguments(requests), seed=self.config.seed)
        if self.on_policy == 1:
            return [request.answered(completion) for request, completion in zip(requests, done, strict=True)]
        longest = self.config.sampling.max_tokens
        # Solutions come without log-probs, and the sampler is compared on all rollouts of all processes or on none.
        sampled = {completion.index: replace(completion, logps=()) for completion in done}

        def completion_of(r: RolloutRequest) -> Completion:
            return sampled.get(r.index) or reference_completion(r.problem, r.index, self.tokenizer, longest)

        return [request.answered(completion_of(request)) for request in requests]

    def engine_arguments(self, requests: Sequence[RolloutRequest]) -> tuple[list[tuple[int, ...]], list[int], Sampling]:
        """Prompts, indices and how to sample, without the requests that a reference solution answers."""
        own = [r for r in requests if not by_reference(self.on_policy, self.config.seed, r.index)]
        return [r.prompt_ids for r in own], [r.index for r in own], self.config.sampling.to_sampling()
