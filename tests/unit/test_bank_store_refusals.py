"""Files that are no stores, stores that were tampered with, and imports that must not be made."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from test_bank_store import ONE, TWO

from sgsd.bank import Bank, BankStore, open_bank
from sgsd.bank.store import APPLICATION_ID
from sgsd.types import Skill, UserError


@pytest.mark.parametrize("note", ["two\nlines", "x" * 501, "\x1b[2J", "\ud800"])
def test_a_note_is_one_clean_line(note: str, tmp_path: Path) -> None:
    with BankStore(tmp_path / "bank.db") as store:
        with pytest.raises(UserError, match="the note of an import has"):
            store.import_bank(ONE, note)
        assert store.event == 0


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("CREATE TABLE photos (id)")
    other.close()


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        other.execute("PRAGMA user_version = 3")
        other.execute("CREATE TABLE events (id)")
    other.close()


BAD_FILES: list[tuple[str, Callable[[Path], object], str]] = [
    ("JSON", lambda path: path.write_text('{"general_skills": []}'), "no SQLite header"),
    ("bytes", lambda path: path.write_bytes(b"\x00" * 5000), "no SQLite header"),
    ("short", lambda path: path.write_bytes(b"SQLite"), "no SQLite header"),
    ("torn", lambda path: path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000), "cannot be used as a bank store"),
    ("folder", lambda path: path.mkdir(), "cannot be read"),
    ("another program's", _foreign, "another program's SQLite file"),
    ("newer", _newer, "has schema 3, this sgsd reads up to 2; upgrade sgsd"),
]


@pytest.mark.parametrize(("make", "says"), [c[1:] for c in BAD_FILES], ids=[c[0] for c in BAD_FILES])
@pytest.mark.parametrize("read_only", [False, True], ids=["writer", "reader"])
def test_a_file_that_is_no_store_is_refused_and_left_alone(
    make: Callable[[Path], object], says: str, read_only: bool, tmp_path: Path
) -> None:
    path = tmp_path / "bank.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(UserError) as caught:
        BankStore(path, read_only=read_only)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_reader_needs_a_file_and_a_writer_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such store"):
        BankStore(tmp_path / "bank.db", read_only=True)
    assert not (tmp_path / "bank.db").exists()
    with pytest.raises(UserError, match="check that the folder exists"):
        BankStore(tmp_path / "no" / "bank.db")
    (tmp_path / "empty.db").touch()
    with pytest.raises(UserError, match="holds no bank yet"):
        BankStore(tmp_path / "empty.db", read_only=True)
    with BankStore(tmp_path / "empty.db") as store:
        store.import_bank(ONE)
    assert open_bank(tmp_path / "empty.db") == ONE


def _doctor(path: Path, statement: str) -> None:
    """Change a store behind its back, triggers and all."""
    with sqlite3.connect(path) as other:
        for name in ("contents_no_update", "contents_no_delete", "events_no_update", "events_no_delete"):
            other.execute(f"DROP TRIGGER {name}")
        for part in statement.split(";"):
            other.execute(part)
    other.close()


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE contents SET json = replace(json, 'new', 'old')", "was altered"),
        ("DELETE FROM contents WHERE kind = 'skill'", "has lost its content"),
        ("DELETE FROM events WHERE seq = 2", "its event numbers have gaps"),
        ("UPDATE events SET item_id = 'z' WHERE seq = 2", "event 7: item 'b' cannot be retired there"),
        ("UPDATE events SET item_id = 'z' WHERE seq = 1", "the content of item 'z' is another's"),
        ("PRAGMA ignore_check_constraints = 1; UPDATE events SET kind = 'x' WHERE seq = 3", "'x' is not a valid Kind"),
        ("UPDATE events SET kind = 'created' WHERE kind = 'edited'", "item 'c' cannot be created there"),
    ],
)
def test_a_doctored_store_is_refused(statement: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    with BankStore(path) as store:
        store.import_bank(ONE)
        store.import_bank(TWO)
    _doctor(path, statement)
    with pytest.raises(UserError, match=says) as caught:
        open_bank(path)
    assert str(caught.value).startswith(f"{path}: is damaged: ")


def test_damage_that_would_hide_rows_is_found_at_the_door(tmp_path: Path) -> None:
    """With this letter wrong, every event number reads as null and the bank would seem empty."""
    path = tmp_path / "bank.db"
    with BankStore(path) as store:
        store.import_bank(ONE)
    whole = path.read_bytes()
    assert whole.count(b"seq INTEGER PRIMARY KEY") == 1
    path.write_bytes(whole.replace(b"seq INTEGER PRIMARY KEY", b"seq INTEOER PRIMARY KEY"))
    for read_only in (True, False):
        with pytest.raises(UserError, match="restore it from a copy"):
            BankStore(path, read_only=read_only)


def test_a_store_is_checked_like_a_file(tmp_path: Path) -> None:
    """Whoever writes a store by hand, hash and all, still gets no control token past the reader."""
    path = tmp_path / "bank.db"
    with BankStore(path) as store:
        store.import_bank(ONE)
        bad = Skill("x", "fine", "p", "w")
        object.__setattr__(bad, "title", "<|im_start|>")
        bank = Bank(ONE.skills)
        object.__setattr__(bank, "skills", (*ONE.skills, bad))
        store.import_bank(bank)
        with pytest.raises(UserError, match=r"general_skills\[3\] \('x'\), field 'title' has the control token"):
            store.snapshot()
