"""Where items come from, in the store; and stores of the first schema, which knew nothing of it."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path

import pytest
from test_bank_store import ONE, TWO, kinds, mistake, skill

from sgsd.bank import Bank, BankStore, Kind, Origin, open_bank
from sgsd.bank.schema import canonical_json, content_hash, item_record
from sgsd.bank.store import APPLICATION_ID, SCHEMA_VERSION
from sgsd.types import UserError

# The first schema to the letter, as released stores have it.
SCHEMA_1 = (
    """CREATE TABLE contents (
        hash TEXT PRIMARY KEY NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('skill', 'mistake', 'metadata')),
        json TEXT NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE events (
        seq INTEGER PRIMARY KEY NOT NULL,
        batch INTEGER NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('created', 'edited', 'retired', 'restored', 'described')),
        item_id TEXT NOT NULL,
        content_hash TEXT NOT NULL REFERENCES contents (hash),
        note TEXT NOT NULL
    )""",
    *(
        f"""CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table}
        BEGIN SELECT RAISE(ABORT, 'the history of a bank is never rewritten'); END"""
        for table in ("contents", "events")
        for verb in ("UPDATE", "DELETE")
    ),
)


def old_store(path: Path) -> None:
    """ONE, and then "a" retired, as the first schema holds them."""
    with sqlite3.connect(path, isolation_level=None) as old:
        for statement in SCHEMA_1:
            old.execute(statement)
        old.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        old.execute("PRAGMA user_version = 1")
        rows = [("skill", item.id, content_hash(item), canonical_json(item_record(item))) for item in ONE.skills]
        rows += [("mistake", item.id, content_hash(item), canonical_json(item_record(item))) for item in ONE.mistakes]
        about = canonical_json(dict(ONE.metadata))
        rows.append(("metadata", "", hashlib.sha256(about.encode()).hexdigest(), about))
        for seq, (kind, name, digest, text) in enumerate(rows, start=1):
            old.execute("INSERT INTO contents VALUES (?, ?, ?)", (digest, kind, text))
            event = "described" if kind == "metadata" else "created"
            old.execute("INSERT INTO events VALUES (?, 1, ?, ?, ?, 'first')", (seq, event, name, digest))
        old.execute("INSERT INTO events VALUES (7, 2, 'retired', 'a', ?, 'second')", (rows[0][2],))
    old.close()


def layout(path: Path) -> set[tuple[str, str, str]]:
    with sqlite3.connect(path) as store:
        rows = set(store.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert store.execute("PRAGMA foreign_key_check").fetchone() is None
        assert store.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    store.close()
    return rows


def test_a_store_of_the_first_schema_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    old_store(path)
    before = path.read_bytes()
    with BankStore(path, read_only=True) as store:
        assert store.snapshot(6) == ONE
        assert store.snapshot().skills == ONE.skills[1:]
        assert store.origins() == {}
        assert store.memory("m") is None
    assert open_bank(path).skills == ONE.skills[1:]
    assert path.read_bytes() == before


def test_a_store_of_the_first_schema_becomes_one_of_the_second_and_goes_on(tmp_path: Path) -> None:
    path, fresh = tmp_path / "bank.db", tmp_path / "fresh.db"
    old_store(path)
    with BankStore(path, read_only=True) as store:
        events, versions = store.events(), store.versions()
    with BankStore(path) as store:
        assert (store.events(), store.versions()) == (events, versions)
        assert store.snapshot(6) == ONE
        assert kinds(store.import_bank(ONE)) == [("retired", "b"), ("retired", "c"), *(("restored", n) for n in "abc")]
        store.remember({"m1": {"index": 1}})
        later = store.import_bank(TWO, origins={"d": Origin(("m1",), ("b",))})
        assert ("merged", "d") in kinds(later)
        assert store.origins()[later[-2].seq] == Origin(("m1",), ("b",))
    BankStore(fresh).close()
    assert layout(path) == layout(fresh)
    with BankStore(path) as store:  # and nothing is done twice
        assert store.snapshot() == TWO
        assert store.memory("m1") == {"index": 1}


@pytest.mark.parametrize("table", ["contents", "events", "origins", "memories"])
@pytest.mark.parametrize("old", [True, False], ids=["migrated", "fresh"])
def test_no_table_is_ever_rewritten(table: str, old: bool, tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    if old:
        old_store(path)
    with BankStore(path) as store:
        store.remember({"m1": {}})
        store.import_bank(TWO, origins={"d": Origin(("m1",), ("b",))})
    with sqlite3.connect(path) as other:
        column = other.execute(f"SELECT name FROM pragma_table_info('{table}')").fetchone()[0]
        for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET {column} = {column}"):
            with pytest.raises(sqlite3.IntegrityError, match="never rewritten"):
                other.execute(statement)
    other.close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    old_store(path)
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE memories (id)")  # in the way of the last of its steps
    other.close()
    before = path.read_bytes()
    with pytest.raises(UserError, match="cannot be used as a bank store"):
        BankStore(path)
    assert path.read_bytes() == before
    assert open_bank(path).skills == ONE.skills[1:]


def test_origins_come_back_sorted_by_event(tmp_path: Path) -> None:
    origins = {
        "a": Origin(("m2", "m1")),
        "d": Origin(("m3",), ("c", "b")),
        "m": Origin(),
        "nobody": Origin(("m9",), ("a",)),
    }
    with BankStore(tmp_path / "bank.db") as store:
        first = store.import_bank(ONE, origins=origins)
        second = store.import_bank(TWO, origins=origins)
        assert kinds(second) == [("retired", "b"), ("edited", "c"), ("merged", "d"), ("described", "")]
        assert store.origins() == {1: Origin(("m1", "m2")), second[2].seq: Origin(("m3",), ("b", "c"))}
        assert store.import_bank(TWO, origins=origins) == []
        assert first[0].change.kind is Kind.CREATED
    with BankStore(tmp_path / "bank.db", read_only=True) as store:
        assert len(store.origins()) == 2


def test_an_item_that_stands_for_more_than_before_says_so_once(tmp_path: Path) -> None:
    bank = Bank((skill("a"), skill("b"), skill("c")), (mistake("m"),))
    with BankStore(tmp_path / "bank.db") as store:
        store.import_bank(bank)
        smaller = Bank((skill("a"), skill("c")), bank.mistakes)
        took = {"a": Origin(("m1",), ("b",)), "c": Origin(("m2",))}
        assert kinds(store.import_bank(smaller, origins=took)) == [("retired", "b"), ("merged", "a")]
        assert store.snapshot() == smaller
        assert store.import_bank(smaller, origins=took) == []
        smallest = Bank((skill("a"),), bank.mistakes)
        took = {"a": Origin(("m1",), ("b", "c"))}
        events = store.import_bank(smallest, origins=took)
        assert kinds(events) == [("retired", "c"), ("merged", "a")]
        assert store.origins()[events[-1].seq] == took["a"]
        assert store.snapshot() == smallest
        assert [version.skills for version in store.versions()] == [3, 2, 1]
        assert kinds(store.import_bank(bank)) == [("restored", "b"), ("restored", "c")]


def test_memories_come_back_and_the_first_to_come_stays(tmp_path: Path) -> None:
    tricky = {"solution": 'a "b" \\frac \u2028 é \ud800 </think>', "index": 3, "correct": True}
    path = tmp_path / "bank.db"
    with BankStore(path) as store:
        store.remember({"m1": tricky, "m2": {}})
        store.remember({"m1": {"index": 4}})
        store.remember({})
        assert store.memory("m1") == tricky
        assert store.memory("m2") == {}
        assert store.memory("m3") is None
        assert store.event == 0
    with BankStore(path, read_only=True) as store:
        assert store.memory("m1") == tricky
        with pytest.raises(UserError, match="open for reading only"):
            store.remember({"m4": {}})
    with sqlite3.connect(path) as other:
        other.execute("INSERT INTO memories VALUES ('m5', '{')")
    other.close()
    with (
        BankStore(path, read_only=True) as store,
        pytest.raises(UserError, match="is damaged: memory 'm5' is not JSON"),
    ):
        store.memory("m5")


def test_equal_imports_with_origins_make_equal_files(tmp_path: Path) -> None:
    for name in ("one.db", "two.db"):
        with BankStore(tmp_path / name) as store:
            store.remember({"m1": json.loads('{"b": 1, "a": 2}')})
            store.import_bank(ONE, "n")
            store.import_bank(TWO, "n", {"d": Origin(("m1",), ("b", "a"))})
    assert (tmp_path / "one.db").read_bytes() == (tmp_path / "two.db").read_bytes()
