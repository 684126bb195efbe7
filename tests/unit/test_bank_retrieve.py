"""Retrieval: the nearest items, on a scale that a softmax at temperature 1 can use."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bank_schema import BANKS

from sgsd.bank import (
    Bank,
    Bm25Retriever,
    Hit,
    RandomRetriever,
    Retriever,
    item_text,
    load_bank,
    pairs_for,
    retrieve_pairs,
)
from sgsd.bank.retrieval.bm25 import tokenize
from sgsd.bank.retrieval.pairing import softmax
from sgsd.types import Mistake, Skill, UserError

TOPICS = ("triangle angle", "prime divisor", "parity even odd", "modulus 7", "probability dice", "polynomial root")
SKILLS = tuple(Skill(f"s{i}", f"About {topic}", "Think.", "Often.") for i, topic in enumerate(TOPICS))
MISTAKES = tuple(Mistake(f"m{i}", f"Wrong {topic}", "Haste.", "Look.") for i, topic in enumerate(TOPICS[::-1]))
BANK = Bank(SKILLS, MISTAKES)
QUERIES = ["the prime divisor of 91", "roll dice", "x^2 mod modulus 7", "nothing here", ""]
RETRIEVERS = [Bm25Retriever(BANK), RandomRetriever(BANK, seed=3)]


def ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.item.id for hit in hits]


def test_the_nearest_comes_first_with_score_one() -> None:
    retriever = Bm25Retriever(BANK)
    [skills], [mistakes] = retriever.skills.rank(["prime divisor"], 3), retriever.mistakes.rank(["prime divisor"], 3)
    assert skills[0].item is SKILLS[1]
    assert mistakes[0].item is MISTAKES[4]
    assert max(skills[0].score, mistakes[0].score) == 1.0
    assert [hit.score for hit in skills[1:]] == [0.0, 0.0]
    assert ids(skills[1:]) == ["s0", "s2"], "items that match nothing fill the list in their own order"


def test_scores_stay_on_the_scale_of_a_cosine_however_long_the_query() -> None:
    retriever = Bm25Retriever(BANK)
    for query in [" ".join(TOPICS) * 20, *TOPICS, *QUERIES]:
        scores = [hit.score for side in (retriever.skills, retriever.mistakes) for hit in side.rank([query], 9)[0]]
        assert all(0.0 <= score <= 1.0 for score in scores)
        assert max(scores) in (0.0, 1.0)
        weights = [pair.weight for pair in retrieve_pairs(retriever, query, 6)]
        assert max(weights) / min(weights) <= math.e + 1e-12


def test_a_query_without_a_known_word_gets_the_items_in_order_and_equal_weights() -> None:
    for query in ("", "   ", "zebra", "the of and", "…"):
        pairs = retrieve_pairs(Bm25Retriever(BANK), query, 4)
        assert [pair.item_ids for pair in pairs] == [(f"s{i}", f"m{i}") for i in range(4)]
        assert [pair.weight for pair in pairs] == [0.25] * 4
        assert {pair.score for pair in pairs} == {0.0}


def test_ties_go_by_item_order() -> None:
    words = ("prime divisor", "dice throw")
    twins = tuple(Skill(f"t{i}", words[i % 2], "Think.", "Often.") for i in range(600))
    [hits] = Bm25Retriever(Bank(twins)).skills.rank(["prime"], 600)
    assert ids(hits) == [twin.id for twin in (*twins[0::2], *twins[1::2])]
    assert [hit.score for hit in hits] == [1.0] * 300 + [0.0] * 300


def test_repeating_a_word_of_the_problem_changes_nothing() -> None:
    retriever = Bm25Retriever(BANK)
    once, often = retriever.skills.rank(["prime dice", "prime dice " + "dice " * 50], 6)
    assert once == often


def test_tokens_keep_what_mathematics_says() -> None:
    assert tokenize("Find x_1 ≤ 2n+1 (mod 7)!") == ["find", "x", "1", "≤", "2", "n", "+", "1", "mod", "7"]
    assert tokenize("x² − 1, x - 1, x-1, n-1") == ["x", "2", "−", "1", "x", "-", "1", "x", "-", "1", "n", "-", "1"]
    assert tokenize("a non-empty set") == ["non", "empty", "set"]
    assert tokenize("\\frac{p}{q}") == ["frac", "p", "q"]
    assert tokenize("ÉTUDE Straße") == ["étude", "strasse"]


def test_the_whole_item_is_searched() -> None:
    assert item_text(Skill("id", "a", "b", "c", {"m": "d"})) == "a\nb\nc"
    assert item_text(Mistake("id", "a", "b", "c")) == "a\nb\nc"


@pytest.mark.parametrize("retriever", RETRIEVERS, ids=["bm25", "random"])
def test_a_query_is_ranked_alike_in_every_batch(retriever: Retriever) -> None:
    together = pairs_for(retriever, QUERIES, 4)
    assert together == [retrieve_pairs(retriever, query, 4) for query in QUERIES]
    assert pairs_for(retriever, QUERIES[::-1], 4) == together[::-1]
    assert pairs_for(retriever, [], 4) == []
    for query in QUERIES:
        [few], [many] = retriever.skills.rank([query], 2), retriever.skills.rank([query], 6)
        assert few == many[:2]


def test_random_orders_depend_on_seed_and_query_and_survive_growth() -> None:
    def order(seed: int, query: str, bank: Bank = BANK) -> list[str]:
        return ids(RandomRetriever(bank, seed).skills.rank([query], 99)[0])

    assert sorted(order(0, "a")) == sorted(skill.id for skill in SKILLS)
    assert len({tuple(order(seed, query)) for seed in range(4) for query in "abcd"}) > 12
    grown = Bank((Skill("new", "t", "p", "w"), *SKILLS), MISTAKES)
    assert [name for name in order(0, "a", grown) if name != "new"] == order(0, "a")


def test_random_choice_is_fair() -> None:
    retriever = RandomRetriever(BANK, seed=0)
    first = [hits[0].item.id for hits in retriever.skills.rank([str(i) for i in range(3000)], 1)]
    counts = np.array([first.count(skill.id) for skill in SKILLS])
    assert abs(counts - 500).max() < 100, "4.9 standard deviations"


def test_orders_are_the_same_in_another_process() -> None:
    """Python's own hash of a string differs from process to process; nothing here may rest on it."""
    code = (
        "from test_bank_retrieve import *;"
        "print([[p.item_ids, p.weight] for r in RETRIEVERS for q in QUERIES for p in retrieve_pairs(r, q, 6)])"
    )
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = os.environ | {"PYTHONHASHSEED": "1234", "PYTHONPATH": path}
    there = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    here = [[p.item_ids, p.weight] for r in RETRIEVERS for q in QUERIES for p in retrieve_pairs(r, q, 6)]
    assert there.stdout.strip() == str(here)
    assert there.stderr == "", "no progress bar, no download"


