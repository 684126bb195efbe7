"""The way from an item back to its rollouts, roll-backs, and differences between banks."""

from __future__ import annotations

import importlib.util
import random
import sqlite3
import sys
import time
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bank_origins import old_store
from test_bank_store import ONE, TWO, kinds, mistake, skill

from sgsd.bank import Bank, BankStore, ItemHistory, Origin, diff_banks, item_history, parse_bank_reference, roll_back
from sgsd.types import UserError

DOCS = Path(__file__).parents[2] / "docs"


def memory(number: int, correct: bool = True) -> dict[str, object]:
    return {"index": number, "problem_id": f"p{number}", "problem": "1+1", "solution": "2", "correct": correct}


def numbers(life: ItemHistory) -> list[object]:
    return [found["index"] for found in life.own]


def family(path: Path) -> BankStore:
    """m1 → a, m2 → b, m3 → c; a takes b in, then d is merged of a and c, with a memory m4 that no parent has."""
    store = BankStore(path)
    store.remember({f"m{n}": memory(n) for n in range(1, 5)})
    first = Bank((skill("a"), skill("b"), skill("c")))
    store.import_bank(first, "proposed", {name: Origin((f"m{n}",)) for n, name in enumerate("abc", start=1)})
    second = Bank((skill("a"), skill("c")))
    store.import_bank(second, "layer 1", {"a": Origin(("m1", "m2"), ("b",)), "c": Origin(("m3",))})
    third = Bank((skill("d"),))
    store.import_bank(third, "layer 2", {"d": Origin(("m1", "m2", "m3", "m4"), ("a", "c"))})
    return store


def test_every_memory_is_told_where_it_belongs(tmp_path: Path) -> None:
    with family(tmp_path / "bank.db") as store:
        life = item_history(store, "d")
    assert life.current
    assert numbers(life) == [4]
    a, c = life.parents
    (b,) = a.parents
    assert [(found.item.id, found.current, numbers(found)) for found in (a, b, c)] == [
        ("a", False, [1]),
        ("b", False, [2]),
        ("c", False, [3]),
    ]
    assert [found.item.id for found in life.walk()] == ["d", "a", "c", "b"], "nearer ones first"
    assert sorted(found["index"] for found in life.memories) == [1, 2, 3, 4]
    assert [str(event.change.kind) for event in a.events] == ["created", "merged", "retired"]
    assert a.item == skill("a")


def test_an_item_that_changed_is_told_as_it_last_was(tmp_path: Path) -> None:
    with BankStore(tmp_path / "bank.db") as store:
        store.import_bank(ONE)
        store.import_bank(TWO)
        store.import_bank(Bank())
        life = item_history(store, "c")
        assert not life.current
        assert life.item == TWO.item("c") != ONE.item("c")
        assert life.memories == life.parents == ()


def test_an_id_that_turned_from_a_skill_into_a_mistake_has_one_life(tmp_path: Path) -> None:
    with BankStore(tmp_path / "bank.db") as store:
        store.import_bank(Bank((skill("a"),)))
        store.import_bank(Bank((), (mistake("a"),)))
        assert item_history(store, "a").item == mistake("a")


@pytest.mark.parametrize("name", ["", "nobody", "\x1b[2J"])
def test_an_unknown_item_is_named_on_one_line(name: str, tmp_path: Path) -> None:
    with family(tmp_path / "bank.db") as store:
        store.import_bank(Bank((), (), {"metadata": 1}))  # an event without an item
        with pytest.raises(UserError, match="has never held an item") as caught:
            item_history(store, name)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_retired_items_are_suggested_too(tmp_path: Path) -> None:
    with BankStore(tmp_path / "bank.db") as store:
        store.import_bank(Bank((skill("gen_12345"),)))
        store.import_bank(Bank())
        with pytest.raises(UserError, match="did you mean 'gen_12345'"):
            item_history(store, "gen_1234")


def test_two_items_may_each_stand_for_the_other(tmp_path: Path) -> None:
    """One before a roll-back, one after it: the way back ends where it would turn in a circle."""
    with BankStore(tmp_path / "bank.db") as store:
        store.remember({"m1": memory(1), "m2": memory(2)})
        both = Bank((skill("a"), skill("b")))
        event = store.import_bank(both, "", {"a": Origin(("m1",)), "b": Origin(("m2",))})[-1].seq
        store.import_bank(Bank((skill("a"),)), "", {"a": Origin(("m1", "m2"), ("b", "a"))})
        roll_back(store, event)
        store.import_bank(Bank((skill("b"),)), "", {"b": Origin(("m1", "m2"), ("a",))})
        for name, other, n in (("b", "a", 2), ("a", "b", 1)):
            life = item_history(store, name)
            assert [found.item.id for found in life.walk()] == [name, other]
            assert numbers(life) == [n]
            assert len(life.memories) == 2


