"""Files and folders are replaced whole or left alone, and what a killed write leaves is found and cleared."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sgsd.files import clear_leftovers, leftovers, replacing, sha256, write_atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path, text: str) -> None:
    with replacing(folder) as new:
        new.mkdir()
        (new / "part").write_text(text)


def killed(work: Callable[[], None]) -> None:
    if (child := os.fork()) == 0:
        try:
            work()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_write_that_fails_leaves_the_old_content_and_no_debris(
    function: str, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write_atomic(tmp_path / "file", "old")
    fill(tmp_path / "folder", "old")
    monkeypatch.setattr(os, function, full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "file", b"new", shared=shared)
    with pytest.raises(OSError, match="No space"):
        fill(tmp_path / "folder", "new")
    monkeypatch.undo()
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "part").read_text() == "old"
    write_atomic(tmp_path / "file", "new", shared=shared)
    fill(tmp_path / "folder", "new")
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "part").read_text() == "new"


@pytest.mark.parametrize("deaths", [1, 2], ids=["before the old folder is moved", "between the two renames"])
def test_a_kill_costs_neither_the_old_folder_nor_the_new_one(deaths: int, tmp_path: Path) -> None:
    def die() -> None:
        plain, calls = os.replace, [0]

        def deadly(source: Path, target: Path) -> None:
            calls[0] += 1
            if calls[0] == deaths:
                os.kill(os.getpid(), signal.SIGKILL)
            plain(source, target)

        os.replace = deadly  # type: ignore[assignment]
        fill(tmp_path / "folder", "new")

    fill(tmp_path / "folder", "old")
    killed(die)
    assert [path.name for path in leftovers(tmp_path)] == [".folder.tmp"]
    clear_leftovers(tmp_path)
    assert names(tmp_path) == ["folder"]
    assert (tmp_path / "folder" / "part").read_text() == "old"
    killed(die)
    fill(tmp_path / "folder", "newer")
    assert names(tmp_path) == ["folder"]
    assert (tmp_path / "folder" / "part").read_text() == "newer"


def test_leftovers_of_every_release_are_cleared_and_nothing_else(tmp_path: Path) -> None:
    for name in (".a.json.tmp", ".a.sqlite.tmp-journal", ".a.0badcafe.tmp", ".report.html.4711.partial"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".step-000001.tmp").mkdir()
    for name in (".hidden", "draft.tmp", "a.partial", ".mine.old"):
        (tmp_path / name).write_text("mine")
    assert len(leftovers(tmp_path)) == 5
    clear_leftovers(tmp_path)
    assert names(tmp_path) == [".hidden", ".mine.old", "a.partial", "draft.tmp"]


def test_one_hash_for_files_texts_and_bytes(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "größer ≥\r\n")
    expected = hashlib.sha256("größer ≥\r\n".encode()).hexdigest()
    assert sha256(tmp_path / "file") == sha256("größer ≥\r\n") == sha256("größer ≥\r\n".encode()) == expected
