"""The client between a build and its writer: cached answers first, one repair, a budget for failures, and a count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from sgsd.contexts.prompts import PromptSet
from sgsd.skills.writers.answer_cache import AnswerCache
from sgsd.skills.writers.answers import ParsedAnswer, after_thinking, parse_answer
from sgsd.skills.writers.base import Request, Writer, WriterFailure, WriterReply
from sgsd.types import RunFailure

MAX_REPEATED_CHARS = 4_000  # of an unreadable answer, shown to the writer again when a repair is asked for
MIN_FAILURES = 3  # a few hiccups of a small batch are no reason to stop, unless nothing else came


class WriterError(RunFailure):
    """More requests failed than the budget allows; usable answers are kept, and the same command goes on from there."""


@dataclass
class Usage:
    """Counts of requests, tokens and failures."""

    calls: int = 0
    cached: int = 0  # answers that cost no call
    repairs: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    answers: int = 0  # requests that ended in a readable answer
    retried: Counter[str] = field(default_factory=Counter)  # tries that failed and were made again, by reason
    failures: Counter[str] = field(default_factory=Counter)  # requests that ended without one, by reason
    dropped: Counter[str] = field(default_factory=Counter)  # items of readable answers that were left out, by reason

    def to_dict(self) -> dict[str, object]:
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}


@dataclass
class WriterClient:
    """Asks a writer.

    Args:
        failure_budget: the share of requests that may fail, after their retries, before the whole is stopped.
        on_answer: called after every request that has been dealt with, for a progress bar.
    """

    writer: Writer
    prompts: PromptSet
    cache: AnswerCache | None = None
    failure_budget: float = 0.2
    on_answer: Callable[[], None] = lambda: None
    usage: Usage = field(default_factory=Usage)

    def ask(self, requests: Sequence[Request]) -> list[ParsedAnswer | None]:
        """Return the parsed answer of every request, in order; None where there is none, and `usage` says why.

        Raises:
            WriterError: too many failed.
        """
        allowed = max(MIN_FAILURES, self.failure_budget * len(requests))
        replies = self._replies(requests, allowed)
        answers = {i: parse_answer(r.text, requests[i].form) for i, r in replies.items() if isinstance(r, WriterReply)}
        again = self._repair(requests, replies, answers, allowed)
        kept = [self._count(replies[position], answers.get(position)) for position in range(len(requests))]
        if self._too_many_failed(kept):
            if self.cache is not None:  # or the same command would read the same unusable answers for ever
                lost = [i for i in range(len(requests)) if kept[i] is None]
                self.cache.forget(self.writer.name, [r for i in lost for r in (requests[i], again.get(i)) if r])
            most = ", ".join(f"{count} × {reason}" for reason, count in self.usage.failures.most_common(3))
            self._give_up(self.usage.failures.total(), self.usage.failures.total() + self.usage.answers, most)
        return kept

    def _repair(
        self,
        requests: Sequence[Request],
        replies: dict[int, WriterReply | WriterFailure],
        answers: dict[int, ParsedAnswer],
        allowed: float,
    ) -> dict[int, Request]:
        """Ask once more where nothing could be read; puts the better answers in place, and returns what was asked."""
        broken = sorted(i for i, answer in answers.items() if answer.wants_repair)
        again = {i: self._repair_request(requests[i], replies[i], answers[i]) for i in broken}
        self.usage.repairs += len(again)
        for place, reply in self._replies(list(again.values()), allowed, repeated=True).items():
            if isinstance(reply, WriterReply):
                better = parse_answer(reply.text, requests[broken[place]].form)
                if better.unusable is None:
                    answers[broken[place]] = better
        return again

    def _repair_request(self, request: Request, reply: WriterReply | WriterFailure, answer: ParsedAnswer) -> Request:
        said = (after_thinking(reply.text) or "")[:MAX_REPEATED_CHARS] if isinstance(reply, WriterReply) else ""
        wrong = answer.unusable or ", ".join(answer.dropped)
        asked = self.prompts.render("repair", problem=wrong, key=request.form.key, fields=_fields(request))
        talk: tuple[tuple[str, str], ...] = (*request.messages, ("assistant", said or "…"), ("user", asked))
        return Request(talk, request.answer, request.max_tokens)

    def _replies(
        self, requests: Sequence[Request], allowed: float, *, repeated: bool = False
    ) -> dict[int, WriterReply | WriterFailure]:
        progress = (lambda: None) if repeated else self.on_answer
        found: dict[int, WriterReply | WriterFailure] = {}
        twins: dict[str, list[int]] = {}  # equal requests are one call, as they would be for a second build
        for position, request in enumerate(requests):
            known = self.cache.get(self.writer.name, request) if self.cache is not None else None
            if known is None:
                twins.setdefault(request.identity(), []).append(position)
            else:
                found[position] = known
                self.usage.cached += 1
                progress()
        missing = list(twins.values())
        failed, dead = Counter[str](), 0
        for place, reply in self.writer.write([requests[same[0]] for same in missing]) if missing else ():
            same = missing[place]
            self._enter(reply, requests[same[0]], len(same))
            for position in same:
                found[position] = reply
                progress()
            if isinstance(reply, WriterFailure):
                failed[reply.reason] += len(same)
                dead += len(same) if reply.dead else 0
                # A dead server is not asked 256 times.
                if failed.total() > allowed or (dead > MIN_FAILURES and dead == len(found) and not self.usage.answers):
                    self.usage.failures += failed
                    self._give_up(failed.total(), len(requests), f"the last: {reply.reason}")
        for same in missing:
            for position in same:
                found.setdefault(position, WriterFailure("no answer came back"))
        return found

    def _enter(self, reply: WriterReply | WriterFailure, request: Request, times: int) -> None:
        """Keep an answer before anything is done with it, and write down what it cost."""
        self.usage.calls += 1
        self.usage.retried += Counter(reply.faults)
        if isinstance(reply, WriterReply):
            self.usage.prompt_tokens += reply.prompt_tokens
            self.usage.completion_tokens += reply.completion_tokens
            self.usage.cached += times - 1
            if self.cache is not None:
                self.cache.put(self.writer.name, request, reply)

    def _count(self, reply: WriterReply | WriterFailure, answer: ParsedAnswer | None) -> ParsedAnswer | None:
        """Count what became of a request; returns its answer where it is of use."""
        if isinstance(reply, WriterFailure):
            self.usage.failures[reply.reason] += 1
        elif answer is not None and answer.unusable is not None:
            self.usage.failures[answer.unusable] += 1
        elif answer is not None:
            self.usage.answers += 1
            self.usage.dropped += answer.dropped
            return answer
        return None

    def _too_many_failed(self, kept: Sequence[ParsedAnswer | None]) -> bool:
        failed, answers = self.usage.failures.total(), self.usage.answers
        beyond = failed > max(MIN_FAILURES, self.failure_budget * (failed + answers))
        return None in kept and (beyond or not answers)

    def _give_up(self, failed: int, total: int, why: str) -> NoReturn:
        raise WriterError(
            f"the writer {self.writer.name} failed {failed} of {total} requests ({why}), more than the budget of"
            f" {self.failure_budget:.0%}; mend the cause and run the same command again: answers are kept"
        )


def _fields(request: Request) -> str:
    return ", ".join(request.form.draft.model_fields)
