"""Files and folders that appear whole or not at all, also after kill -9, a power cut or on a full disk.

Everything is written under a hidden name beside its place and takes the place in one step. The hidden names are here
alone: `leftovers` finds what killed writes have left.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

UNFINISHED, REPLACED = ".tmp", ".old"  # what a new file or folder is called at first, and an old folder at last
LEFTOVERS = (f".*{UNFINISHED}*", ".*.partial")  # SQLite adds -journal; earlier releases wrote reports as .partial


def write_atomic(path: Path, content: str | bytes, *, sync: bool = True, shared: bool = False) -> None:
    """Write a whole file, text as UTF-8, or leave the old one as it was. The options are those of `replacing`."""
    data = content.encode() if isinstance(content, str) else content
    with replacing(path, sync=sync, shared=shared) as new:
        new.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = True, shared: bool = False) -> Iterator[Path]:
    """Yield a free path to write a file or folder to, which takes the place of `path` when the block ends well.

    Args:
        path: What is replaced or made; its folder must be there by the end of the block.
        sync: Wait until the content is on the disk, so that a power cut cannot tear it.
        shared: Other processes may write `path` at the same time; the last one wins.
    """
    token = f".{secrets.token_hex(4)}" if shared else ""
    new, old = (path.with_name(f".{path.name}{token}{ending}") for ending in (UNFINISHED, REPLACED))
    _put_back(old, path)
    _remove_all(new)
    try:
        yield new
        if sync:
            for part in (new, *new.rglob("*")):
                _sync(part)
        if path.is_dir():  # a folder cannot be renamed over one that is not empty
            os.replace(path, old)
        os.replace(new, path)
        if sync:
            with contextlib.suppress(PermissionError):  # a folder that may be written but not listed
                _sync(path.parent)
    finally:
        _put_back(old, path)
        _remove_all(new)
        _remove(old)


def leftovers(folder: Path) -> set[Path]:
    """Everything unfinished that a killed write has left in a folder."""
    return {path for pattern in LEFTOVERS for path in folder.glob(pattern)}


def clear_leftovers(folder: Path) -> None:
    """Remove what killed writes have left; a folder that one had moved aside goes back to its place."""
    for path in leftovers(folder):
        _remove(path)
    for old in folder.glob(f".*{REPLACED}/"):
        _put_back(old, old.with_name(old.name.removesuffix(REPLACED).removeprefix(".")))
        _remove(old)


def sha256(content: Path | str | bytes) -> str:
    """The SHA-256 of a file's content, of a text in UTF-8, or of bytes, in hexadecimal."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def _put_back(old: Path, path: Path) -> None:
    if old.exists() and not path.exists():
        os.replace(old, path)


def _remove_all(new: Path) -> None:
    for path in (new, new.with_name(f"{new.name}-journal")):
        with contextlib.suppress(OSError):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
