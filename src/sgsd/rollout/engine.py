"""The interface of engines: sample one completion for each prompt, each from a seed of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sgsd.types import Completion, Sampling, UserError


class EngineError(UserError):
    """An engine that did not sample: which one, what happened, after how many seconds, and what to do.

    No rollout of the call is used, so no group is ever partial.
    """

    def __init__(self, engine: str, what: str, seconds: float, remedy: str) -> None:
        super().__init__(f"rollout.engine {engine}: {what}, {seconds:.0f} s into the call; {remedy}")


def vllm_options(sampling: Sampling, end_ids: frozenset[int]) -> dict[str, Any]:
    """The settings by vLLM's own names, for an engine and a server alike."""
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "max_tokens")
    return {**{name: getattr(sampling, name) for name in names}, "stop_token_ids": sorted(end_ids)}


class Engine(Protocol):
    """A source of completions: a model in this process, vLLM beside it, or servers."""

    def sample(
        self, prompts: Sequence[Sequence[int]], indices: Sequence[int], sampling: Sampling, *, seed: int
    ) -> list[Completion]:
        """One completion a prompt, in order. Rollout `indices[i]` depends on (seed, index) and on its prompt alone."""

    def sync(self) -> None:
        """Take over the current weights for all further samples."""


def uniforms(seed: int, index: int, count: int) -> np.ndarray:
    """The random numbers of one rollout, in (0, 1], one a token: a function of (seed, index) and of nothing else."""
    return 1.0 - np.random.default_rng([seed, index]).random(count)


def request_seed(seed: int, index: int) -> int:
    """The seed of one rollout for an engine that draws its own numbers: 63 bits of (seed, index), nothing else."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass
class ScriptedEngine:
    """An engine for tests, in which a function from (prompt, index) to token ids stands in for a model."""

    script: Callable[[Sequence[int], int], Sequence[int]]
    decode: Callable[[Sequence[int]], str]
    end_ids: frozenset[int] = frozenset()
    syncs: int = 0

    def sample(
        self, prompts: Sequence[Sequence[int]], indices: Sequence[int], sampling: Sampling, *, seed: int
    ) -> list[Completion]:
        written = [tuple(self.script(prompt, index))[: sampling.max_tokens] for prompt, index in zip(prompts, indices)]
        return [completion(i, ids, self.decode, self.end_ids) for i, ids in zip(indices, written)]

    def sync(self) -> None:
        self.syncs += 1


def completion(
    index: int,
    token_ids: Sequence[int],
    decode: Callable[[Sequence[int]], str],
    end_ids: frozenset[int],
    logps: Sequence[float] = (),
) -> Completion:
    """Cut at the first end token, which stays; without one the completion was cut off by its length."""
    end = next((position for position, token in enumerate(token_ids) if token in end_ids), None)
    kept = tuple(token_ids) if end is None else tuple(token_ids[: end + 1])
    text = decode(kept if end is None else kept[:-1])
    return Completion(index, kept, text, "length" if end is None else "stop", tuple(logps[: len(kept)]))
