"""Merging: what is the same becomes one, nothing is lost by accident, and everything can be traced back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bank_schema import BANKS, NAMES

from sgsd.bank import (
    BankStore,
    Origin,
    Proposal,
    bank_of_proposals,
    content_id,
    dump_bank,
    item_texts,
    load_bank,
    parse_bank,
    with_content_id,
)
from sgsd.bank.item_lineage import item_history
from sgsd.contexts.prompts import PromptSet, load_prompts
from sgsd.skills import TEMPLATES, AnswerCache, MergeSettings, Request, ScriptedWriter, WriterClient, merge
from sgsd.skills.merge import Layer
from sgsd.types import BankItem, Mistake, Skill, UserError

RAW = BANKS / "raw_candidates_qwen3_1b.json"
FOUR = MergeSettings(group=4)


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    return load_prompts("growth", required=TEMPLATES)


def skill(number: int, words: str = "") -> Skill:
    return with_content_id(Skill("", f"title {number}{words}", f"principle {number}", "always"))


def proposals(count: int) -> list[Proposal]:
    return [Proposal(skill(n), (f"memory {n}",)) for n in range(count)]


def rows_of(request: Request) -> list[dict[str, Any]]:
    """The items that a request lists, as the writer sees them."""
    return [json.loads(line) for line in request.messages[0][1].splitlines() if line.startswith('{"number"')]


def item_from(row: dict[str, Any], sources: list[int]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "number"} | {"sources": sources}


Merger = Callable[[list[dict[str, Any]]], list[Any]]


def desk_for(merger: Merger, prompts: PromptSet, cache: AnswerCache | None = None) -> WriterClient:
    def script(request: Request) -> str:
        return json.dumps({request.answer.key: merger(rows_of(request))})

    return WriterClient(ScriptedWriter(script), prompts, cache)


def asked(client: WriterClient) -> list[Request]:
    assert isinstance(client.writer, ScriptedWriter)
    return client.writer.calls


def echo(rows: list[dict[str, Any]]) -> list[Any]:
    return [item_from(row, [row["number"]]) for row in rows]


def halve(rows: list[dict[str, Any]]) -> list[Any]:
    """Neighbours become one, in words of its own."""
    pairs = [rows[n : n + 2] for n in range(0, len(rows), 2)]
    return [
        item_from(pair[0], [r["number"] for r in pair]) | {"title": " and ".join(r["title"] for r in pair)}
        for pair in pairs
    ]


def test_it_ends_with_one_group(prompts: PromptSet) -> None:
    client = desk_for(halve, prompts)
    told: list[Layer] = []
    done = merge(proposals(13), client, FOUR, told.append)
    assert [(layer.before, layer.groups, layer.after) for layer in done.layers] == [(13, 4, 8), (8, 2, 4), (4, 1, 2)]
    assert told == done.layers
    assert [len(step) for step in done.steps] == [8, 4, 2]
    assert done.items == done.steps[-1]
    assert client.usage.calls == 7


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_it_ends_when_layers_do_not_shrink_and_others_meet_in_each(prompts: PromptSet, patience: int) -> None:
    client = desk_for(echo, prompts)
    start = proposals(12)
    done = merge(start, client, MergeSettings(group=4, patience=patience))
    assert done.items == start  # the same objects' words, ids, origins and order
    assert len(done.layers) == patience
    assert {(layer.before, layer.after, layer.groups) for layer in done.layers} == {(12, 12, 3)}
    together = [frozenset(row["title"] for row in rows_of(request)) for request in asked(client)]
    layers = [frozenset(together[n : n + 3]) for n in range(0, len(together), 3)]
    assert len(set(layers)) == len(layers) == patience


def test_shrinking_gives_new_patience(prompts: PromptSet) -> None:
    """One item goes in the third of three layers, so three more may follow."""
    calls = 0

    def stubborn(rows: list[dict[str, Any]]) -> list[Any]:
        nonlocal calls
        calls += 1
        kept = echo(rows)
        return kept[1:] if calls == 5 else kept

    done = merge(proposals(8), desk_for(stubborn, prompts), FOUR)
    assert [layer.after for layer in done.layers] == [8, 8, 7, 7, 7, 7]
    assert [layer.left_out for layer in done.layers] == [0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_merge_costs_nothing(prompts: PromptSet, count: int) -> None:
    client = desk_for(echo, prompts)
    assert merge(proposals(count), client, FOUR).items == proposals(count)
    assert asked(client) == []


@given(count=st.integers(2, 200), group=st.integers(2, 40))
@settings(max_examples=60, deadline=None)
def test_groups_are_even_and_none_is_too_large(count: int, group: int) -> None:
    client = desk_for(lambda rows: echo(rows)[:1], load_prompts("growth", required=TEMPLATES))
    merge(proposals(count), client, MergeSettings(group=group))
    first = [len(rows_of(request)) for request in asked(client)][: -(-count // group)]
    assert sum(first) == count
    assert max(first) <= group
    assert max(first) - min(first) <= 1
    assert min(first) > 1 or group == 2


def test_exact_duplicates_are_joined_before_anything_is_asked(prompts: PromptSet) -> None:
    client = desk_for(echo, prompts)
    first, again = Proposal(skill(1), ("m1",)), Proposal(skill(1, " "), ("m2", "m1"), ("x",))
    shouted = Proposal(Skill("foreign id", "TITLE  1", "Principle 1", "ALWAYS"), ("m3",))
    done = merge([first, again, shouted], client, FOUR)
    assert done.items == [Proposal(skill(1), ("m1", "m2", "m3"), ("x",))]
    assert asked(client) == []


def test_an_heir_has_the_memories_and_the_ids_of_all_it_stands_for(prompts: PromptSet) -> None:
    start = proposals(3)
    new = {"title": "new", "principle": "p", "when_to_apply": "w"}
    done = merge(
        start, desk_for(lambda rows: [new | {"sources": [3, 1, 3, 99, 0]}, item_from(rows[1], [2])], prompts), FOUR
    )
    heir = with_content_id(Skill("", "new", "p", "w"))
    assert done.items[0] == Proposal(heir, ("memory 2", "memory 0"), (start[2].item.id, start[0].item.id))
    assert done.items[1] == start[1]
    nameless = merge(start, desk_for(lambda rows: [new], prompts), FOUR)
    assert nameless.items == [Proposal(heir, tuple(f"memory {n}" for n in range(3)), tuple(p.item.id for p in start))]
    assert nameless.layers[0].left_out == 0


def test_an_item_that_takes_others_in_keeps_its_id_and_its_words(prompts: PromptSet) -> None:
    named = [Proposal(Skill(f"gen_{n:03}", f"Title {n}", "p", "w", {"by": "hand"}), (f"m{n}",)) for n in range(3)]
    done = merge(named, desk_for(lambda rows: [item_from(rows[1], [1, 2]) | {"title": "TITLE 1"}], prompts), FOUR)
    assert done.items == [Proposal(named[1].item, ("m0", "m1"), ("gen_000",))]
    assert done.layers[0].left_out == 1


@pytest.mark.parametrize(
    ("merger", "unmerged"),
    [
        (lambda rows: [], 1),  # nothing is no answer
        (lambda rows: echo(rows) + echo(rows)[:1], 0),  # the same item twice is one
        (lambda rows: [*echo(rows), item_from(rows[0], [1]) | {"title": "more"}], 1),  # a collection that grows
        (lambda rows: [{"title": "x"}], 1),
        (
            lambda rows: [{"title": "x", "principle": "p", "when_to_apply": "w"}, "torn"],
            1,
        ),  # of what it stands nobody knows
    ],
)
def test_a_group_stays_as_it_was_where_the_answer_is_no_merge(
    merger: Merger, unmerged: int, prompts: PromptSet
) -> None:
    start = proposals(4)
    done = merge(start, desk_for(merger, prompts), FOUR)
    assert done.items == start
    assert done.layers == [Layer(4, 1, 4, unmerged, 0)]


def test_a_cut_answer_loses_no_item(prompts: PromptSet) -> None:
    """The answer stops in its second item; whatever it has not named yet must stay."""

    def script(request: Request) -> str:
        whole = json.dumps({"general_skills": halve(rows_of(request))})
        return whole[: whole.index('"principle"', whole.index("title 2"))]

    start = proposals(6)
    done = merge(start, WriterClient(ScriptedWriter(script), prompts), MergeSettings(group=6, patience=1))
    assert [item_texts(p.item)[0] for p in done.items] == [
        "title 0 and title 1",
        "title 2",
        "title 3",
        "title 4",
        "title 5",
    ]
    assert done.items[1:] == start[2:]
    assert done.layers == [Layer(6, 1, 5, 0, 0)]


def test_failed_calls_leave_their_group_alone(prompts: PromptSet) -> None:
    client = desk_for(lambda rows: ["no"] if any(row["title"] == "title 1" for row in rows) else halve(rows), prompts)
    done = merge(proposals(8), client, MergeSettings(group=4, patience=1))
    assert done.layers[0] == Layer(8, 2, 6, 1, 0)


def test_a_second_merge_asks_nothing_and_comes_to_the_same(prompts: PromptSet, tmp_path: Path) -> None:
    with AnswerCache(tmp_path / "answers") as cache:
        first = merge(proposals(40), desk_for(halve, prompts, cache), MergeSettings(group=8))
        client = desk_for(halve, prompts, cache)
        assert merge(proposals(40), client, MergeSettings(group=8)) == first
        assert asked(client) == []


def test_mistakes_are_merged_like_skills(prompts: PromptSet) -> None:
    start = [Proposal(with_content_id(Mistake("", f"d{n}", f"w{n}", f"h{n}")), (f"m{n}",)) for n in range(4)]
    client = desk_for(lambda rows: [item_from(rows[0], [1, 2, 3, 4])], prompts)
    (item,) = merge(start, client, FOUR).items
    assert item == Proposal(start[0].item, ("m0", "m1", "m2", "m3"), tuple(p.item.id for p in start[1:]))
    assert "common mistakes" in asked(client)[0].messages[0][1]
    assert rows_of(asked(client)[0])[2] == {
        "number": 3,
        "description": "d2",
        "why_it_happens": "w2",
        "how_to_avoid": "h2",
    }


def test_settings_that_cannot_work_are_refused() -> None:
    for settings_of in ({"group": 1}, {"patience": 0}):
        with pytest.raises(UserError, match="merge: group is"):
            MergeSettings(**settings_of)


def test_what_was_taken_in_can_be_traced_in_the_store(prompts: PromptSet, tmp_path: Path) -> None:
    """Also where an item stays as it was and only stands for more than before."""
    start = proposals(4)
    layers = [
        lambda rows: [item_from(rows[0], [1, 2]), item_from(rows[2], [3, 4])],
        lambda rows: [item_from(rows[0], [1, 2])],
    ]
    store = BankStore(tmp_path / "bank.db")
    store.remember({f"memory {n}": {"number": n} for n in range(4)})
    now = start
    for step in (None, *layers):
        now = merge(now, desk_for(step, prompts), FOUR).items if step else now
        origins = {p.item.id: Origin(tuple(sorted(p.memories)), tuple(sorted(p.items))) for p in now}
        assert store.import_bank(bank_of_proposals(now), origins=origins)
        assert store.import_bank(bank_of_proposals(now), origins=origins) == []
    life = item_history(store, start[0].item.id)
    assert {memory["number"] for memory in life.memories} == {0, 1, 2, 3}
    assert {parent.item.id for parent in life.parents} == {start[1].item.id, start[2].item.id}
    assert [str(event.change.kind) for event in life.events] == ["created", "merged", "merged"]
    store.close()


def candidates() -> tuple[list[Proposal], list[Proposal]]:
    if not RAW.exists():
        pytest.skip(f"{RAW} is not on this machine: the raw candidates are not part of this project")
    bank = load_bank(RAW)
    named = [Proposal(with_content_id(item)) for item in bank.items]
    return [p for p in named if isinstance(p.item, Skill)], [p for p in named if isinstance(p.item, Mistake)]


def by_first_word(rows: list[dict[str, Any]]) -> list[Any]:
    """A merger by rule: items whose first words agree become the first of them."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(str(list(row.values())[1]).split()[0].casefold(), []).append(row)
    return [item_from(same[0], [row["number"] for row in same]) for same in found.values()]


