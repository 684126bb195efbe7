"""Messages between a verifier and its processes: length-prefixed JSON, and orders to the fork server."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

_HEADER = struct.Struct(">I")

# An order to the fork server is one byte and a process id: fork (with a socket attached), or kill that process.
ORDER = struct.Struct(">cI")
FORK, KILL = b"f", b"k"


class Closed(Exception):
    """The other end of a connection is gone."""


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send a message as its length (4 bytes, big-endian) and its JSON (ASCII, so that any text survives).

    Raises Closed, and TimeoutError if the connection has a time-out.
    """
    body = json.dumps(message).encode("ascii")
    try:
        connection.sendall(_HEADER.pack(len(body)) + body)
    except TimeoutError:
        raise
    except OSError as error:
        raise Closed from error


def receive(connection: socket.socket, deadline: float | None = None) -> dict[str, Any]:
    """Receive the next message.

    Raises Closed at the end of the connection, and TimeoutError if the message is not complete by `deadline` (seconds
    of time.monotonic).
    """
    (length,) = _HEADER.unpack(_read(connection, _HEADER.size, deadline))
    return json.loads(_read(connection, length, deadline))


def _read(connection: socket.socket, size: int, deadline: float | None) -> bytes:
    data = b""
    while len(data) < size:
        if deadline is not None:
            connection.settimeout(max(1e-6, deadline - time.monotonic()))  # 0 would mean non-blocking
        try:
            chunk = connection.recv(size - len(data))
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed from error
        if not chunk:
            raise Closed
        data += chunk
    return data
