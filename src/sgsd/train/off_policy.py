"""Rollouts that nobody sampled: reference solutions in their place, for methods whose `on_policy` is below 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sgsd.methods import Method
from sgsd.types import Completion, Problem, UserError

DRAW = 1  # tells this draw from those of the tokens, which go by (seed, index) alone


def by_reference(on_policy: float, seed: int, index: int) -> bool:
    """True where rollout `index` is the reference solution: with probability 1 − λ, a function of (seed, index)."""
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
