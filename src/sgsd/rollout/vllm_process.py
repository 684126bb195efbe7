"""The trainer's side of the process in which vLLM lives: commands go there, replies come back, no wait is endless.

A process of its own, because a call into vLLM cannot be stopped from within its process: an engine that hangs is
killed here and started anew. It is also spared what vLLM does to its host: global seeds, threads, patched modules.
Messages are lines of JSON on a socket that only the two have; what vLLM prints goes to a log.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_WORKER = Path(__file__).with_name("vllm_worker.py")
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_END_SECONDS = 20.0
_TAIL_LINES = 400
#: A launcher's variables for the trainer's processes, not meant for an engine beside one of them.
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_", "ACCELERATE_", "FSDP_")


class ProcessLost(Exception):
    """The process died or fell silent; the message says which."""


class ProcessRefused(Exception):
    """The process lives and says no; the message is vLLM's own, in one line."""


class VllmProcess:
    """One engine process, alive until `kill`, or until the trainer's end closes the connection.

    Args:
        log: where vLLM's own words go; a later process adds to them.
        environment: laid over the trainer's, less what its launcher has set.
    """

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHER)}
        path = os.pathsep.join(filter(None, [_PACKAGE_ROOT, os.environ.get("PYTHONPATH")]))
        self._connection, theirs = socket.socketpair()
        with theirs, log.open("ab") as stream:
            self._log_start = stream.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_WORKER), str(theirs.fileno())],  # -P: a json.py beside it is not ours
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                env={**inherited, **environment, "PYTHONPATH": path},
                start_new_session=True,  # a Ctrl-C at the terminal is the trainer's to answer
            )
        self._received = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: Mapping[str, Any], seconds: float) -> None:
        """Send a command. Raises ProcessLost where nobody reads it in time."""
        self._connection.settimeout(seconds)
        try:
            self._connection.sendall(json.dumps(command).encode() + b"\n")
        except TimeoutError:
            raise ProcessLost(f"took no order for {seconds:g} s") from None
        except OSError:
            raise self._died() from None

    def receive(self, seconds: float) -> dict[str, Any]:
        """Return the next message.

        Raises ProcessLost: none came in time, or the process died; ProcessRefused: the command failed there.
        """
        deadline = time.monotonic() + seconds
        pieces = [self._received]
        while b"\n" not in pieces[-1]:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ProcessLost(f"said nothing for {seconds:g} s")
            self._connection.settimeout(left)
            try:
                piece = self._connection.recv(1 << 20)
            except TimeoutError:
                continue
            except OSError:
                raise self._died() from None
            if not piece:
                raise self._died()
            pieces.append(piece)
        line, _, self._received = b"".join(pieces).partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if "failed" in message:
            raise ProcessRefused(message["failed"])
        return message

    def kill(self) -> None:
        """End it, whatever it does, with all processes it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(_END_SECONDS)
        self._connection.close()  # last: a thread that still listens has heard of the end by then

    def log_tail(self) -> str:
        """The end of what this process has printed."""
        with self.log.open("rb") as stream:
            stream.seek(self._log_start)
            return "\n".join(stream.read().decode(errors="replace").splitlines()[-_TAIL_LINES:])

    def _died(self) -> ProcessLost:
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return ProcessLost("closed its connection")
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return ProcessLost(how)
