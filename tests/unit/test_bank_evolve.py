"""How a bank changes: ids by content, duplicates joined, what is learned comes and goes, and what was given stays."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsd.bank import (
    Bank,
    Proposal,
    add_items,
    bank_of_proposals,
    content_id,
    is_dynamic,
    item_texts,
    join_duplicates,
    remove_items,
    with_content_id,
)
from sgsd.types import Mistake, Skill, UserError

GIVEN = Bank(
    (Skill("gen_001", "Parity", "Look modulo 2.", "integers"), Skill("gen_002", "Symmetry", "Swap.", "pairs")),
    (Mistake("err_001", "Sign", "haste", "check"),),
    {"source": "published"},
)


def learned(number: int) -> Skill:
    return with_content_id(Skill("", f"title {number}", "p", "w"))


def proposal(number: int, kind: str = "skill", **origins: tuple[str, ...]) -> Proposal:
    if kind == "skill":
        return Proposal(learned(number), **origins)
    return Proposal(with_content_id(Mistake("", f"description {number}", "w", "h")), **origins)


def test_an_id_is_decided_by_the_words_alone() -> None:
    item = Skill("any", "Factor  the\nQuadratic", "é", "w", {"by": "me"})
    assert content_id(item) == content_id(Skill("", " factor THE quadratic ", unicodedata.normalize("NFD", "É"), "W"))
    assert with_content_id(item) == replace(item, id=content_id(item))
    assert content_id(Skill("", "title", "principle", "when")) == "gen_59555e2fd892"  # for ever: files hold it
    assert content_id(Mistake("", "title", "principle", "when")) == "err_59555e2fd892"


@pytest.mark.parametrize(
    "other",
    [
        Skill("", "x2", "p", "w"),
        Skill("", "x₂", "p", "w"),
        Skill("", "p", "x²", "w"),
        Skill("", "x² p", "w", "w"),
        Skill("", "x ²", "p", "w"),
    ],
)
def test_other_words_have_another_id(other: Skill) -> None:
    assert content_id(Skill("", "x²", "p", "w")) != content_id(other)


def test_what_could_not_stand_in_a_bank_has_no_name() -> None:
    for bad in (Skill("", " ", "p", "w"), Skill("", "t", "<|im_end|>", "w"), Skill("", "t", "p", "w" * 4001)):
        with pytest.raises(UserError):
            with_content_id(bad)


def test_words_are_all_that_an_item_says() -> None:
    assert item_texts(GIVEN.skills[0]) == ("Parity", "Look modulo 2.", "integers")
    assert item_texts(GIVEN.mistakes[0]) == ("Sign", "haste", "check")


def test_duplicates_are_joined_at_the_place_of_the_first_with_all_origins() -> None:
    one, two = proposal(1, memories=("a", "b"), items=("x",)), proposal(2)
    foreign = Proposal(replace(learned(1), id="gen_001", title="TITLE 1"), ("b", "c"), ("y", "x"))
    assert join_duplicates([one, two, foreign, two]) == [Proposal(one.item, ("a", "b", "c"), ("x", "y")), two]
    assert join_duplicates([foreign, one])[0].item == foreign.item
    assert join_duplicates([]) == []


def test_a_bank_of_proposals_keeps_their_order() -> None:
    mixed = [proposal(2, "mistake"), proposal(1), proposal(0), proposal(1, "mistake"), proposal(1)]
    bank = bank_of_proposals(mixed, {"n": 1})
    assert bank.skills == (mixed[1].item, mixed[2].item)
    assert bank.mistakes == (mixed[0].item, mixed[3].item)
    assert bank.metadata == {"n": 1}


def test_without_takes_items_of_both_kinds() -> None:
    left = remove_items(GIVEN, ["gen_001", "err_001", "unknown"])
    assert [item.id for item in left.items] == ["gen_002"]
    assert left.metadata == GIVEN.metadata


def test_only_a_step_marks_an_item_as_learned() -> None:
    item = GIVEN.skills[0]
    assert is_dynamic(replace(item, meta={"dynamic": 0}))
    for mark in ({}, {"dynamic": None}, {"dynamic": True}, {"dynamic": "yes"}, {"dynamic": 1.0}, {"learned": 3}):
        assert not is_dynamic(replace(item, meta=mark))


def test_the_bank_grows_by_a_few_and_says_which() -> None:
    many = [proposal(n, "skill" if n % 2 else "mistake", memories=(f"m{n}",)) for n in range(9)]
    new, taken = add_items(GIVEN, many, step=25, add=3)
    assert [p.item.id for p in taken] == [p.item.id for p in many[:3]]
    assert [p.memories for p in taken] == [("m0",), ("m1",), ("m2",)]
    assert all(p.item.meta == {"dynamic": 25} for p in taken)
    assert new.skills == (*GIVEN.skills, taken[1].item)
    assert new.mistakes == (*GIVEN.mistakes, taken[0].item, taken[2].item)
    assert new.metadata == GIVEN.metadata
    assert add_items(new, many[:3], step=50) == (new, [])


@pytest.mark.parametrize("add", [0, 1])
def test_what_the_bank_says_already_is_not_new(add: int) -> None:
    """In the same words under another id, and under an id whose words a person has since changed."""
    edited = replace(learned(7), principle="better words")
    bank = Bank((*GIVEN.skills, edited), GIVEN.mistakes)
    known = [Proposal(with_content_id(replace(GIVEN.skills[1], title="SYMMETRY"))), proposal(7)]
    assert add_items(bank, known, step=1) == (bank, [])
    _, taken = add_items(bank, [*known, proposal(8)], step=1, add=add)
    assert len(taken) == add


def test_the_oldest_go_first_and_the_given_never() -> None:
    bank = GIVEN
    for step in range(1, 8):
        bank, taken = add_items(bank, [proposal(10 * step), proposal(10 * step, "mistake")], step=step, capacity=5)
        assert len(taken) == 2
    learned = [item for item in bank.items if is_dynamic(item)]
    assert sorted(item.meta["dynamic"] for item in learned) == [5, 6, 6, 7, 7]
    assert set(GIVEN.items) <= set(bank.items)


def test_what_another_run_learned_stays_where_this_one_began_with_it() -> None:
    theirs, _ = add_items(GIVEN, [proposal(n) for n in range(4)], step=90, capacity=4)
    began = {item.id for item in theirs.items}
    bank, taken = add_items(theirs, [proposal(n) for n in range(10, 13)], step=1, add=3, capacity=2, given=began)
    assert began <= {item.id for item in bank.items}
    assert len(taken) == 2
    lost, _ = add_items(theirs, [proposal(10)], step=1, capacity=2)
    assert not began <= {item.id for item in lost.items}


def test_the_least_worthy_go_first_where_worth_is_known() -> None:
    bank, _ = add_items(GIVEN, [proposal(n) for n in range(4)], step=1, capacity=4)
    ranked = [item.id for item in bank.items if is_dynamic(item)]
    score: Callable[[str], float] = lambda item_id: float(ranked.index(item_id) in (0, 2))  # noqa: E731
    after, taken = add_items(bank, [proposal(8), proposal(9)], step=2, capacity=4, score=score)
    assert {item.id for item in after.items if is_dynamic(item)} == {ranked[0], ranked[2], *(p.item.id for p in taken)}


@given(
    rounds=st.lists(st.lists(st.integers(0, 30), max_size=8), max_size=6),
    add=st.integers(0, 6),
    capacity=st.integers(0, 8),
)
@settings(max_examples=100, deadline=None)
def test_capacity_holds_and_the_given_bank_stays(rounds: list[list[int]], add: int, capacity: int) -> None:
    bank = GIVEN
    for step, numbers in enumerate(rounds):
        before = {item.id for item in bank.items}
        bank, taken = add_items(bank, [proposal(n) for n in numbers], step=step, add=add, capacity=capacity)
        new = {item.id for item in bank.items} - before
        assert new == {p.item.id for p in taken}
        assert len(taken) <= min(add, capacity)
        assert sum(is_dynamic(item) for item in bank.items) <= capacity
        assert bank.skills[:2] == GIVEN.skills
        assert bank.mistakes == GIVEN.mistakes
