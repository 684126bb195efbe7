"""Handles to the processes, held by their owner: the fork server, and the workers that it forks."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from sgsd.types import Status, UserError
from sgsd.verify.sandbox.ipc import FORK, KILL, ORDER, Closed, receive, send

_START_SECONDS = 120.0  # importing sympy takes a second, but a loaded machine or a cold network disk takes its time
_FORK_SECONDS = 20.0  # takes milliseconds; more than this and the machine is beyond help
_END_SECONDS = 5.0
_ALARM_MARGIN = 1.0  # the worker's own alarm, should owner and fork server be gone: this much after its time
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[3])


class Worker:
    """One grading process: its number, and the connection to it."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid, self._connection = pid, connection

    @property
    def alive(self) -> bool:
        """True while an idle worker still listens: a dead one has closed its end, which makes ours readable."""
        return not select.select([self._connection], [], [], 0)[0]

    def ask(self, answer: str, gold: str, deadline: float) -> Status:
        """Put one question. Raises TimeoutError or Closed without an answer; the worker must then be killed."""
        seconds = max(0.0, deadline - time.monotonic())
        self._connection.settimeout(_ALARM_MARGIN)
        send(self._connection, {"answer": answer, "gold": gold, "seconds": seconds + _ALARM_MARGIN})
        return Status(receive(self._connection, deadline)["status"])

    def close(self) -> None:
        """Close the connection; an idle worker ends."""
        self._connection.close()


class ForkServer:
    """A process started as `python -m` that is ready after its imports and forks workers in milliseconds.

    multiprocessing would run the user's script again where it lacks a `__main__` guard, and a fork of the user's
    process may copy threads, locks and a gigabyte of model.
    """

    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, [_PACKAGE_ROOT, os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-P", "-m", "sgsd.verify.sandbox.forkserver_main"]  # -P: no json.py of the user's
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
            )
        self._talking = threading.Lock()
        self._ready = False

    @property
    def pid(self) -> int:
        """The process id of the fork server."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """True until the process has ended."""
        return self._process.poll() is None

    def wait_ready(self) -> None:
        """Wait for the imports. Raises UserError if they fail, Closed if somebody ended the process meanwhile."""
        with self._talking:
            if self._ready:
                return
            try:
                first = receive(self._control, time.monotonic() + _START_SECONDS)
            except TimeoutError:
                raise UserError(
                    f"verify: math-verify was not imported in {_START_SECONDS:.0f} s: free the machine's processors"
                ) from None
            if "failed" in first:
                raise UserError(
                    f"verify: math-verify could not be loaded ({first['failed']}): reinstall sgsd's requirements"
                )
            self._ready = True

    def fork(self) -> Worker:
        """Fork a warm worker. Raises Closed if the fork server is gone."""
        ours, theirs = socket.socketpair()
        try:
            with self._talking, theirs:
                self._order(FORK, 0, [theirs.fileno()])
                pid = receive(self._control, time.monotonic() + _FORK_SECONDS)["pid"]
        except (Closed, TimeoutError) as error:
            ours.close()
            raise Closed from error
        return Worker(pid, ours)

    def kill(self, worker: Worker) -> None:
        """End a worker, whatever it does; without the fork server, its alarm ends it."""
        worker.close()
        with self._talking, contextlib.suppress(Closed):
            self._order(KILL, worker.pid, [])

    def close(self) -> None:
        """End the fork server and with it all workers, and wait until they are gone."""
        if not self._ready:
            self._process.kill()  # it has no workers yet
        with contextlib.suppress(OSError):  # some systems refuse where the other end is gone already
            self._control.shutdown(socket.SHUT_RDWR)  # wakes whoever waits on it, too
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._control.close()

    def forget(self) -> None:
        """Let go of a fork server that belongs to the process we were forked from."""
        self._control.close()
        self._process.returncode = 0  # not our child: nothing to poll when this object is collected

    def _order(self, verb: bytes, pid: int, attached: list[int]) -> None:
        try:
            socket.send_fds(self._control, [ORDER.pack(verb, pid)], attached)
        except OSError as error:
            raise Closed from error