@pytest.mark.shared
def test_the_raw_candidates_merge_and_their_ids_are_stable(prompts: PromptSet, tmp_path: Path) -> None:
    for kind in candidates():
        start: list[BankItem] = [p.item for p in kind]
        unique = {tuple(" ".join(text.casefold().split()) for text in item_texts(item)) for item in start}
        runs = []
        with AnswerCache(tmp_path / f"answers {len(start)}") as cache:
            for _ in range(2):
                client = desk_for(by_first_word, prompts, cache)
                runs.append(merge([*kind, *kind], client, MergeSettings()))
        done = runs[0]
        assert runs[1] == done
        assert done.layers[0].before == len(unique)
        assert len(done.items) < len(unique)
        assert len({content_id(p.item) for p in done.items}) == len(done.items)
        assert {p.item.id for p in done.items} <= {item.id for item in start}
        assert all(p.item.id == content_id(p.item) for p in done.items)
        assert bank_of_proposals(done.items).version == bank_of_proposals(runs[1].items).version
        traced = {p.item.id for p in done.items}
        for step in done.steps:
            traced |= {name for p in step for name in p.items}
        assert traced == {item.id for item in start}


@pytest.mark.shared
@pytest.mark.parametrize("name", NAMES)
def test_every_published_bank_comes_back_from_proposals(name: str, prompts: PromptSet, tmp_path: Path) -> None:
    path = BANKS / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine: the real banks are not part of this project")
    bank = load_bank(path)
    client = desk_for(echo, prompts)
    merged = [
        merge([Proposal(item) for item in section], client, MergeSettings()).items
        for section in (bank.skills, bank.mistakes)
    ]
    back = bank_of_proposals([p for part in merged for p in part], bank.metadata)
    twins = len(bank) - len({content_id(item) for item in bank.items})
    assert len(back) == len(bank) - twins
    if not twins:
        assert back == bank
        assert back.version == bank.version
    with BankStore(tmp_path / "bank.db") as store:
        store.import_bank(back, origins={item.id: Origin(("memory",)) for item in back.items})
        assert store.snapshot() == parse_bank(dump_bank(back)) == back
