"""Forks of a bank's history: the past as it was, the abandoned future beside it, and no half-written file."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from sgsd.bank import Bank, BankStore, Event, Kind, Origin, branch_store, item_history, rewind_store
from sgsd.types import Mistake, Skill, UserError

ONE = Bank((Skill("a", "t", "p", "w"), Skill("b", "t", "p", "w")), (Mistake("m", "d", "w", "h"),), {"source": "one"})
TWO = Bank((Skill("a", "new", "p", "w"), Skill("c", "t", "p", "w")), (), {"source": "two"})
THREE = Bank((Skill("b", "t", "p", "w"),), (Mistake("m", "d", "w", "h"),))


def make(path: Path, *banks: Bank) -> list[int]:
    """A store with an import of each bank; returns the event after each."""
    with BankStore(path) as store:
        return [store.import_bank(bank, f"number {n}")[-1].seq for n, bank in enumerate(banks)]


def history(path: Path) -> list[Event]:
    with BankStore(path, read_only=True) as store:
        return store.events()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_back_to_an_event_with_the_rest_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "bank.sqlite"
    ends = make(path, ONE, TWO, THREE)
    whole = history(path)
    assert rewind_store(path, ends[1]) == TWO
    assert names(tmp_path) == ["bank.abandoned-1.sqlite", "bank.sqlite"]
    assert history(path) == whole[: ends[1]]
    assert history(tmp_path / "bank.abandoned-1.sqlite") == whole
    with BankStore(path) as store:  # it goes on from there as if nothing had come after
        assert store.import_bank(THREE, "number 2") == whole[ends[1] :]
    assert history(path) == whole
    assert rewind_store(path, ends[0]) == ONE
    assert names(tmp_path) == ["bank.abandoned-1.sqlite", "bank.abandoned-2.sqlite", "bank.sqlite"]


def test_nothing_to_forget_is_nothing_to_write(tmp_path: Path) -> None:
    path = tmp_path / "bank.sqlite"
    (end,) = make(path, ONE)
    before = path.stat()
    assert rewind_store(path, end) == ONE
    assert names(tmp_path) == ["bank.sqlite"]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_contents_of_later_events_go_and_events_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bank.sqlite"
    ends = make(path, ONE, TWO)
    with pytest.raises(UserError, match="has no event 99"):
        rewind_store(path, 99)
    with pytest.raises(UserError, match="there is no such store"):
        rewind_store(tmp_path / "nowhere.sqlite", 0)
    assert rewind_store(path, ends[0]) == ONE
    with sqlite3.connect(path) as connection:
        (contents,) = connection.execute("SELECT count(*) FROM contents").fetchone()
    connection.close()
    assert contents == len(ONE) + 1
    assert rewind_store(path, 0) == Bank()


@pytest.mark.parametrize("fatal", [1, 2], ids=["setting aside", "going back"])
def test_a_fork_that_fails_leaves_the_bank_and_no_obstacle(
    fatal: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bank.sqlite"
    ends = make(path, ONE, TWO)
    whole, calls, plain = history(path), [0], os.replace

    def full(*arguments: Path) -> None:
        calls[0] += 1
        if calls[0] == fatal:
            raise OSError("no space left on device")
        plain(*arguments)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        rewind_store(path, ends[0])
    assert history(path) == whole
    monkeypatch.undo()
    (tmp_path / ".bank.sqlite.tmp-journal").write_bytes(b"half a transaction")  # as kill -9 would leave it
    assert rewind_store(path, ends[0]) == ONE
    assert history(path) == whole[: ends[0]]
    assert not [name for name in names(tmp_path) if name.startswith(".") and name != ".bank.abandoned-1.sqlite.tmp"]


def test_origins_go_along_and_memories_stay(tmp_path: Path) -> None:
    path = tmp_path / "bank.sqlite"
    with BankStore(path) as store:
        store.remember({"r1": {"text": "one"}, "r2": {"text": "two"}})
        end = store.import_bank(ONE, origins={"a": Origin(("r1",))})[-1].seq
        store.import_bank(TWO, origins={"c": Origin(("r2",), ("b",))})
        origins = store.origins()
    rewind_store(path, end)
    with BankStore(path, read_only=True) as store:
        assert store.origins() == {seq: origin for seq, origin in origins.items() if seq <= end} != origins
        assert store.memory("r1") == {"text": "one"}


@pytest.mark.parametrize("number", [0, 1, 2, 3], ids=["empty", "one", "two", "no metadata"])
def test_a_branch_begins_with_a_mark_that_changes_nothing(number: int, tmp_path: Path) -> None:
    path, branch = tmp_path / "bank.sqlite", tmp_path / "branch.sqlite"
    end = [0, *make(path, ONE, TWO, THREE)][number]
    past = history(path)[:end]
    bank = branch_store(path, branch, end, "here it begins")
    assert bank == [Bank(), ONE, TWO, THREE][number]
    *before, mark = history(branch)
    assert before == past
    assert (mark.seq, mark.batch) == (end + 1, number + 1)
    assert (mark.change.kind, mark.change.item_id, mark.note) == (Kind.DESCRIBED, "", "here it begins")
    with BankStore(branch) as store:
        assert store.snapshot() == store.snapshot(end) == bank
        assert [version.version for version in store.versions()][-1] == bank.version
        assert store.import_bank(bank) == []
        assert store.import_bank(TWO if number != 2 else ONE)[0].batch == number + 2


def test_a_branch_tells_the_lives_of_its_items(tmp_path: Path) -> None:
    path, branch = tmp_path / "bank.sqlite", tmp_path / "branch.sqlite"
    with BankStore(path) as store:
        store.remember({"r1": {"text": "one"}})
        store.import_bank(ONE, origins={"a": Origin(("r1",)), "b": Origin(("r1",))})
        end = store.import_bank(TWO, origins={"c": Origin(("r1",), ("b",))})[-1].seq
        told = item_history(store, "c")
    assert told.memories
    branch_store(path, branch, end, "here it begins")
    with BankStore(branch, read_only=True) as store:
        assert item_history(store, "c") == told


def test_a_branch_replaces_nothing_and_has_a_clean_note(tmp_path: Path) -> None:
    path, branch = tmp_path / "bank.sqlite", tmp_path / "branch.sqlite"
    make(path, ONE)
    for target in (path, tmp_path):
        with pytest.raises(UserError, match="branched off into a new one"):
            branch_store(path, target, 1, "mark")
    with pytest.raises(UserError, match="the note of a branch has"):
        branch_store(path, branch, 1, "two\nlines")
    with pytest.raises(UserError, match="has no event 99"):
        branch_store(path, branch, 99, "mark")
    assert names(tmp_path) == ["bank.sqlite"]
