"""The store: a log that only grows, whose fold is the bank."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bank_schema import BANKS, NAMES

from sgsd.bank import Bank, BankStore, Kind, dump_bank, load_bank, open_bank
from sgsd.bank.history import Change, State, changes_between, state_of
from sgsd.types import Mistake, Skill, UserError


def fold(changes: list[Change]) -> State:
    state = State()
    for change in changes:
        state.apply(change)
    return state


def skill(name: str, title: str = "t") -> Skill:
    return Skill(name, title, "p", "w")


def mistake(name: str, description: str = "d") -> Mistake:
    return Mistake(name, description, "w", "h")


ONE = Bank((skill("a"), skill("b"), skill("c")), (mistake("m"), mistake("n")), {"source": "one"})
TWO = Bank((skill("a"), skill("c", "new"), skill("d")), (mistake("m"), mistake("n")), {"source": "two"})


def kinds(events: list) -> list[tuple[str, str]]:
    return [(str(event.change.kind), event.change.item_id) for event in events]


@pytest.mark.shared
@pytest.mark.parametrize("name", NAMES)
def test_the_real_banks_come_back_from_the_store(name: str, tmp_path: Path) -> None:
    path = BANKS / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine: the real banks are not part of this project")
    bank = load_bank(path)
    with BankStore(tmp_path / "bank.db") as store:
        store.import_bank(bank, "published")
        assert store.export(tmp_path / "out.json") == bank
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == json.loads(path.read_text("utf-8"))
    assert open_bank(tmp_path / "bank.db").version == bank.version


def test_an_import_is_a_log_of_what_changed(tmp_path: Path) -> None:
    with BankStore(tmp_path / "bank.db") as store:
        assert store.event == 0
        assert store.snapshot() == Bank()
        first = store.import_bank(ONE, "first")
        assert kinds(first) == [("created", name) for name in "abcmn"] + [("described", "")]
        assert [event.seq for event in first] == [1, 2, 3, 4, 5, 6]
        second = store.import_bank(TWO, "second")
        assert kinds(second) == [("retired", "b"), ("edited", "c"), ("created", "d"), ("described", "")]
        assert store.events() == first + second
        assert {event.note for event in second} == {"second"}
        assert store.event == 10
        assert store.snapshot() == TWO
        back = store.import_bank(ONE, "back again")
        assert kinds(back) == [
            ("retired", "c"),
            ("retired", "d"),
            ("restored", "b"),
            ("restored", "c"),
            ("described", ""),
        ]
        assert store.snapshot() == ONE


def test_every_event_of_the_past_can_be_read(tmp_path: Path) -> None:
    with BankStore(tmp_path / "bank.db") as store:
        store.import_bank(ONE)
        store.import_bank(TWO)
        assert store.snapshot(0) == Bank()
        assert store.snapshot(2) == Bank(ONE.skills[:2])
        assert store.snapshot(6) == ONE
        assert store.snapshot(7).skills == (ONE.skills[0], ONE.skills[2])
        assert store.snapshot(10) == store.snapshot() == TWO
        for event in (-1, 11):
            with pytest.raises(UserError, match="the latest is 10"):
                store.snapshot(event)
        assert store.export(tmp_path / "one.json", event=6) == ONE
        assert load_bank(tmp_path / "one.json") == ONE


def test_importing_the_same_content_again_adds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    with BankStore(path) as store:
        store.import_bank(ONE)
    before = path.read_bytes()
    with BankStore(path) as store:
        assert store.import_bank(ONE, "another note") == []
        assert store.import_bank(store.snapshot()) == []
    assert path.read_bytes() == before


def test_versions_are_one_an_import(tmp_path: Path) -> None:
    with BankStore(tmp_path / "bank.db") as store:
        assert store.versions() == []
        for bank, note in [(ONE, "first"), (TWO, "second"), (TWO, "nothing new"), (ONE, "third")]:
            store.import_bank(bank, note)
        found = store.versions()
        assert [(v.event, v.version, v.skills, v.mistakes, v.note) for v in found] == [
            (6, ONE.version, 3, 2, "first"),
            (10, TWO.version, 3, 2, "second"),
            (15, ONE.version, 3, 2, "third"),
        ]
        assert all(store.snapshot(v.event).version == v.version for v in found)


def test_the_same_imports_make_the_same_file(tmp_path: Path) -> None:
    """Neither clock nor chance is stored."""
    for name in ("one.db", "two.db"):
        with BankStore(tmp_path / name) as store:
            store.import_bank(ONE, "n")
            store.import_bank(TWO, "n")
    assert (tmp_path / "one.db").read_bytes() == (tmp_path / "two.db").read_bytes()


@st.composite
def banks(draw: st.DrawFn) -> Bank:
    """Few ids and fewer texts: two banks share items, move and change them, and turn skills into mistakes."""
    names = draw(st.lists(st.sampled_from("abcdef"), unique=True))
    texts = draw(st.lists(st.sampled_from("tu"), min_size=len(names), max_size=len(names)))
    split = draw(st.integers(0, len(names)))
    items = list(zip(names, texts, strict=True))
    return Bank(
        skills=tuple(skill(*item) for item in items[:split]),
        mistakes=tuple(mistake(*item) for item in items[split:]),
        metadata=draw(st.sampled_from([{}, {"a": 1}, {"a": 1.0}, {"a": True}])),
    )


@settings(max_examples=150, deadline=None)
@given(before=banks(), after=banks())
def test_changes_lead_from_any_bank_to_any_other(before: Bank, after: Bank) -> None:
    first, second = state_of(before), state_of(after)
    opening = changes_between(State(), first)
    state = fold([*opening, *changes_between(fold(opening), second)])
    assert list(state.skills.items()) == list(second.skills.items())
    assert list(state.mistakes.items()) == list(second.mistakes.items())
    assert state.metadata == second.metadata
    assert state.version == after.version
    assert changes_between(state, second) == []
    assert changes_between(first, first) == []


@settings(max_examples=15, deadline=None)
@given(history=st.lists(banks(), max_size=4))
def test_any_history_can_be_read_back(history: list[Bank], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("history") / "bank.db"
    ends = []
    with BankStore(path) as store:
        for bank in history:
            store.import_bank(bank)
            ends.append(store.event)
    with BankStore(path, read_only=True) as store:
        for bank, end in zip(history, ends, strict=True):
            snapshot = store.snapshot(end)
            assert snapshot == bank
            assert json.loads(dump_bank(snapshot)) == json.loads(dump_bank(bank))


def test_appending_and_editing_move_nothing() -> None:
    longer = Bank((*ONE.skills, skill("z")), ONE.mistakes, ONE.metadata)
    changes = changes_between(state_of(ONE), state_of(longer))
    assert [(change.kind, change.item_id) for change in changes] == [(Kind.CREATED, "z")]
    edited = Bank((skill("a", "x"), *ONE.skills[1:]), ONE.mistakes, ONE.metadata)
    changes = changes_between(state_of(ONE), state_of(edited))
    assert [(change.kind, change.item_id) for change in changes] == [(Kind.EDITED, "a")]


def test_the_history_cannot_be_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    with BankStore(path) as store:
        store.import_bank(ONE)
    with sqlite3.connect(path) as other:
        for attack in (
            "UPDATE events SET kind = 'retired'",
            "DELETE FROM events",
            "UPDATE contents SET json = '{}'",
            "DELETE FROM contents",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="never rewritten"):
                other.execute(attack)
    other.close()


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    with BankStore(path) as store:
        store.import_bank(ONE)
    with BankStore(path, read_only=True) as reader:
        with pytest.raises(UserError, match="open for reading only"):
            reader.import_bank(TWO)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader._connection.execute("INSERT INTO contents VALUES ('h', 'skill', '{}')")
        assert reader.snapshot() == ONE


def test_the_journal_is_one_that_network_file_systems_bear(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    with BankStore(path) as store:
        store.import_bank(ONE)
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA journal_mode = WAL")
    other.close()
    with BankStore(path) as store:
        assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_reader_sees_what_a_writer_commits(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    with BankStore(path) as writer:
        writer.import_bank(ONE)
        with BankStore(path, read_only=True) as reader:
            writer.import_bank(TWO)
            assert reader.snapshot() == TWO


def test_the_content_decides_what_a_file_is(tmp_path: Path) -> None:
    with BankStore(tmp_path / "store.json") as store:
        store.import_bank(ONE)
    (tmp_path / "file.db").write_text(dump_bank(TWO), encoding="utf-8")
    assert open_bank(tmp_path / "store.json") == ONE
    assert open_bank(str(tmp_path / "file.db")) == TWO
    with pytest.raises(UserError, match="cannot be read"):
        open_bank(tmp_path / "absent")


def test_a_path_is_a_path_whatever_its_letters(tmp_path: Path) -> None:
    folder = tmp_path / "a folder? with #, % and é"
    folder.mkdir()
    with BankStore(folder / "b?mode=ro.db") as store:
        store.import_bank(ONE)
    assert open_bank(folder / "b?mode=ro.db") == ONE
