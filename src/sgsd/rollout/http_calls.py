"""Calls to a server, many at a time and each with a time limit that holds whatever the server does."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import httpx2

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
        """The status and the server's own explanation, in one line."""
        body = self.body
        if isinstance(body, dict):
            body = body.get("error", body.get("detail", body))
            body = body.get("message", body) if isinstance(body, dict) else body
        return f"status {self.status}: {' '.join(str(body).split())[:240]}"


async def call(
    method: str, url: str, body: Mapping[str, Any] | None, seconds: float, headers: Mapping[str, str]
) -> Reply:
    """One request on a connection of its own, bounded from the first byte to the last.

    The time-outs of httpx start anew with each byte that trickles in; this one does not.

    Raises:
        Unreachable, TooLate.
    """
    try:
        async with (
            asyncio.timeout(seconds),
            httpx2.AsyncClient(verify=_certificates(), trust_env=False, timeout=None) as client,
        ):
            response = await client.request(method, url, json=body, headers={"Connection": "close", **headers})
    except TimeoutError:
        raise TooLate(f"no answer within {seconds:g} s") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise Unreachable(f"{type(error).__name__} ({' '.join(str(error).split())[:120]})") from error
    try:
        return Reply(response.status_code, response.json() if response.content else None)
    except ValueError:
        return Reply(response.status_code, response.text)


def run(calls: Coroutine[Any, Any, T]) -> T:
    """Run calls to their end, also where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(calls)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, calls).result()


@cache
def _certificates() -> ssl.SSLContext:
    """Read the system's certificates once; a client that reads its own takes longer than a call."""
    return ssl.create_default_context()
