"""Killable workers with a hot spare: a question has a hard time-out, and a kill costs the next one nothing.

Workers are started as `python -m sgsd.verify.worker`, not by multiprocessing, whose spawn runs the user's script
again where it lacks a `__main__` guard. The pool may be used from any thread, and after a fork the child starts
workers of its own. POSIX only: it waits on pipes.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from enum import Enum
from pathlib import Path
from typing import Any

from sgsd.types import UserError
from sgsd.verify.frames import HEADER, decode, encode

_START_SECONDS = 120.0  # importing sympy takes 1-2 s, but a loaded machine or a cold network disk takes its time
_ALARM_MARGIN = 1.0  # the worker's own alarm, should its owner be gone: this much after the time-out
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])


class Reply(Enum):
    """What a worker made of one question."""

    EQUAL = "equal"
    DIFFERENT = "different"
    GOLD_UNREADABLE = "gold unreadable"
    STOPPED = "stopped"  # ran out of time, or took two workers down with it


class _Died(Exception):
    """The worker's pipe closed."""


class _TooLate(Exception):
    """The worker did not answer in time."""


class Worker:
    """One grading process and its pipes."""

    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, [_PACKAGE_ROOT, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "sgsd.verify.worker",
            ],  # -P: a json.py in the user's folder is not ours
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout
        self._ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_ready(self, seconds: float) -> None:
        """Wait for the imports; UserError where math-verify is missing."""
        if self._ready:
            return
        first = self._receive(time.monotonic() + seconds)
        if "failed" in first:
            raise UserError(
                f"verify: math-verify could not be loaded ({first['failed']}): reinstall sgsd's requirements"
            )
        self._ready = True

    def ask(self, answer: str, gold: str, seconds: float) -> Reply:
        """Put one question; raises where no answer came, and the worker must then be killed."""
        deadline = time.monotonic() + seconds
        question = {"answer": answer, "gold": gold, "seconds": seconds + _ALARM_MARGIN}
        self._send(encode(question))
        reply = self._receive(deadline)
        if not reply["gold"]:
            return Reply.GOLD_UNREADABLE
        return Reply.EQUAL if reply["equal"] else Reply.DIFFERENT

    def kill(self) -> None:
        """End the process and reap it."""
        self._process.kill()
        self._process.wait()
        self._close_pipes()

    def forget(self) -> None:
        """Let go of a worker that belongs to the process we were forked from."""
        self._close_pipes()
        self._process.returncode = 0  # not our child: nothing to poll when this object is collected

    def _close_pipes(self) -> None:
        self._questions.close()
        self._answers.close()

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._questions.write(view) or 0 :]
        except (BrokenPipeError, ValueError) as error:  # ValueError: closed by another thread
            raise _Died from error

    def _receive(self, deadline: float) -> dict[str, Any]:
        (length,) = HEADER.unpack(self._read(HEADER.size, deadline))
        return decode(self._read(length, deadline))

    def _read(self, size: int, deadline: float) -> bytes:
        data = b""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._answers, selectors.EVENT_READ)
                while len(data) < size:
                    if not selector.select(max(0.0, deadline - time.monotonic())):
                        raise _TooLate
                    chunk = os.read(self._answers.fileno(), size - len(data))
                    if not chunk:
                        raise _Died
                    data += chunk
        except (ValueError, OSError) as error:  # closed by another thread
            raise _Died from error
        return data


class WorkerPool:
    """Up to `workers` questions at a time, each with `timeout` seconds; processes start when first needed."""

    def __init__(self, timeout: float, workers: int) -> None:
        self._timeout, self._limit = timeout, workers
        self._mine: set[Worker] = set()
        self._reset()
        self._finalizer = weakref.finalize(self, _kill_all, self._mine)  # also runs at interpreter exit
        _POOLS.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._seats = threading.BoundedSemaphore(self._limit)
        self._idle: deque[Worker] = deque()
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """Process ids of all living workers, the spare included."""
        with self._lock:
            return [worker.pid for worker in self._mine]

    def ask(self, answer: str, gold: str) -> Reply:
        """Compare two LaTeX texts in a worker; one that dies over them is replaced and they are asked once more.

        Raises UserError where no worker can be started, RuntimeError after `close`.
        """
        with self._seats:
            for _ in range(2):
                worker = self._take()
                answered = False
                try:
                    self._make_ready(worker)
                    reply = worker.ask(answer, gold, self._timeout)
                    answered = True
                    return reply
                except _TooLate:
                    return Reply.STOPPED
                except _Died:
                    continue
                finally:
                    self._put_back(worker, alive=answered)
            return Reply.STOPPED

    def _make_ready(self, worker: Worker) -> None:
        try:
            worker.wait_ready(_START_SECONDS)
        except _TooLate:
            raise UserError(
                f"verify: the grading worker did not start in {_START_SECONDS:.0f} s: free the machine's processors"
            ) from None
        except _Died:
            self._refuse_if_closed()
            raise UserError(
                "verify: the grading worker ended while starting: see what `python -m sgsd.verify.worker` says"
            ) from None
        self._keep_spare()  # only now: two imports at once would delay the first answer

    def close(self) -> None:
        """End all workers; later questions are refused."""
        with self._lock:
            self._closed = True
            self._idle.clear()
            _kill_all(self._mine)

    def _take(self) -> Worker:
        with self._lock:
            self._refuse_if_closed()
            while self._idle:
                worker = self._idle.popleft()
                if worker.alive:
                    return worker
                self._end(worker)
            return self._start()

    def _start(self) -> Worker:
        worker = Worker()
        self._mine.add(worker)
        return worker

    def _keep_spare(self) -> None:
        with self._lock:
            self._refuse_if_closed()
            if not self._idle:
                self._idle.append(self._start())

    def _put_back(self, worker: Worker, *, alive: bool) -> None:
        with self._lock:
            if alive and worker in self._mine:
                self._idle.appendleft(worker)  # warm ones are taken before the spare
            elif worker in self._mine:
                self._end(worker)

    def _end(self, worker: Worker) -> None:
        self._mine.discard(worker)
        worker.kill()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the verifier is closed")

    def _after_fork_in_child(self) -> None:
        for worker in self._mine:
            worker.forget()
        self._mine.clear()
        closed = self._closed
        self._reset()
        self._closed = closed


def _kill_all(workers: set[Worker]) -> None:
    while workers:
        workers.pop().kill()


_POOLS: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _forget_in_child() -> None:
    for pool in list(_POOLS):
        pool._after_fork_in_child()


os.register_at_fork(after_in_child=_forget_in_child)