def test_pairs_are_made_by_rank_and_weighed_by_the_mean_score() -> None:
    retriever = Bm25Retriever(BANK)
    query = "prime dice modulus"
    [skills], [mistakes] = retriever.skills.rank([query], 4), retriever.mistakes.rank([query], 4)
    for temperature in (1.0, 0.1):
        pairs = retrieve_pairs(retriever, query, 4, temperature)
        means = np.array([(s.score + m.score) / 2 for s, m in zip(skills, mistakes, strict=True)])
        expected = np.exp(means / temperature) / np.exp(means / temperature).sum()
        assert [pair.skill for pair in pairs] == [hit.item for hit in skills]
        assert [pair.mistake for pair in pairs] == [hit.item for hit in mistakes]
        np.testing.assert_allclose([pair.score for pair in pairs], means, rtol=1e-15)
        np.testing.assert_allclose([pair.weight for pair in pairs], expected, rtol=1e-14)


@pytest.mark.parametrize("make", [Bm25Retriever, lambda bank: RandomRetriever(bank, 0)], ids=["bm25", "random"])
def test_the_shorter_kind_leaves_its_side_empty(make: type[Bm25Retriever]) -> None:
    pairs = retrieve_pairs(make(Bank(SKILLS[:1], MISTAKES[:3])), "prime divisor", 8)
    assert [(pair.skill is None, pair.mistake is None) for pair in pairs] == [
        (False, False),
        (True, False),
        (True, False),
    ]
    assert math.fsum(pair.weight for pair in pairs) == pytest.approx(1, abs=1e-15)
    pairs = retrieve_pairs(make(Bank(SKILLS)), "prime divisor", 2)
    assert len(pairs) == 2
    assert all(pair.mistake is None for pair in pairs)
    assert len(retrieve_pairs(make(Bank(mistakes=MISTAKES)), "prime divisor", 99)) == len(MISTAKES)


