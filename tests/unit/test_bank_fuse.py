"""Rankings made of rankings, and the choice among them by name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bank_embed import BANK, MISTAKES, QUERIES, SKILLS, make

from sgsd.bank import (
    Bank,
    Bm25Retriever,
    DiverseRetriever,
    EmbeddingSettings,
    Hit,
    HybridRetriever,
    RandomRetriever,
    Retriever,
    make_retriever,
    pairs_for,
    retrieve_pairs,
)
from sgsd.bank.retrieval.hybrid import fuse_ranks, mmr_order, shared_ranks
from sgsd.train import make_config
from sgsd.types import Skill, UserError

PLACE = {skill.id: number for number, skill in enumerate(SKILLS)}


def listed(*scores: tuple[int, float]) -> list[Hit[Skill]]:
    return [Hit(SKILLS[number], score) for number, score in scores]


def hybrid(bank: Bank = BANK) -> HybridRetriever:
    return HybridRetriever(bank, make(bank=bank), Bm25Retriever(bank))


ALL: list[Retriever] = [hybrid(), DiverseRetriever(hybrid(), 0.5), DiverseRetriever(Bm25Retriever(BANK), 0.9)]


def test_fusion_is_the_published_formula_on_a_scale_of_one() -> None:
    first, second = listed((0, 0.9), (1, 0.8), (2, 0.7)), listed((2, 1.0), (0, 0.5), (3, 0.1))
    expected = {
        "s0": (1 / 61 + 1 / 62) * 61 / 2,
        "s2": (1 / 63 + 1 / 61) * 61 / 2,
        "s1": 1 / 62 * 61 / 2,
        "s3": 1 / 63 * 61 / 2,
    }
    hits = fuse_ranks(first, second, PLACE)
    assert [hit.item.id for hit in hits] == list(expected)
    assert [hit.score for hit in hits] == pytest.approx(list(expected.values()), rel=1e-15)
    assert fuse_ranks(listed((4, 0.1)), listed((4, 1.0)), PLACE)[0].score == 1.0


def test_what_a_list_does_not_find_gets_nothing_from_it() -> None:
    hits = fuse_ranks(listed((3, 0.5), (2, 0.0), (1, -0.2)), listed((0, 0.0), (1, 0.0)), PLACE)
    assert [(hit.item.id, hit.score) for hit in hits] == [("s3", 0.5), ("s0", 0.0), ("s1", 0.0), ("s2", 0.0)]


def test_equal_scores_share_a_rank_and_ties_go_to_the_first_list() -> None:
    assert shared_ranks(listed((0, 1.0), (1, 0.5), (2, 0.5), (3, 0.2))) == {"s0": 1, "s1": 2, "s2": 2, "s3": 4}
    crossed = fuse_ranks(listed((1, 0.9), (0, 0.8)), listed((0, 0.9), (1, 0.8)), PLACE)
    assert [hit.item.id for hit in crossed] == ["s1", "s0"]
    assert crossed[0].score == crossed[1].score
    tied = fuse_ranks(listed((1, 0.9), (0, 0.9)), listed((0, 0.9), (1, 0.9)), PLACE)
    assert [hit.item.id for hit in tied] == ["s0", "s1"], "item order where nothing else decides"


def test_the_top_of_a_hybrid_pool_is_weighed_as_with_cosines() -> None:
    scores = [
        hit.score for hit in fuse_ranks(*(listed(*((i, 1.0 - i / 10) for i in range(6))) for _ in range(2)), PLACE)
    ]
    assert scores[0] == 1.0
    assert math.exp(scores[0] - scores[-1]) < 1.1


@pytest.mark.parametrize("retriever", ALL, ids=["hybrid", "diverse hybrid", "diverse bm25"])
def test_a_query_is_ranked_alike_in_every_batch(retriever: Retriever) -> None:
    together = pairs_for(retriever, QUERIES, 4)
    assert together == [retrieve_pairs(retriever, query, 4) for query in QUERIES]
    assert pairs_for(retriever, QUERIES[::-1], 4) == together[::-1]
    assert pairs_for(retriever, [], 4) == []
    for query in QUERIES:
        [few], [many] = retriever.skills.rank([query], 2), retriever.skills.rank([query], 99)
        assert few == many[:2]
        assert sorted(hit.item.id for hit in many) == sorted(skill.id for skill in SKILLS)
        assert all(0.0 <= hit.score <= 1.0 for hit in many)


def test_one_kind_may_be_missing() -> None:
    for retriever in (hybrid(Bank(SKILLS)), DiverseRetriever(hybrid(Bank(SKILLS)), 0.5)):
        assert retriever.mistakes.rank(["prime"], 3) == [[]]
        assert all(pair.mistake is None for pair in retrieve_pairs(retriever, "prime", 3))


def by_the_book(scores: Sequence[float], likeness: np.ndarray, d: float, k: int) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < min(k, len(scores)):
        left = [i for i in range(len(scores)) if i not in chosen]
        worth = {i: (1 - d) * scores[i] - d * max((likeness[i, j] for j in chosen), default=0.0) for i in left}
        chosen.append(max(left, key=lambda i: (worth[i], -i)))
    return chosen


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 12), d=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
@settings(max_examples=100, deadline=None)
def test_diversity_is_maximal_marginal_relevance(seed: int, count: int, d: float) -> None:
    """Scores and likenesses are multiples of 1/64, so that nothing is rounded and ties are real."""
    draw = np.random.default_rng(seed)
    vectors = draw.integers(-2, 3, (count, 4)) / 8
    scores = np.sort(draw.integers(0, 8, count) / 8)[::-1]
    k = int(draw.integers(1, count + 1))
    order = mmr_order(scores, vectors, d, k)
    assert order == by_the_book(scores.tolist(), vectors @ vectors.T, d, k)
    if d == 0.0:
        assert order == list(range(k))


def test_diversity_leaves_out_what_was_said_already_and_keeps_scores() -> None:
    double = Skill("copy", SKILLS[0].title, SKILLS[0].principle, SKILLS[0].when_to_apply)
    retriever = make(bank=Bank((SKILLS[0], double, *SKILLS[1:]), MISTAKES))
    [plain] = retriever.skills.rank(["prime angle"], 7)
    [diverse] = DiverseRetriever(retriever, 0.9).skills.rank(["prime angle"], 7)
    assert [hit.item.id for hit in plain[:2]] == ["s0", "copy"]
    assert [diverse[0].item.id, diverse[-1].item.id] == ["s0", "copy"]
    assert {hit.item.id: hit.score for hit in diverse} == {hit.item.id: hit.score for hit in plain}
    lexical = Bm25Retriever(Bank((SKILLS[0], double, *SKILLS[1:])))
    [diverse] = DiverseRetriever(lexical, 0.6).skills.rank(["prime angle"], 3)
    assert diverse[0].item.id == "s0"
    assert "copy" not in [hit.item.id for hit in diverse]


def test_beyond_the_candidates_the_order_is_the_retrievers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgsd.bank.retrieval.hybrid.CANDIDATES", 3)
    [plain], [diverse] = (r.skills.rank(["dice"], 6) for r in (make(), DiverseRetriever(make(), 0.9)))
    assert diverse[3:] == plain[3:]
    assert sorted(map(str, diverse[:3])) == sorted(map(str, plain[:3]))


def test_term_vectors_compare_items_by_their_words() -> None:
    vectors = Bm25Retriever(Bank((*SKILLS, Skill("odd", "…", "…", "…")))).vectors((*SKILLS, Skill("x", "…", "…", "…")))
    likeness = vectors @ vectors.T
    np.testing.assert_allclose(np.diag(likeness), [1.0] * len(SKILLS) + [0.0], atol=1e-12)
    assert likeness[0, 1] > likeness[0, 3] > 0.0, "a shared rare word counts more than words that all have"


@pytest.mark.parametrize("diversity", [-0.1, 1.1, math.nan])
def test_a_diversity_outside_its_range_is_refused(diversity: float) -> None:
    with pytest.raises(UserError, match=r"from 0 \(off\) to 1"):
        DiverseRetriever(make(), diversity)


def test_a_name_gives_its_retriever() -> None:
    assert isinstance(make_retriever("bm25", BANK), Bm25Retriever)
    assert isinstance(make_retriever("random", BANK, seed=3), RandomRetriever)
    assert isinstance(make_retriever("bm25", BANK, diversity=0.3), DiverseRetriever)
    assert pairs_for(make_retriever("random", BANK, seed=3), QUERIES, 3) == pairs_for(
        RandomRetriever(BANK, 3), QUERIES, 3
    )


MIXES = [
    ({"retrieval": "embedding"}, "retrieval by embedding needs an embedding model"),
    ({"retrieval": "hybrid"}, "retrieval by hybrid needs an embedding model"),
    ({"embedding": {"model": "a/b"}}, "an embedding model is named, but retrieval is by bm25"),
    ({"retrieval": "random", "embedding": {"model": "a/b"}}, "an embedding model is named, but retrieval is by random"),
    ({"retrieval": "random", "diversity": 0.5}, "diversity means nothing to random retrieval"),
    ({"diversity": 1.5}, r"bank\.diversity"),
    ({"retrieval": "hybrid", "embedding": {"model": "a/b", "device": "gpu"}}, r"bank\.embedding\.device"),
    ({"retrieval": "hybrid", "embedding": {"model": "a/b", "modle": 1}}, "no such key"),
    ({"retrieval": "faiss"}, r"bank\.retrieval"),
]


@pytest.mark.parametrize(("bank", "reason"), MIXES, ids=[reason for _, reason in MIXES])
def test_a_configuration_refuses_what_does_not_go_together(bank: dict[str, object], reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        make_config({"bank": {"path": "lab", **bank}})
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("config: bank")


def test_the_same_mixes_are_refused_without_a_configuration() -> None:
    for kind in ("embedding", "hybrid"):
        with pytest.raises(UserError, match="needs an embedding model"):
            make_retriever(kind, BANK)
    with pytest.raises(UserError, match="retrieval is by bm25"):
        make_retriever("bm25", BANK, embedding=EmbeddingSettings("a/b"))


def test_a_configuration_says_everything_the_model_needs() -> None:
    embedding = {"model": "Qwen/Qwen3-Embedding-0.6B", "revision": "a" * 40, "instruction": "Instruct: …\nQuery:"}
    config = make_config(
        {"bank": {"path": "lab", "retrieval": "hybrid", "embedding": embedding}, "model": {"dtype": "float32"}}
    )
    assert config.bank.embedding is not None
    assert config.bank.embedding.to_settings() == EmbeddingSettings(**embedding)