def test_a_memory_that_was_not_kept_and_a_parent_that_never_stood_there_are_left_out(tmp_path: Path) -> None:
    """As in a run's store, which is not told of what was merged on the way."""
    with BankStore(tmp_path / "bank.db") as store:
        store.remember({"m1": memory(1)})
        store.import_bank(Bank((skill("a"),)), "", {"a": Origin(("m1", "m2"), ("x", "y"))})
        life = item_history(store, "a")
    assert numbers(life) == [1]
    assert life.parents == ()


def test_hundreds_of_proposals_over_five_layers_are_told_in_a_second(tmp_path: Path) -> None:
    draw = random.Random(0)
    with BankStore(tmp_path / "bank.db") as store:
        names = [f"i{n:03}" for n in range(460)]
        store.remember({f"m{n}": memory(n) for n in range(460)})
        learned = {name: {f"m{n}"} for n, name in enumerate(names)}
        store.import_bank(Bank(tuple(map(skill, names))), "", {n: Origin(tuple(learned[n])) for n in names})
        for layer, size in enumerate((230, 115, 40, 10, 1)):
            heirs = [f"layer{layer}-{n}" for n in range(size)]
            parents: dict[str, list[str]] = {heir: [] for heir in heirs}
            for position, name in enumerate(names):
                parents[heirs[position % size]].append(name)
                parents[draw.choice(heirs)].append(name)  # a writer may name a source twice
            learned |= {heir: set().union(*(learned[p] for p in parents[heir])) for heir in heirs}
            origins = {h: Origin(tuple(sorted(learned[h])), tuple(sorted({*parents[h]}))) for h in heirs}
            store.import_bank(Bank(tuple(map(skill, heirs))), f"layer {layer + 1}", origins)
            names = heirs
        began = time.perf_counter()
        life = item_history(store, names[0])
        told = list(life.walk())
        seconds = time.perf_counter() - began
    assert len(told) == 460 + 230 + 115 + 40 + 10 + 1
    assert len(life.memories) == 460
    assert seconds <= 1.0, f"{seconds:.2f} s"


def test_a_chain_of_thousands_of_ancestors_needs_no_stack(tmp_path: Path) -> None:
    length = 3000
    with BankStore(tmp_path / "bank.db") as store:
        names = [f"i{n}" for n in range(length)]
        origins = {name: Origin((), (before,)) for before, name in pairwise(names)}
        store.import_bank(Bank(tuple(map(skill, names))), "", origins)
        assert sum(1 for _ in item_history(store, names[-1]).walk()) == length


def test_a_roll_back_adds_to_the_history_and_is_made_once(tmp_path: Path) -> None:
    with family(tmp_path / "bank.db") as store:
        before, bank = store.events(), store.snapshot(3)
        written = roll_back(store, 3)
        assert kinds(written) == [("retired", "d"), *(("restored", name) for name in "abc")]
        assert {event.note for event in written} == {"rolled back to event 3"}
        assert store.events()[: len(before)] == before
        assert store.snapshot() == bank
        assert roll_back(store, 3) == []
        assert roll_back(store, len(before)), "and there is a way forward again"
        assert store.snapshot() == store.snapshot(len(before))
        assert [found.item.id for found in item_history(store, "d").walk()] == ["d", "a", "c", "b"], (
            "nothing is forgotten"
        )


def test_the_bank_before_all_events_can_be_returned_to(tmp_path: Path) -> None:
    with family(tmp_path / "bank.db") as store:
        roll_back(store, 0)
        assert store.snapshot() == Bank()


def test_half_an_import_was_never_the_bank(tmp_path: Path) -> None:
    with family(tmp_path / "bank.db") as store:
        ends = [version.event for version in store.versions()]
        assert ends == [3, 5, 8]
        with pytest.raises(UserError, match=r"event 7 is in the middle of an import; go back to event 5, .* or to 8"):
            roll_back(store, 7)
        with pytest.raises(UserError, match=r"event 1 is in the middle of an import; go back to event 0, .* or to 3"):
            roll_back(store, 1)
        for event in (9, -1):
            with pytest.raises(UserError, match=f"has no event {event}; the latest is 8"):
                roll_back(store, event)
        assert store.event == 8


def test_a_reader_cannot_roll_back(tmp_path: Path) -> None:
    family(tmp_path / "bank.db").close()
    with (
        BankStore(tmp_path / "bank.db", read_only=True) as store,
        pytest.raises(UserError, match="open for reading only"),
    ):
        roll_back(store, 3)


