"""Puzzles made by reasoning-gym, and the verifier that has them scored in a process which can be killed."""

from __future__ import annotations

import hashlib
import importlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, Self

from sgsd.config.sections import DataConfig
from sgsd.data.gym_tasks import ALLOWED, REFUSED
from sgsd.lookup import nearest
from sgsd.types import Problem, Status, UserError, Verdict
from sgsd.verify.final_answer import extract_answer
from sgsd.verify.protocol import check_lengths
from sgsd.verify.sandbox.ipc import Closed, receive, send

FULL_MARKS = 0.99
PROBLEMS = 1024  # where no limit is set
DRAWS_A_PROBLEM = 50  # some tasks have few different problems; after so many draws there are no more
HELD_OUT_SHARE = 64  # of 256
INSTALL = "reasoning-gym is not installed: pip install 'sgsd[tasks]'"

_START_SECONDS = 120.0  # importing takes 2 s, but a loaded machine or a cold network disk takes its time
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])


class GymAnswer(str):
    """A puzzle's reference answer that knows its puzzle: several answers may be right, and only the task can tell."""

    task: str
    seed: int

    def __new__(cls, answer: str, task: str, seed: int) -> Self:
        made = super().__new__(cls, answer)
        made.task, made.seed = task, seed
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.task, self.seed)


# ── Problems ───────────────────────────────────────────────────────────────────────────────────────────────────────


def gym_problems(config: DataConfig) -> tuple[list[Problem], list[str]]:
    """Different puzzles of the tasks in `gym:TASK,TASK`, in turn; `data.split` says train or held-out.

    A puzzle belongs to a side by the hash of its text, so no held-out puzzle is ever trained on. Raises UserError: a
    task that is not allowed, no such side, or reasoning-gym is not installed.
    """
    tasks = _allowed(config.path.removeprefix("gym:").split(","))
    if config.split not in ("train", "held-out"):
        raise UserError(f"data.split: gym tasks have train and held-out, not {config.split}")
    wanted = config.limit or PROBLEMS
    found: dict[str, Problem] = {}
    draws = ((task, seed) for seed in count() for task in tasks)
    for task, seed in islice(draws, wanted * DRAWS_A_PROBLEM):
        problem = gym_problem(task, seed)
        if is_held_out(problem.text) == (config.split == "held-out"):
            found.setdefault(problem.text, problem)
        if len(found) == wanted:
            break
    notes = [] if len(found) == wanted else [f"{len(found):,} different problems, there are no {wanted:,}"]
    return list(found.values()), notes


def gym_problem(task: str, seed: int) -> Problem:
    """One puzzle: a function of task and seed, for one version of reasoning-gym. Raises UserError without it."""
    try:
        gym = importlib.import_module("reasoning_gym")
    except ImportError as error:
        raise UserError(f"data.path: {INSTALL}") from error
    entry = gym.create_dataset(task, seed=seed, size=1)[0]
    return Problem(f"gym-{task}-{seed}", entry["question"], GymAnswer(entry["answer"], task, seed))


def is_held_out(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] < HELD_OUT_SHARE


def _allowed(tasks: Sequence[str]) -> Sequence[str]:
    for task in tasks:
        if task in REFUSED:
            raise UserError(f"data.path: gym:{task} is not allowed: {REFUSED[task]}")
        if task not in ALLOWED:
            raise UserError(f"data.path: there is no allowed gym task {task!r}; {nearest(task, sorted(ALLOWED))}")
    return tasks


# ── The verifier ───────────────────────────────────────────────────────────────────────────────────────────────────


def gym_answer(completion: Any) -> str | None:
    """The text between the last answer tags after the last </think>, else in the last box; None: no answer."""
    if not isinstance(completion, str):
        return None
    head, tag, tail = completion.rpartition("</think>")[2].rpartition("<answer>")
    inside, closed, _ = tail.partition("</answer>")
    if tag and closed and "<think>" not in head:
        return inside.strip() or None
    return extract_answer(completion)


class GymVerifier:
    """Has answers scored by their own task, a score of 0.99 or more being correct.

    Args:
        timeout: seconds that a scorer may take before its process is killed and the answer counts as timed out.

    Raises UserError for a time-out that is not positive.
    """

    def __init__(self, timeout: float = 5.0) -> None:
        if not 0 < timeout < float("inf"):
            raise UserError(f"verifier.options.timeout: {timeout!r}: give a positive number of seconds")
        self._timeout = timeout
        self._worker: _Worker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; the next answer would start another."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def grade(self, completions: Sequence[Any], golds: Sequence[Any]) -> list[Verdict]:
        """One verdict a row; a gold that is no `GymAnswer` is unparsed, since nothing else knows its puzzle."""
        check_lengths(completions, golds)
        return [self._grade_row(*row) for row in zip(completions, golds)]

    def _grade_row(self, completion: Any, gold: Any) -> Verdict:
        start, answer = time.perf_counter(), gym_answer(completion)
        if not isinstance(gold, GymAnswer):
            return Verdict(Status.UNPARSED, answer)
        if answer is None:
            return Verdict(Status.INCORRECT)
        score = self._score(gold, answer)
        status = Status.TIMEOUT if score is None else Status.CORRECT if score >= FULL_MARKS else Status.INCORRECT
        return Verdict(status, answer, time.perf_counter() - start)

    def _score(self, gold: GymAnswer, answer: str) -> float | None:
        """None where the scorer was stopped, or took two processes down with it."""
        for _ in range(2):
            self._worker = self._worker or _Worker()
            try:
                return self._worker.score(gold, answer, self._timeout)
            except TimeoutError:
                self.close()
                return None
            except Closed:
                self.close()
        return None


class _Worker:
    """One scoring process and the socket to it."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        path = os.pathsep.join(filter(None, [_PACKAGE_ROOT, os.environ.get("PYTHONPATH")]))
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "sgsd.verify.gym_worker",
                ],  # -P: a json.py in the user's folder is not ours
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
            )
        try:
            first = receive(self._connection, time.monotonic() + _START_SECONDS)
        except (Closed, TimeoutError):
            first = {"failed": "see what `python -m sgsd.verify.gym_worker` says"}
        if "failed" in first:
            self.kill()
            raise UserError(f"verifier gym: its process does not start ({first['failed']}); {INSTALL}")

    def score(self, gold: GymAnswer, answer: str, seconds: float) -> float:
        """Raises TimeoutError or Closed where no score came; the process must then be killed."""
        deadline = time.monotonic() + seconds
        self._connection.settimeout(seconds)
        send(self._connection, {"task": gold.task, "seed": gold.seed, "answer": answer, "seconds": seconds})
        return float(receive(self._connection, deadline)["score"])

    def kill(self) -> None:
        """End the process and reap it."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
