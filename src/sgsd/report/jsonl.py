"""JSON Lines files as rows that know where they stand, so that every complaint names file, line and field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgsd.types import UserError

# Beyond this a number is no measurement but an overflow, and it would overflow our own sums as well.
LARGEST = 1e30


def as_float(value: Any) -> float | None:
    """A JSON number as a float (NaN, infinities and overflows as NaN); None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if abs(number) <= LARGEST else math.nan


@dataclass(frozen=True, slots=True)
class Row:
    """One JSON object and the place it was read from ("metrics.jsonl, line 3")."""

    where: str
    fields: Mapping[str, Any]

    def complain(self, key: str, wanted: str) -> UserError:
        got = json.dumps(self.fields.get(key), ensure_ascii=True)[:60]
        return UserError(f"{self.where}: field {key!r} should be {wanted}, not {got}; mend or delete the line")

    def number(self, key: str, default: float | None = None) -> float:
        value = self.fields.get(key, default)
        number = as_float(default if value is None else value)
        if number is None:
            raise self.complain(key, "a number")
        return number

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.fields.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 10**15:
            raise self.complain(key, "a whole number")
        return value

    def text(self, key: str) -> str:
        """The field as text; absent and null are empty, numbers are written out."""
        value = self.fields.get(key)
        if isinstance(value, Mapping | list):
            raise self.complain(key, "a text")
        return "" if value is None else str(value)

    def items(self, key: str) -> list[Any]:
        value = self.fields.get(key)
        if value is not None and not isinstance(value, list):
            raise self.complain(key, "a list")
        return value or []

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of numbers; null inside the list is NaN, an absent or null list is empty."""
        values = [math.nan if value is None else as_float(value) for value in self.items(key)]
        if any(value is None for value in values):
            raise self.complain(key, "a list of numbers")
        return tuple(value for value in values if value is not None)

    def rows(self, key: str) -> list[Row]:
        """A list of objects, each knowing its place."""
        values = self.items(key)
        if not all(isinstance(value, Mapping) for value in values):
            raise self.complain(key, "a list of objects")
        return [Row(f"{self.where}, {key}[{i}]", value) for i, value in enumerate(values)]


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

    Raises UserError naming file and line for a broken line, save an unfinished last one: that is what a run
    in progress, or one killed while writing, leaves behind.
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
