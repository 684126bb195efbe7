"""Writers: whoever turns requests into text. A server, an engine in this process, the policy itself, or a script."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from sgsd.skills.drafts import AnswerType, schema_of

Message = tuple[str, str]  # role, text


@dataclass(frozen=True)
class Request:
    """One call: a conversation, and the form of the answer."""

    messages: tuple[Message, ...]
    answer: AnswerType | None  # none: plain text, whatever it says
    max_tokens: int

    @property
    def form(self) -> AnswerType:
        """The form of an answer that has one."""
        assert self.answer is not None, "plain text is asked for and read elsewhere"
        return self.answer

    def chat(self) -> list[dict[str, str]]:
        return [{"role": role, "content": _without_surrogates(text)} for role, text in self.messages]

    def identity(self) -> str:
        """The one text that stands for this request, for the cache."""
        schema = None if self.answer is None else schema_of(self.answer)
        return json.dumps([self.messages, schema, self.max_tokens], sort_keys=True)


@dataclass(frozen=True)
class WriterReply:
    """A writer's text, and what it cost; `faults` of the tries before, by reason."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    faults: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", _without_surrogates(self.text))


@dataclass(frozen=True)
class WriterFailure:
    """A call that brought nothing, retries included; the reason holds no secret and no address."""

    reason: str
    faults: tuple[str, ...] = ()
    dead: bool = False  # the server's trouble, whatever it is asked, and not that of this one request


class Writer(ABC):
    """Turns requests into text. Use it in a `with` block: a writer may hold a connection or processes."""

    name: str  # model and settings: answers of writers of the same name may stand for each other in the cache

    @abstractmethod
    def write(self, requests: Sequence[Request]) -> Iterator[tuple[int, WriterReply | WriterFailure]]:
        """Answer requests in any order, each as soon as it is there, so that a kill loses only what is on its way."""

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Let go of connections and processes; there are none by default."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def split_by_fit(
    prompts: Sequence[Sequence[int]], requests: Sequence[Request], context: int
) -> tuple[list[int], list[tuple[int, WriterFailure]]]:
    """Return the positions of requests that fit the context with their answers, and a failure for each other one."""
    fits = [len(p) + r.max_tokens <= context for p, r in zip(prompts, requests, strict=True)]
    failure = WriterFailure(f"a prompt of more than {context} tokens with its answer")
    return [i for i, fit in enumerate(fits) if fit], [(i, failure) for i, fit in enumerate(fits) if not fit]


def _without_surrogates(text: str) -> str:
    """Half characters, which JSON can spell and UTF-8 cannot, become question marks: no file or call can hold them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def about_tokens(text: str) -> int:
    """A rule of thumb where the tokenizer is not at hand: three characters a token."""
    return -(-len(text) // 3)


@dataclass
class ScriptedWriter(Writer):
    """A function stands in for a model, for tests and for merges by rule."""

    script: Callable[[Request], str]
    name: str = "scripted"
    calls: list[Request] = field(default_factory=list)

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[int, WriterReply | WriterFailure]]:
        for position, request in enumerate(requests):
            self.calls.append(request)
            text = self.script(request)
            prompt = sum(about_tokens(said) for _, said in request.messages)
            yield position, WriterReply(text, prompt, about_tokens(text))
