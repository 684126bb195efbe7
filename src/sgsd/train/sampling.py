"""A step's rollouts: which problems are sampled, with which prompts, and which process samples them.

Everything is a function of the seed and the rollout's index, so a resumed run needs to remember nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sgsd.config.run_config import RunConfig
from sgsd.contexts.prompt_builders import PromptBuilder
from sgsd.contexts.prompts import with_open_thoughts
from sgsd.data.problems import problem_at
from sgsd.methods import Method
from sgsd.rollout import Engine, Sampling
from sgsd.types import Completion, Problem, Rollout, RolloutRequest, UserError


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

    def problems_ahead(self) -> Sequence[Problem]:
        """Every problem that the run comes to, once."""
        groups = self.config.steps * (self.config.rollouts // self.group)
        if groups >= len(self.problems):
            return self.problems
        return [problem_at(self.problems, group, self.config.seed) for group in range(groups)]

    def sample(self, step: int) -> list[Rollout]:
        return self.answer(self.requests(step))

    def answer(self, requests: Sequence[RolloutRequest]) -> list[Rollout]:
        """Each rollout depends on its own index and prompt alone, never on the others sampled with it."""
        asked = self.engine_arguments(requests)
        done = with_open_thoughts(self.tokenizer, asked[0], self.engine.sample(*asked, seed=self.config.seed))
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


# ── Reference solutions in the place of rollouts, for methods whose `on_policy` is below 1 ─────────────────────────

DRAW = 1  # tells this draw from those of the tokens, which go by (seed, index) alone


def by_reference(on_policy: float, seed: int, index: int) -> bool:
    """Whether rollout `index` is the reference solution: with probability 1 − λ, a function of (seed, index)."""
    return on_policy < 1 and np.random.default_rng([seed, index, DRAW]).random() >= on_policy


def reference_completion(problem: Problem, index: int, tokenizer: Any, max_tokens: int) -> Completion:
    """The solution as tokens and an end token; like any completion it is cut off by its length."""
    assert problem.solution is not None, "the problems have been checked for this"
    written = tokenizer(problem.solution, add_special_tokens=False)["input_ids"]
    ids = (*written, tokenizer.eos_token_id)[:max_tokens]
    ended = len(written) < max_tokens
    text = str(tokenizer.decode(list(ids[:-1] if ended else ids), skip_special_tokens=False))
    return Completion(index, ids, text, "stop" if ended else "length")


def check_solutions(method: Method, problems: Sequence[Problem], control_tokens: Sequence[str]) -> None:
    """Raises UserError for a problem whose solution cannot stand in the place of a rollout."""
    if method.on_policy == 1:
        return
    for problem in problems:
        if not (problem.solution or "").strip():
            raise UserError(
                f"problem {problem.id}: it has no solution, and with method.on_policy below 1 some rollouts are"
                " solutions; name the column in data.solution, or take the problem out"
            )
        if found := [token for token in control_tokens if token in str(problem.solution)]:
            raise UserError(f"problem {problem.id}: its solution holds the control token {found[0]}; take it out")
