"""Bank files: read with suspicion, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from sgsd.bank.skill_bank import Bank, bank_of, bank_record
from sgsd.bank.text import NotJson
from sgsd.files import write_atomic
from sgsd.types import UserError

MAX_FILE_BYTES = 64 * 2**20
MAX_INT_DIGITS = 308
SQLITE_HEADER = b"SQLite format 3\x00"


def load_bank(path: Path | str) -> Bank:
    """Read a bank's published JSON; see `open_bank` for a file or a store.

    Raises:
        UserError: the file cannot be read or breaks a rule; the file, item and field are named.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"{path}: is larger than {MAX_FILE_BYTES // 2**20} MB; split the bank")
    if data.startswith(SQLITE_HEADER):
        raise UserError(f"{path}: is a bank store, not a JSON file; export it first")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    return parse_bank(text, str(path))


def parse_bank(text: str, source: str = "the bank") -> Bank:
    """Read a bank from a JSON text: with `dump_bank`, also the way to send a bank to another process.

    JSON's loose ends are refused where they stand: a key given twice, NaN and Infinity, numbers too large to hold.
    """
    try:
        record = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{source}: is not JSON at {place} ({error.msg}); mend the file") from None
    except RecursionError:
        raise UserError(f"{source}: is nested too deep to read; flatten it") from None
    if not isinstance(record, dict):
        raise UserError(f"{source}: must be a JSON object with general_skills and common_mistakes")
    return bank_of(record, source)


def dump_bank(bank: Bank) -> str:
    """Return the bank in the published JSON layout.

    Example:
        >>> parse_bank(dump_bank(Bank())) == Bank()
        True
    """
    return json.dumps(bank_record(bank), indent=2, ensure_ascii=False, allow_nan=False)


def save_bank(bank: Bank, path: Path | str) -> None:
    """Write the bank so that `path` holds either what it held before or the whole new file, also after kill -9.

    The text goes to a hidden file beside `path`, reaches the disk, and takes the name in one step. A kill may leave
    the hidden file behind, never a half-written `path`.
    """
    target = Path(os.path.realpath(path))  # a link stays a link: what it points to is replaced
    try:
        write_atomic(target, dump_bank(bank), shared=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); check the folder and the disk") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        made |= {key: NotJson("is given more than once; keep one") for key, count in counts.items() if count > 1}
    return made


def _constant(name: str) -> NotJson:
    return NotJson(f"has the number {name}, which JSON cannot hold; remove it")


def _float(digits: str) -> float | NotJson:
    number = float(digits)
    return number if abs(number) != float("inf") else _constant(digits[:40])


def _int(digits: str) -> int | NotJson:
    if len(digits) > MAX_INT_DIGITS:
        return NotJson(f"has a number of {len(digits):,} digits; write it as a string")
    return int(digits)
