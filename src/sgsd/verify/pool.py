"""Killable workers, and behind them a zygote that replaces one in milliseconds: a question has a hard time-out.

The pool may be used from any thread, and after a fork the child starts processes of its own. POSIX only.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from enum import Enum

from sgsd.types import UserError
from sgsd.verify.frames import Closed
from sgsd.verify.nursery import Nursery, Worker

_ATTEMPTS = 2


class Reply(Enum):
    """What a worker made of one question."""

    EQUAL = "equal"
    DIFFERENT = "different"
    GOLD_UNREADABLE = "gold unreadable"
    STOPPED = "stopped"  # ran out of time, or took two workers down with it


class WorkerPool:
    """Up to `workers` questions at a time, each with `timeout` seconds; processes start when first needed."""

    def __init__(self, timeout: float, workers: int) -> None:
        self._timeout, self._limit = timeout, workers
        self._nurseries: set[Nursery] = set()  # at most one that lives
        self._closed = False
        self._reset()
        self._finalizer = weakref.finalize(self, _close_all, self._nurseries)  # also runs at interpreter exit
        _POOLS.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._seats = threading.BoundedSemaphore(self._limit)
        self._idle: deque[Worker] = deque()
        self._busy: set[Worker] = set()

    @property
    def pids(self) -> list[int]:
        """Process ids of the zygote and its workers."""
        with self._lock:
            return [nursery.pid for nursery in self._nurseries] + [worker.pid for worker in (*self._idle, *self._busy)]

    def ask(self, answer: str, gold: str) -> tuple[Reply, float]:
        """Compare two LaTeX texts in a worker: the reply, and the seconds from when a worker was sought.

        They leave out the wait for a seat, while other questions have all of them, and for the zygote's import, once
        per pool. A worker that dies over its question is replaced and asked once more, in the time that is left.
        Raises UserError where no worker can be started, RuntimeError after `close`.
        """
        with self._seats:
            nursery = self._ready_nursery()
            start = time.monotonic()
            deadline = start + self._timeout
            reply = Reply.STOPPED
            for attempt in range(_ATTEMPTS):
                if attempt:
                    nursery = self._ready_nursery()
                try:
                    reply = self._ask_once(nursery, answer, gold, deadline)
                except Closed:
                    continue
                break
            return reply, time.monotonic() - start

    def _ask_once(self, nursery: Nursery, answer: str, gold: str, deadline: float) -> Reply:
        worker = self._take(nursery)
        answered = False
        try:
            reply = worker.ask(answer, gold, deadline)
            answered = True
        except TimeoutError:
            return Reply.STOPPED
        finally:
            self._put_back(worker, nursery, alive=answered)
        if not reply["gold"]:
            return Reply.GOLD_UNREADABLE
        return Reply.EQUAL if reply["equal"] else Reply.DIFFERENT

    def _ready_nursery(self) -> Nursery:
        with self._lock:
            self._refuse_if_closed()
            nursery = next((nursery for nursery in self._nurseries if nursery.alive), None)
            if nursery is None:
                _close_all(self._nurseries)
                self._nurseries.add(nursery := Nursery())
        try:
            nursery.wait_ready()
        except Closed:
            self._refuse_if_closed()
            raise UserError(
                "verify: the grading process ended while starting: see what `python -c 'import math_verify'` says"
            ) from None
        return nursery

    def close(self) -> None:
        """End all processes; later questions are refused."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().close()
            _close_all(self._nurseries)

    def _take(self, nursery: Nursery) -> Worker:
        with self._lock:
            self._refuse_if_closed()
            worker = None
            while worker is None and self._idle:
                candidate = self._idle.popleft()
                if candidate.alive:
                    worker = candidate
                else:
                    candidate.close()
            self._busy.add(worker := worker or nursery.fork())
            return worker

    def _put_back(self, worker: Worker, nursery: Nursery, *, alive: bool) -> None:
        with self._lock:
            self._busy.discard(worker)
            if alive and not self._closed:
                self._idle.appendleft(worker)
            else:
                nursery.kill(worker)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the verifier is closed")

    def _after_fork_in_child(self) -> None:
        for worker in (*self._idle, *self._busy):
            worker.close()
        while self._nurseries:
            self._nurseries.pop().forget()
        self._reset()


def _close_all(nurseries: set[Nursery]) -> None:
    while nurseries:
        nurseries.pop().close()


_POOLS: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _forget_in_child() -> None:
    for pool in list(_POOLS):
        pool._after_fork_in_child()


os.register_at_fork(after_in_child=_forget_in_child)
