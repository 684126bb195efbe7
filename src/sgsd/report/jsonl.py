"""JSON Lines files as rows that know where they stand, so that every complaint names file, line and field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sgsd.records.lenient import parse
from sgsd.types import UserError

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Row:
    """One JSON object and the place it was read from ("metrics.jsonl, line 3")."""

    where: str
    fields: Mapping[str, Any]

    def parse(self, kind: type[Value], **more: Any) -> Value:
        """The object as a `kind`, with further fields. Raises UserError for a field that is not what it should be."""
        return parse(kind, {**self.fields, **more}, self.where)

    def inside(self, key: str) -> Row:
        """The object under a key; empty where there is none."""
        value = self.fields.get(key)
        return Row(f"{self.where}, {key}", value if isinstance(value, Mapping) else {})


@dataclass(frozen=True, slots=True)
class Lines:
    """The rows of one file; `torn` when the last line was still being written and is left out."""

    rows: tuple[Row, ...]
    torn: bool = False


def parse_object(text: bytes) -> Mapping[str, Any] | None:
    """One JSON object, or None when the bytes are not one (UnicodeDecodeError is a ValueError too)."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, Mapping) else None


def read_lines(path: Path) -> Lines:
    """The objects of a JSON Lines file; no file, no rows.

    Raises:
        UserError: a broken line, with file and line; an unfinished last one, which a run in progress or a killed one
            leaves behind, is only `torn`.
    """
    if not path.is_file():
        return Lines(())
    rows: list[Row] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            fields = parse_object(line)
            if fields is None and not line.endswith(b"\n"):
                return Lines(tuple(rows), torn=True)
            where = f"{path.name}, line {number}"
            if fields is None:
                raise UserError(f"{where}: not a JSON object; mend or delete that line of {path}")
            rows.append(Row(where, fields))
    return Lines(tuple(rows))
