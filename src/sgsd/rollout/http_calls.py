"""Calls to a server, all of them at once and each with a time limit that holds whatever the server does."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import ssl
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")


class Unreachable(Exception):
    """No whole answer came over the connection."""


class TooLate(Exception):
    """No whole answer came in time."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Status and body; a body that is no JSON is kept as text."""

    status: int
    body: Any

    @property
    def reason(self) -> str:
        """What the server has to say, in one line."""
        told = self.body
        if isinstance(told, dict):
            told = told.get("error", told.get("detail", told))
            told = told.get("message", told) if isinstance(told, dict) else told
        return f"status {self.status}: {' '.join(str(told).split())[:240]}"


async def call(
    method: str, url: str, body: Mapping[str, Any] | None, seconds: float, headers: Mapping[str, str]
) -> Reply:
    """One request on a connection of its own, bounded from the first byte to the last.

    The time limit of a socket starts anew with each byte that trickles in; this one does not.

    Raises:
        Unreachable, TooLate.
    """
    try:
        async with asyncio.timeout(seconds):
            return _read(await _exchange(method, url, body, headers))
    except TimeoutError:
        raise TooLate(f"no answer within {seconds:g} s") from None
    except (OSError, EOFError, http.client.HTTPException) as error:
        raise Unreachable(f"{type(error).__name__} ({' '.join(str(error).split())[:120]})") from error


def run(calls: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, also where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(calls)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, calls).result()


async def _exchange(method: str, url: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]) -> bytes:
    place = urlsplit(url)
    secure = ssl.create_default_context() if place.scheme == "https" else None
    port = place.port or (443 if secure else 80)
    path = (place.path or "/") + (f"?{place.query}" if place.query else "")
    content = b"" if body is None else json.dumps(body).encode()
    told = {
        "Host": place.netloc.rpartition("@")[2],
        "Connection": "close",
        "Accept": "application/json",
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
        **headers,
    }
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in told.items())
    reader, writer = await asyncio.open_connection(place.hostname, port, ssl=secure)
    try:
        writer.write(f"{head}\r\n".encode() + content)
        await writer.drain()
        return await reader.read(-1)
    finally:
        writer.close()


def _read(received: bytes) -> Reply:
    """Raises HTTPException for what is no HTTP, or breaks off."""
    if not received:
        raise http.client.RemoteDisconnected("the server hung up")
    response = http.client.HTTPResponse(_Received(received))  # type: ignore[arg-type]
    response.begin()
    content = response.read()
    try:
        return Reply(response.status, json.loads(content) if content else None)
    except ValueError:
        return Reply(response.status, content.decode(errors="replace"))


class _Received:
    """Bytes in the place of a socket."""

    def __init__(self, received: bytes) -> None:
        self._received = received

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._received)
