"""SQLite as the store needs it: readers that cannot write, transactions that end, errors that say what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from sgsd.bank.bank_files import SQLITE_HEADER
from sgsd.types import UserError

LOCK_SECONDS = 30.0

_REMEDIES = {
    "SQLITE_BUSY": "another process is writing to it: wait, or let one process own the store",
    "SQLITE_NOTADB": "give another path",
    "SQLITE_READONLY": "make the file and its folder writable",
    "SQLITE_CANTOPEN": "check that the folder exists and can be written",
    "SQLITE_FULL": "free some disk space",
}


def is_store(path: Path | str) -> bool:
    """Tell by the first bytes whether the file is SQLite; False where it cannot be read."""
    with suppress(OSError), open(path, "rb") as file:
        return file.read(len(SQLITE_HEADER)) == SQLITE_HEADER
    return False


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open the file, or make it (writers only). Transactions are the caller's, by `transaction`.

    Raises `UserError` where the file is no SQLite file, or where a reader finds none.
    """
    if path.exists():
        _require_header(path)
    elif read_only:
        raise UserError(f"{path}: there is no such store; check the path")
    if read_only:
        _roll_back_killed_writer(path)
    return sqlite3.connect(
        _uri(path, "ro" if read_only else "rwc"), uri=True, isolation_level=None, timeout=LOCK_SECONDS
    )


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str) -> Iterator[None]:
    """All or nothing: committed at the end of the block, rolled back when anything is raised in it."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:  # SQLite has already rolled back by itself where the disk was full
            connection.execute("ROLLBACK")


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """SQLite's errors as one line with a way out; misuse of the library stays what it is, a bug."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
        raise
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where the file's own schema is damaged
        name = getattr(error, "sqlite_errorname", "")
        remedy = next((text for prefix, text in _REMEDIES.items() if name.startswith(prefix)), "restore it from a copy")
        raise UserError(f"{path}: cannot be used as a bank store ({_one_line(error)}); {remedy}") from error


def _one_line(error: Exception) -> str:
    return " ".join(ascii(str(error))[1:-1].split())


def _uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"


def _require_header(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            header = file.read(len(SQLITE_HEADER))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if header and header != SQLITE_HEADER:  # an empty file is what a writer killed at its start leaves behind
        raise UserError(f"{path}: is not a bank store (no SQLite header); give another path")


def _roll_back_killed_writer(path: Path) -> None:
    """Undo the half-written transaction of a killed writer, which SQLite does not do for a read-only connection.

    Any read by a connection that may write does it. Where there is nothing to undo, or a live writer holds the lock,
    the read changes nothing; where it fails, the reader's own first read reports why.
    """
    if not path.with_name(path.name + "-journal").exists():
        return
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(_uri(path, "rw"), uri=True, timeout=LOCK_SECONDS)) as connection,
    ):
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
