"""One process that scores answers to reasoning-gym puzzles: `python -m sgsd.verify.gym_worker`, its stdin a socket.

The owner checks that a task is allowed; this process sees to it that a scorer which hangs or takes all memory hurts
nobody else. It makes the puzzle again from its seed, so that only names, numbers and the answer cross the socket.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import sys
from functools import lru_cache
from typing import Any

from sgsd.verify.sandbox.ipc import Closed, receive, send
from sgsd.verify.sandbox.math_worker import limit_memory

_ALARM_MARGIN = 1.0  # should the owner be gone: this much after its time-out

#: What scorers raise over answers they did not foresee; such an answer is wrong.
_BREAKS = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def main() -> int:
    """Score until the owner is gone; the first message says whether reasoning-gym could be loaded."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner, who kills us
    owner = socket.socket(fileno=os.dup(0))
    logging.disable(logging.CRITICAL)
    limit_memory()
    try:
        importlib.import_module("reasoning_gym")
    except ImportError as error:
        send(owner, {"failed": str(error)})
        return 1
    send(owner, {"ready": True})
    while True:
        try:
            question = receive(owner)
            signal.setitimer(signal.ITIMER_REAL, question["seconds"] + _ALARM_MARGIN)
            score = score_answer(question["task"], question["seed"], question["answer"])
            signal.setitimer(signal.ITIMER_REAL, 0)
            send(owner, {"score": score})
        except Closed:
            return 0


def score_answer(task: str, seed: int, answer: str) -> float:
    """The task's own score, 0 where its scorer breaks over the answer."""
    dataset, entry = _puzzle(task, seed)
    try:
        return float(dataset.score_answer(answer, entry=entry))
    except _BREAKS:
        return 0.0


@lru_cache(maxsize=4096)
def _puzzle(task: str, seed: int) -> tuple[Any, dict[str, Any]]:
    dataset = importlib.import_module("reasoning_gym").create_dataset(task, seed=seed, size=1)
    return dataset, dataset[0]


if __name__ == "__main__":
    sys.exit(main())
