"""Length-prefixed JSON, the language between a verifier and its workers."""

from __future__ import annotations

import json
import struct
from typing import Any

HEADER = struct.Struct(">I")


def encode(message: dict[str, Any]) -> bytes:
    """A message as its length (4 bytes, big-endian) and its JSON (ASCII, so that any text survives)."""
    body = json.dumps(message).encode("ascii")
    return HEADER.pack(len(body)) + body


def decode(body: bytes) -> dict[str, Any]:
    return json.loads(body)