def test_a_side_that_is_missing_does_not_lower_the_score() -> None:
    [pair] = retrieve_pairs(Bm25Retriever(Bank(SKILLS[1:2])), "prime divisor", 1)
    assert pair.score == 1.0


def test_mistakes_of_use_are_refused() -> None:
    for make in (Bm25Retriever, lambda bank: RandomRetriever(bank, 0)):
        with pytest.raises(UserError, match="the bank is empty"):
            make(Bank())
    retriever = Bm25Retriever(BANK)
    for k in (0, -1):
        with pytest.raises(UserError, match=f"k is {k}"):
            retrieve_pairs(retriever, "a", k)
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(UserError, match="temperature"):
            retrieve_pairs(retriever, "a", 1, temperature)
    silent = SimpleNamespace(rank=lambda queries, k: [[] for _ in queries])
    with pytest.raises(UserError, match="nothing was retrieved"):
        retrieve_pairs(SimpleNamespace(skills=silent, mistakes=silent), "a", 1)


def test_a_bank_of_symbols_alone_can_be_searched() -> None:
    pairs = retrieve_pairs(Bm25Retriever(Bank((Skill("s", "…", "…", "…"),))), "anything", 3)
    assert [pair.weight for pair in pairs] == [1.0]


@given(
    scores=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30),
    temperature=st.floats(1e-3, 1e3),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_weights_sum_to_one_and_follow_their_pairs(
    scores: list[float], temperature: float, data: st.DataObject
) -> None:
    weights = softmax(scores, temperature)
    assert math.fsum(weights) == pytest.approx(1.0, abs=1e-14)
    assert all(weight >= 0.0 for weight in weights)
    order = data.draw(st.permutations(range(len(scores))))
    assert softmax([scores[i] for i in order], temperature) == tuple(weights[i] for i in order)


def test_the_order_of_the_bank_changes_no_weight() -> None:
    """Scores that differ pin the ranking, so a permuted bank must give the same pairs and the same weights."""
    bank = Bank(SKILLS[:3], MISTAKES[3:])
    query = "about prime divisor, even odd parity, triangle"
    expected = retrieve_pairs(Bm25Retriever(bank), query, 3)
    assert len({pair.score for pair in expected}) == 3
    for skills, mistakes in zip(permutations(bank.skills), permutations(bank.mistakes), strict=True):
        pairs = retrieve_pairs(Bm25Retriever(Bank(skills, mistakes)), query, 3)
        assert [pair.item_ids for pair in pairs] == [pair.item_ids for pair in expected]
        assert [pair.weight for pair in pairs] == pytest.approx([pair.weight for pair in expected], abs=1e-15)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("In triangle ABC the inscribed circle touches BC. Find the area.", {"triangle", "circle", "area"}),
        ("A fair die is rolled twice. What is the probability that the sum is 7?", {"probability", "dice", "die"}),
        ("Find the remainder when 7^2024 is divided by 13 using modular arithmetic.", {"modular"}),
    ],
)
def test_a_real_bank_answers_with_what_was_asked_for(query: str, words: set[str]) -> None:
    path = BANKS / "raw_candidates_qwen3_1b.json"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine: the real banks are not part of this project")
    bank = load_bank(path)
    pairs = retrieve_pairs(Bm25Retriever(bank), query, 8)
    assert len(pairs) == 8
    assert math.fsum(pair.weight for pair in pairs) == pytest.approx(1.0, abs=1e-15)
    near = [item_text(item) for pair in pairs[:3] for item in (pair.skill, pair.mistake) if item]
    assert any(words & set(tokenize(text)) for text in near[0::2])
    assert any(words & set(tokenize(text)) for text in near[1::2])


def test_an_infinite_temperature_weighs_all_pairs_alike() -> None:
    weights = [pair.weight for pair in retrieve_pairs(Bm25Retriever(BANK), "a", 2, math.inf)]
    assert weights == [1 / len(weights)] * len(weights)
