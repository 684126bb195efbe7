"""The critic of a run: its writer, asked about rollouts. What fails costs that rollout its teacher, never the run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from accelerate import Accelerator
from accelerate.utils import gather_object

from sgsd.config.run_config import RunConfig
from sgsd.contexts import Graded
from sgsd.distributed.processes import from_first
from sgsd.methods import Method
from sgsd.notices import warn
from sgsd.rollout import Engine
from sgsd.skills import AnswerCache, Request, Writer, WriterFailure
from sgsd.train.configured_writer import make_writer
from sgsd.types import UserError

CACHE = "critiques.sqlite"  # in the run's folder


@dataclass
class WriterCritic:
    """Called by every process at every step; only the first one asks, for all of them.

    Answers are kept in `cache`, so a resumed run asks nothing twice. Those of a policy that learns are not: at another
    step they would be another's.
    """

    accelerator: Accelerator
    writer: Writer | None  # of the first process
    max_tokens: int
    cache: Path | None
    failures: int = 0
    _open: ExitStack = field(default_factory=ExitStack)
    _answers: AnswerCache | None = None

    def __call__(self, rollouts: Sequence[Graded], questions: Sequence[str]) -> list[str | None]:
        mine = [(rollout.index, question) for rollout, question in zip(rollouts, questions, strict=True)]
        everyone = sorted(gather_object(mine))  # by rollout: the same requests in one order, on any number of processes
        answers = from_first(self.accelerator, lambda: self._ask([question for _, question in everyone]))
        return [answers.get(question) for question in questions]

    def _ask(self, questions: Sequence[str]) -> dict[str, str]:
        """The answers there are, by question."""
        assert self.writer is not None
        if self.cache is not None and self._answers is None:
            self._answers = self._open.enter_context(AnswerCache(self.cache))
        requests = {q: Request((("user", q),), None, self.max_tokens) for q in questions}
        answers: dict[str, str] = {}
        if self._answers is not None:
            known = {q: self._answers.get(self.writer.name, request) for q, request in requests.items()}
            answers = {q: written.text for q, written in known.items() if written is not None}
        self._write({q: request for q, request in requests.items() if q not in answers}, answers)
        return answers

    def _write(self, requests: dict[str, Request], answers: dict[str, str]) -> None:
        assert self.writer is not None
        missing, reason = list(requests), ""
        try:
            for place, reply in self.writer.write(list(requests.values())) if missing else ():
                if isinstance(reply, WriterFailure):
                    reason = reason or reply.reason
                    if reply.dead and not answers:
                        break  # it is not asked once a rollout
                else:
                    answers[missing[place]] = reply.text
                    if self._answers is not None:
                        self._answers.put(self.writer.name, requests[missing[place]], reply)
        except UserError as error:
            reason = str(error)
        if failed := sum(question not in answers for question in missing):
            self.failures += failed
            warn(
                f"critique: {failed} of {len(missing)} answers failed ({reason or 'nothing came back'});"
                f" their teachers are left out, {self.failures} so far"
            )

    def __enter__(self) -> Self:
        if self.writer is not None:
            self._open.enter_context(self.writer)
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()
        self._answers = None


def make_critic(
    config: RunConfig, method: Method, accelerator: Accelerator, engine: Engine, tokenizer: Any
) -> WriterCritic | None:
    """The critic, where the method's teachers are shown its words.

    Raises UserError: the writer's client, key or model is missing.
    """
    if "writer" not in method.context.all_needs():
        return None
    writer = make_writer(config, engine, tokenizer) if accelerator.is_main_process else None
    cache = None if config.writer.kind == "policy" else config.folder / CACHE
    return WriterCritic(accelerator, writer, config.writer.critique_tokens, cache)
