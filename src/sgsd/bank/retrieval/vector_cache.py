"""The vectors of texts, each made once and kept on disk; a damaged cache costs time, never a wrong vector."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np

from sgsd.bank.schema import hash_of
from sgsd.files import sha256, write_atomic
from sgsd.notices import warn
from sgsd.types import UserError

BLOCK_TEXTS = 1024  # embedded between two writes: what is lost when a long first embedding is killed
MANY_FILES = 64  # small files are joined when there are more
_FILE_NAME = re.compile(r"[0-9a-f]{64}\.npy")


class VectorCache:
    """The unit vectors of texts in one embedding space, in memory and, where a folder is given, on disk.

    The files are ROOT/<SHA-256 of the space>/<SHA-256 of the file>.npy, arrays of (SHA-256 of the text, vector) that
    are never changed: the name vouches for the content, and processes that write at the same time write different
    files. A damaged file is removed with a warning and its vectors are made again; where nothing can be written, a
    warning says so and nothing is kept.
    """

    def __init__(self, root: Path | None, space: str, dimension: int) -> None:
        self.dimension = dimension
        self._row = np.dtype([("key", "u1", (32,)), ("vector", "<f4", (dimension,))])
        self._folder = None if root is None else root / hash_of(space)
        self._known: dict[bytes, np.ndarray] = {}
        if self._folder is not None and self._folder.is_dir():
            self._read_all(self._folder)

    def vectors(self, texts: Sequence[str], embed: Callable[[list[str]], np.ndarray]) -> np.ndarray:
        """One float32 row [N, D] of length 1 for each text; `embed` makes those that are not known.

        Raises `UserError` where `embed` gives something that has no direction.
        """
        readable = [text.encode("utf-8", "replace").decode() for text in texts]  # JSON may hold half a character
        keys = [hashlib.sha256(text.encode()).digest() for text in readable]
        missing = {key: text for key, text in zip(keys, readable, strict=True) if key not in self._known}
        for block in _blocks(list(missing.items())):
            rows = np.empty(len(block), self._row)
            rows["key"] = [np.frombuffer(key, np.uint8) for key, _ in block]
            rows["vector"] = unit_rows(embed([text for _, text in block]))
            self._remember(rows)
            self._write(rows)
        return np.array([self._known[key] for key in keys], dtype=np.float32).reshape(len(keys), self.dimension)

    def _remember(self, rows: np.ndarray) -> None:
        for key, vector in zip(rows["key"], rows["vector"], strict=True):
            self._known.setdefault(key.tobytes(), vector)

    def _read_all(self, folder: Path) -> None:
        files = sorted(path for path in folder.iterdir() if _FILE_NAME.fullmatch(path.name))
        small: dict[Path, np.ndarray] = {}
        for path in files:
            rows = self._read(path)
            if rows is None:
                continue
            self._remember(rows)
            if len(rows) < BLOCK_TEXTS:
                small[path] = rows
        if len(small) > MANY_FILES and self._write(np.concatenate(list(small.values()))):
            for path in small:
                with suppress(OSError):
                    path.unlink()

    def _read(self, path: Path) -> np.ndarray | None:
        """The rows of an intact file; None, with a warning, for a damaged one."""
        try:
            if sha256(path) == path.stem:
                # Mapped: this way numpy reads plain arrays only, never a pickle, and none larger than its file.
                rows = np.array(np.lib.format.open_memmap(path, mode="r"))
                if rows.dtype == self._row and rows.ndim == 1 and _are_unit(rows["vector"]):
                    return rows
        except FileNotFoundError:
            return None  # another process has just joined it with others
        except (OSError, ValueError):
            pass
        warn(f"{path}: the cached vectors are damaged; they are removed and made again")
        with suppress(OSError):
            path.unlink()
        return None

    def _write(self, rows: np.ndarray) -> bool:
        """Put the rows on disk under the name of their content, whole or not at all."""
        if self._folder is None:
            return False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            content = BytesIO()
            np.save(content, rows, allow_pickle=False)
            data = content.getvalue()
            write_atomic(self._folder / f"{sha256(data)}.npy", data, sync=False, shared=True)
        except OSError as error:
            warn(f"{self._folder}: no vectors can be cached there ({error.strerror}); this run makes its own")
            self._folder = None
        return self._folder is not None


def unit_rows(vectors_ND: np.ndarray) -> np.ndarray:
    """Each row divided by its length, in float32; raises `UserError` for a row that has no direction."""
    wide_ND = np.asarray(vectors_ND, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths_N1 = np.linalg.norm(wide_ND, axis=1, keepdims=True)
    if not (np.isfinite(lengths_N1) & (lengths_N1 > 0.0)).all():
        raise UserError("the embedding model gives vectors that are zero or not finite; use dtype float32")
    return (wide_ND / lengths_N1).astype(np.float32)


def _are_unit(vectors_ND: np.ndarray) -> bool:
    lengths_N = np.linalg.norm(vectors_ND.astype(np.float64), axis=1)
    return bool((np.abs(lengths_N - 1.0) < 1e-3).all())


def _blocks(pairs: list[tuple[bytes, str]]) -> Iterator[list[tuple[bytes, str]]]:
    return (pairs[start : start + BLOCK_TEXTS] for start in range(0, len(pairs), BLOCK_TEXTS))
