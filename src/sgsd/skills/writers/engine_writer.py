"""A writer in this process: any engine that samples, the policy under training among them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sgsd.contexts.prompts import encode_chat, with_open_thoughts
from sgsd.rollout import Engine, Sampling
from sgsd.skills.writers.base import Request, Writer, WriterFailure, WriterReply, split_by_fit


@dataclass
class EngineWriter(Writer):
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
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)  # switches of the chat template

    def __post_init__(self) -> None:
        drawn = "/".join(str(value) for name, value in asdict(self.sampling).items() if name != "max_tokens")
        self.name = f"engine:{self.model}@{drawn}/{self.seed}/{'thinking' if self.thinking else 'plain'}"

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[int, WriterReply | WriterFailure]]:
        prompts = [
            encode_chat(self.tokenizer, request.chat(), thinking=self.thinking, template_kwargs=self.template_kwargs)
            for request in requests
        ]
        fitting, failures = split_by_fit(prompts, requests, self.context)
        yield from failures
        for start in range(0, len(fitting), self.batch):
            chosen = fitting[start : start + self.batch]
            sampling = replace(self.sampling, max_tokens=max(requests[i].max_tokens for i in chosen))
            # The draw belongs to the request, not to its place in a batch: a resumed build draws the same answer.
            draws = [draw_of(requests[i]) for i in chosen]
            asked = [prompts[i] for i in chosen]
            done = self.engine.sample(asked, draws, sampling, seed=self.seed)
            done = with_open_thoughts(self.tokenizer, asked, done)
            for position, completion in zip(chosen, done):
                yield position, WriterReply(completion.text, len(prompts[position]), len(completion.token_ids))


def draw_of(request: Request) -> int:
    """An index for the engine's random numbers that depends on what is asked alone."""
    return int.from_bytes(hashlib.sha256(request.identity().encode()).digest()[:6], "big")
