"""Killable workers, and behind them a fork server that replaces one in milliseconds: a question has a hard time-out.

The pool may be used from any thread, and after a fork the child starts processes of its own. POSIX only.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator

from sgsd.types import Status, UserError
from sgsd.verify.sandbox.forkserver import ForkServer, Worker
from sgsd.verify.sandbox.ipc import Closed

_ATTEMPTS = 2


class WorkerPool:
    """Answers up to `workers` questions at a time, each in `timeout` seconds; starts processes when first needed."""

    def __init__(self, timeout: float, workers: int) -> None:
        self._timeout, self._limit = timeout, workers
        self._forkservers: set[ForkServer] = set()  # at most one that lives
        self._closed = False
        self._reset()
        self._finalizer = weakref.finalize(self, _close_all, self._forkservers)  # also runs at interpreter exit
        _POOLS.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(self._limit)
        self._idle: deque[Worker] = deque()
        self._busy: set[Worker] = set()

    @property
    def pids(self) -> list[int]:
        """Process ids of the fork server and its workers."""
        with self._lock:
            return [server.pid for server in self._forkservers] + [w.pid for w in (*self._idle, *self._busy)]

    def ask(self, answer: str, gold: str) -> tuple[Status, float]:
        """Compare two LaTeX texts in a worker.

        A worker that dies over its question is replaced and asked once more, in the time that is left; a question that
        runs out of time, or takes two workers down with it, is a time-out.

        Returns the status, and the seconds since a worker was sought. They leave out the wait for a slot, while other
        questions have them all, and for the fork server's import, once per pool.

        Raises UserError if no worker can be started, RuntimeError after `close`.
        """
        with self._slots:
            server = self._ready_forkserver()
            start = time.monotonic()
            for attempt in range(_ATTEMPTS):
                if attempt:
                    server = self._ready_forkserver()
                try:
                    with self._worker(server) as worker:
                        status = worker.ask(answer, gold, start + self._timeout)
                    return status, time.monotonic() - start
                except Closed:
                    continue
                except TimeoutError:
                    break
            return Status.TIMEOUT, time.monotonic() - start

    @contextlib.contextmanager
    def _worker(self, server: ForkServer) -> Iterator[Worker]:
        """A worker for one question; it is killed unless the question was answered. Raises Closed without a server."""
        with self._lock:
            self._refuse_if_closed()
            while self._idle and not self._idle[0].alive:
                self._idle.popleft().close()
            worker = self._idle.popleft() if self._idle else server.fork()
            self._busy.add(worker)
        answered = False
        try:
            yield worker
            answered = True
        finally:
            with self._lock:
                self._busy.discard(worker)
                if answered and not self._closed:
                    self._idle.appendleft(worker)
                else:
                    server.kill(worker)

    def _ready_forkserver(self) -> ForkServer:
        with self._lock:
            self._refuse_if_closed()
            server = next((server for server in self._forkservers if server.alive), None)
            if server is None:
                _close_all(self._forkservers)
                self._forkservers.add(server := ForkServer())
        try:
            server.wait_ready()
        except Closed:
            self._refuse_if_closed()
            raise UserError(
                "verify: the grading process ended while starting: see what `python -c 'import math_verify'` says"
            ) from None
        return server

    def close(self) -> None:
        """End all processes; later questions are refused."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().close()
            _close_all(self._forkservers)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the verifier is closed")

    def after_fork_in_child(self) -> None:
        """Let go of the processes of the parent; the child starts its own."""
        for worker in (*self._idle, *self._busy):
            worker.close()
        while self._forkservers:
            self._forkservers.pop().forget()
        self._reset()


def _close_all(forkservers: set[ForkServer]) -> None:
    while forkservers:
        forkservers.pop().close()


_POOLS: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _forget_in_child() -> None:
    for pool in list(_POOLS):
        pool.after_fork_in_child()


os.register_at_fork(after_in_child=_forget_in_child)
