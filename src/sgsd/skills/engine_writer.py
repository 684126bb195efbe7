"""A writer in this process: any engine that samples, the policy under training among them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any, Self

from sgsd.contexts.prompts import encode_chat
from sgsd.rollout import Engine, Sampling
from sgsd.skills.writer import Failed, Request, Written


@dataclass
class EngineWriter:
    """Lets an engine write, a batch of requests at a time.

    Args:
        model: the name of the weights, for the cache. A policy that is still learning must change it as it learns.
        context: tokens that prompt and answer may have together; a longer request fails, nothing is cut.
    """

    engine: Engine
    tokenizer: Any
    model: str
    sampling: Sampling = Sampling(temperature=0.0)  # noqa: RUF009 - frozen
    thinking: bool = False
    context: int = 32_768
    batch: int = 8
    seed: int = 0

    @property
    def name(self) -> str:
        drawn = "/".join(str(value) for name, value in asdict(self.sampling).items() if name != "max_tokens")
        return f"engine:{self.model}@{drawn}/{self.seed}/{'thinking' if self.thinking else 'plain'}"

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[int, Written | Failed]]:
        prompts = [encode_chat(self.tokenizer, request.chat(), thinking=self.thinking) for request in requests]
        fitting = []
        for position, (prompt, request) in enumerate(zip(prompts, requests)):
            if len(prompt) + request.max_tokens <= self.context:
                fitting.append(position)
            else:
                yield position, Failed(f"a prompt of more than {self.context} tokens with its answer")
        for start in range(0, len(fitting), self.batch):
            chosen = fitting[start : start + self.batch]
            sampling = replace(self.sampling, max_tokens=max(requests[i].max_tokens for i in chosen))
            # The draw belongs to the request, not to its place in a batch: a resumed build draws the same answer.
            draws = [draw_of(requests[i]) for i in chosen]
            done = self.engine.sample([prompts[i] for i in chosen], draws, sampling, seed=self.seed)
            for position, completion in zip(chosen, done):
                yield position, Written(completion.text, len(prompts[position]), len(completion.token_ids))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def draw_of(request: Request) -> int:
    """An index for the engine's random numbers that depends on what is asked alone."""
    return int.from_bytes(hashlib.sha256(request.identity().encode()).digest()[:6], "big")