def test_a_store_of_the_first_schema_is_told_and_rolled_back(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    old_store(path)
    content = path.read_bytes()
    with BankStore(path, read_only=True) as store:
        life = item_history(store, "a")
        assert (life.current, life.memories, life.parents) == (False, (), ())
        assert [str(event.change.kind) for event in life.events] == ["created", "retired"]
        assert life.item == ONE.item("a")
    assert path.read_bytes() == content
    with BankStore(path) as store:
        roll_back(store, 6)
        assert store.snapshot() == ONE


BANKS = st.builds(
    lambda skills, mistakes, meta: Bank(
        tuple(skill(f"s{n}", text) for n, text in skills), tuple(map(mistake, mistakes)), {"n": meta} if meta else {}
    ),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["x", "y"])), max_size=5, unique_by=lambda pair: pair[0]),
    st.lists(st.sampled_from("uvw"), max_size=3, unique=True),
    st.integers(0, 1),
)


@settings(deadline=None, max_examples=60)
@given(BANKS, BANKS)
def test_a_difference_is_empty_for_equal_banks_only_and_turns_round(before: Bank, after: Bank) -> None:
    found, back = diff_banks(before, after), diff_banks(after, before)
    empty = not (found.added or found.removed or found.edited or found.moved or found.described)
    assert empty == (before == after)
    assert {*found.added} == {*back.removed}
    assert {*found.edited} == {*back.edited}
    assert (found.moved, found.described) == (back.moved, back.described)
    old, new = {item.id for item in before.items}, {item.id for item in after.items}
    assert (old - {*found.removed}) | {*found.added} == new


@settings(deadline=None, max_examples=25)
@given(st.lists(BANKS, min_size=1, max_size=5), st.integers(0, 5))
def test_any_version_can_be_returned_to(tmp_path_factory: pytest.TempPathFactory, banks: list[Bank], to: int) -> None:
    with BankStore(tmp_path_factory.mktemp("store") / "bank.db") as store:
        for bank in banks:
            store.import_bank(bank)
        ends = [0, *(version.event for version in store.versions())]
        event = ends[to % len(ends)]
        wanted = store.snapshot(event)
        roll_back(store, event)
        assert store.snapshot() == wanted
        assert roll_back(store, event) == []


def test_a_reference_names_a_bank_or_an_event_of_it() -> None:
    assert parse_bank_reference("a/bank.sqlite") == ("a/bank.sqlite", None)
    assert parse_bank_reference("me@home/bank.sqlite@12") == ("me@home/bank.sqlite", 12)
    for wrong in ("bank@", "bank@x", "bank@-1", "bank@1.5", "bank@١", "@3", "bank@" + "9" * 5000, "bank@\x1b[2J"):
        with pytest.raises(UserError, match="STORE@EVENT") as caught:
            parse_bank_reference(wrong)
        assert "\x1b" not in str(caught.value)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", ["[1]", "3", '"x"', "[" * 100_000], ids=["list", "number", "string", "deep"])
def test_a_memory_that_is_no_object_is_damage(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    family(path).close()
    with sqlite3.connect(path) as other:
        other.execute("INSERT INTO memories VALUES ('m9', ?)", (text,))
    other.close()
    with BankStore(path, read_only=True) as store, pytest.raises(UserError, match="is damaged: memory 'm9'"):
        store.memory("m9")


def test_the_picture_of_an_item_is_one_small_escaped_document(tmp_path: Path) -> None:
    found = importlib.util.spec_from_file_location("bank_item", DOCS / "bank_item.py")
    assert found is not None
    assert found.loader is not None
    script = sys.modules["bank_item"] = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    with family(tmp_path / "bank.db") as store:
        store.remember({f"n{n}": memory(n, correct=False) | {"problem": f"</text>&<script> {n}"} for n in range(9)})
        names = tuple(f"n{n}" for n in range(9))
        store.import_bank(Bank((skill("<e>"),)), "", {"<e>": Origin(names, ("d",))})
        alone = script.drawing(item_history(store, "b"))
        text = script.drawing(item_history(store, "<e>"))
    said = [node.text for node in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")]
    for expected in ("<e>", "a", "b", "c", "d", "✗ </text>&<script> 0", "✓ 1+1", "… and 5 more", "merged, layer 3"):
        assert expected in said
    assert "merged, layer 4" not in said
    assert "merged" not in alone
    for drawn in (alone, text, (DOCS / "bank_item.svg").read_text(encoding="utf-8")):
        assert len(drawn.encode()) <= 30_000
        assert "prefers-color-scheme:dark" in drawn
        ElementTree.fromstring(drawn)
    assert "](bank_item.svg)" in (DOCS / "bank.md").read_text(encoding="utf-8")
