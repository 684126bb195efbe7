"""Memories: verified rollouts, kept as they were, in a file that only grows."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from sgsd.contexts.prompt_builders import PromptBuilder
from sgsd.contexts.prompts import with_open_thoughts
from sgsd.data.problems import problem_at
from sgsd.rollout import Engine, Sampling
from sgsd.types import Problem, Rollout, UserError, Verdict
from sgsd.verify import Verifier, grade_problems


@dataclass(frozen=True, slots=True)
class Memory:
    """A rollout's text and verdict. The reference answer is no part of it."""

    index: int  # of the rollout; it decided the draw
    problem_id: str
    problem: str
    solution: str
    correct: bool

    @property
    def id(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the problem, the solution and the verdict."""
        text = json.dumps([self.problem, self.solution, self.correct], ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def memory_of(rollout: Rollout, verdict: Verdict) -> Memory | None:
    """Return the memory of a graded rollout; None where its outcome is unknown or nothing was written."""
    if verdict.outcome == 0 or not rollout.completion.text.strip():
        return None
    problem, done = rollout.problem, rollout.completion
    return Memory(done.index, problem.id, problem.text, done.text, verdict.outcome > 0)


@dataclass(frozen=True)
class MemorySampler:
    """Samples and grades rollouts for memories. Rollout i belongs to the i-th problem of the seed's order."""

    engine: Engine
    verifier: Verifier
    prompts: PromptBuilder
    problems: Sequence[Problem]
    sampling: Sampling
    thinking: bool
    seed: int

    def sample(self, indices: Sequence[int]) -> list[tuple[int, Memory | None]]:
        """Return the memory of each index, None where the rollout brought none."""
        chosen = [problem_at(self.problems, index, self.seed) for index in indices]
        prompts = [self.prompts.student(problem, thinking=self.thinking) for problem in chosen]
        done = self.engine.sample(prompts, indices, self.sampling, seed=self.seed)
        done = with_open_thoughts(self.prompts.tokenizer, prompts, done)
        verdicts = grade_problems(self.verifier, [c.text for c in done], chosen, [c.token_ids for c in done])
        rollouts = [Rollout(problem, ids, c) for problem, ids, c in zip(chosen, prompts, done)]
        return [(i, memory_of(rollout, verdict)) for i, rollout, verdict in zip(indices, rollouts, verdicts)]


class MemoryFile:
    """One JSON object a line. What a kill left half-written at the end does not count, and the next append removes it.

    Raises:
        UserError: a line that is not the last is no memory, or the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Memory]:
        return [memory for _, memory in self._entries() if memory is not None]

    @property
    def next_index(self) -> int:
        """The rollout to go on with: one after the last that was looked at, with or without a memory."""
        return max((index for index, _ in self._entries()), default=-1) + 1

    def append(self, entries: Iterable[tuple[int, Memory | None]]) -> None:
        """Rollouts that were looked at, by index; what brought no memory is remembered as looked at."""
        lines = [json.dumps(asdict(m) if m else {"index": i}, ensure_ascii=False) + "\n" for i, m in entries]
        data = "".join(lines).encode("utf-8", "surrogatepass")
        try:
            with self.path.open("ab") as file:
                file.truncate(self._whole_bytes())
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); free the disk and go on") from error

    def _entries(self) -> list[tuple[int, Memory | None]]:
        try:
            data = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}); check the file") from error
        return [self._entry(line, number) for number, line in enumerate(data.split(b"\n")[:-1], start=1)]

    def _entry(self, line: bytes, number: int) -> tuple[int, Memory | None]:
        try:
            entry = json.loads(line.decode("utf-8", "surrogatepass"))
            if entry.keys() == {"index"} and type(entry["index"]) is int:
                return entry["index"], None
            memory = Memory(**entry)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{self.path}, line {number}: is no memory ({error}); move the file away") from None
        if [type(value) for value in astuple(memory)] != [int, str, str, str, bool]:
            raise UserError(f"{self.path}, line {number}: a field has the wrong type; move the file away")
        return memory.index, memory

    def _whole_bytes(self) -> int:
        """The bytes of all lines that were finished."""
        return self.path.read_bytes().rfind(b"\n") + 1
