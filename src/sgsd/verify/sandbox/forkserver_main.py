"""The fork server's own process: `python -m sgsd.verify.sandbox.forkserver_main`, its stdin a socket to the owner.

It imports math-verify once, has one thread and never grades, so that it forks a warm worker in milliseconds however
fast answers kill them. It reads orders (see `ipc`) and, the moment its owner is gone, however that came, kills its
workers and ends.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import sys

from sgsd.verify.sandbox.ipc import FORK, ORDER, Closed, send
from sgsd.verify.sandbox.math_worker import Compare, load_compare, serve


def main() -> int:
    """Import math-verify, report success or failure, and obey until the owner is gone; returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner, who closes us
    control = socket.socket(fileno=os.dup(0))
    _silence()
    try:
        compare = load_compare()
    except ImportError as error:
        send(control, {"failed": str(error)})
        return 1
    gc.freeze()  # what is imported stays shared with the workers
    send(control, {"ready": True})
    _obey(control, compare)
    return 0


def _silence() -> None:
    """Send whatever a library prints nowhere, and give it nothing to read."""
    logging.disable(logging.CRITICAL)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def _obey(control: socket.socket, compare: Compare) -> None:
    workers: set[int] = set()
    try:
        with contextlib.suppress(Closed):
            while True:
                verb, pid, attached = _next_order(control)
                workers -= _reaped(workers)
                if verb == FORK:
                    workers.add(pid := _fork(control, attached[0], compare))
                    send(control, {"pid": pid})
                elif pid in workers:  # not reaped, so the number is still that process's
                    os.kill(pid, signal.SIGKILL)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        for pid in workers:
            os.waitpid(pid, 0)


def _next_order(control: socket.socket) -> tuple[bytes, int, list[socket.socket]]:
    """Wait for an order: its verb, its process id and the sockets that came with it. Raises Closed at the end."""
    try:
        order, handles, _, _ = socket.recv_fds(control, ORDER.size, 1)
    except ConnectionError as error:
        raise Closed from error
    if len(order) < ORDER.size:
        raise Closed
    return *ORDER.unpack(order), [socket.socket(fileno=handle) for handle in handles]


def _reaped(workers: set[int]) -> set[int]:
    """Reap the workers that have ended; never waits, because a large process takes its time to die."""
    return {pid for pid in workers if os.waitpid(pid, os.WNOHANG)[0]}


def _fork(control: socket.socket, connection: socket.socket, compare: Compare) -> int:
    pid = os.fork()
    if pid:
        connection.close()
        return pid
    status = 1
    try:
        control.close()
        serve(connection, compare)
        status = 0
    finally:
        os._exit(status)  # whatever happens, a worker must not go on as a second fork server


if __name__ == "__main__":
    sys.exit(main())
