"""Answers on disk, by a hash of who was asked and what: a build that is killed asks nothing twice."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sgsd.skills.writers.base import Request, WriterReply
from sgsd.types import UserError

_TABLE = """CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY NOT NULL,
    text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL
) WITHOUT ROWID"""


class AnswerCache:
    """One SQLite file; every answer is on disk before it is used. Questions are in it as hashes only.

    Raises:
        UserError: the file is not such a cache, or cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=30)
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        self._run(_TABLE)

    def get(self, writer: str, request: Request) -> WriterReply | None:
        query = "SELECT text, prompt_tokens, completion_tokens FROM answers WHERE key = ?"
        rows = self._run(query, (key_of(writer, request),))
        return WriterReply(*rows[0]) if rows else None

    def put(self, writer: str, request: Request, written: WriterReply) -> None:
        values = (key_of(writer, request), written.text, written.prompt_tokens, written.completion_tokens)
        self._run("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", values)

    def forget(self, writer: str, requests: Iterable[Request]) -> None:
        """Drop answers, so that they are asked for again."""
        for request in requests:
            self._run("DELETE FROM answers WHERE key = ?", (key_of(writer, request),))

    def __len__(self) -> int:
        return int(self._run("SELECT count(*) FROM answers")[0][0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def _run(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.Error) -> UserError:
        return UserError(
            f"{self.path}: cannot hold a writer's answers ({error}); look at folder and disk, or remove the file"
        )


def key_of(writer: str, request: Request) -> str:
    """SHA-256 of the writer's name and the request."""
    return hashlib.sha256(f"{writer}\n{request.identity()}".encode("utf-8", "surrogatepass")).hexdigest()
