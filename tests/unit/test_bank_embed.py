"""Retrieval by vectors: exact for any batch, each text embedded once, and a cache that can only cost time."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsd.bank import Bank, Embedder, EmbeddingRetriever, item_text, pairs_for, retrieve_pairs
from sgsd.bank.retrieval import vector_cache as vectors_module
from sgsd.bank.retrieval.embedding import nearest
from sgsd.bank.retrieval.vector_cache import VectorCache, unit_rows
from sgsd.types import Mistake, Skill, UserError

WORDS = ("prime", "angle", "dice", "parity", "root", "circle")
SKILLS = tuple(Skill(f"s{i}", f"{a} {b}", "Think.", "Often.") for i, (a, b) in enumerate(zip(WORDS, WORDS[1:] + WORDS)))
MISTAKES = tuple(Mistake(f"m{i}", f"wrong {a}", "Haste.", "Look.") for i, a in enumerate(WORDS[::-1]))
BANK = Bank(SKILLS, MISTAKES)
QUERIES = ["prime angle", "dice", "circle of dice", "nothing here", "", "half a character: \ud800"]


class WordEncoder:
    """A vector is the sum of its words' vectors, drawn from their hashes; counts how often it embeds each text."""

    dimension = 48

    def __init__(self, space: str = "words") -> None:
        self.query_space, self.document_space = f"{space}, queries", f"{space}, documents"
        self.asked: Counter[str] = Counter()

    def queries(self, texts: list[str]) -> np.ndarray:
        self.asked.update(texts)
        return np.stack([self._vector(text) for text in texts])

    documents = queries

    def _vector(self, text: str) -> np.ndarray:
        total = np.full(self.dimension, 0.01)
        for word in text.lower().split():
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
            total += np.random.default_rng(seed).standard_normal(self.dimension)
        return total


def make(cache: Path | None = None, encoder: WordEncoder | None = None, bank: Bank = BANK) -> EmbeddingRetriever:
    return EmbeddingRetriever(bank, Embedder(encoder or WordEncoder(), cache))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_scores_are_cosines_and_the_nearest_comes_first() -> None:
    encoder = WordEncoder()
    [hits] = make(encoder=encoder).skills.rank(["prime angle"], 6)
    query = encoder._vector("prime angle")
    for hit in hits:
        item = encoder._vector(item_text(hit.item))
        assert hit.score == pytest.approx(query @ item / np.linalg.norm(query) / np.linalg.norm(item), abs=1e-6)
    assert hits[0].item is SKILLS[0]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_query_is_ranked_alike_in_every_batch() -> None:
    retriever = make()
    together = pairs_for(retriever, QUERIES, 4)
    assert together == [retrieve_pairs(make(), query, 4) for query in QUERIES]
    assert pairs_for(retriever, (QUERIES * 20)[::-1], 4) == (together * 20)[::-1]
    assert pairs_for(retriever, [], 4) == []
    [few], [many] = retriever.skills.rank(["dice"], 2), retriever.skills.rank(["dice"], 6)
    assert few == many[:2]


def test_each_text_is_embedded_once_in_a_process_and_never_again_with_its_cache(tmp_path: Path) -> None:
    first = WordEncoder()
    retriever = make(tmp_path, first)
    expected = [pairs_for(retriever, QUERIES * 8, 3) for _ in range(2)][1]
    assert set(first.asked.values()) == {1}
    assert len(first.asked) == len(BANK) + len(QUERIES)
    second = WordEncoder()
    assert pairs_for(make(tmp_path, second), QUERIES * 8, 3) == expected
    assert not second.asked
    grown = Bank((*SKILLS, Skill("new", "new", "new", "new")), MISTAKES)
    make(tmp_path, second, grown)
    assert list(second.asked) == ["new\nnew\nnew"], "a bank that grows embeds what is new"


def test_another_space_has_other_vectors(tmp_path: Path) -> None:
    make(tmp_path, WordEncoder("words"))
    other = WordEncoder("words, revision 2")
    make(tmp_path, other)
    assert len(other.asked) == len(BANK)


def test_one_kind_may_be_missing_and_ties_go_by_item_order() -> None:
    twins = tuple(Skill(f"t{i}", WORDS[i % 2], "Think.", "Often.") for i in range(500))
    retriever = make(bank=Bank(twins))
    [hits] = retriever.skills.rank(["prime"], 400)
    assert [hit.item for hit in hits] == [*twins[0::2], *twins[1::2]][:400]
    assert len({hit.score for hit in hits}) == 2
    assert retriever.mistakes.rank(["prime"], 3) == [[]]
    with pytest.raises(UserError, match="the bank is empty"):
        make(bank=Bank())


@given(data=st.data(), count=st.integers(1, 40), k=st.integers(0, 45))
@settings(max_examples=150, deadline=None)
def test_the_nearest_are_the_nearest_whatever_rounding_did(data: st.DataObject, count: int, k: int) -> None:
    """Few distinct rows make ties; the rough products are off by as much as the bound allows."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    draw = np.random.default_rng(seed)
    distinct = unit_rows(draw.standard_normal((5, 64)))
    rows = distinct[draw.integers(0, 5, count)]
    rows = unit_rows(rows + draw.choice([0.0, 1e-7], (count, 1)) * draw.standard_normal((count, 64)))
    query = unit_rows(draw.standard_normal((1, 64)))[0]
    exact = (rows.astype(np.float64) * query).sum(axis=1)
    rough = (exact + draw.uniform(-1, 1, count) * 64 * 2.0**-24).astype(np.float32)
    places, scores = nearest(rows, query, rough, k)
    expected = sorted(range(count), key=lambda i: (-exact[i], i))[:k]
    assert places.tolist() == expected
    assert scores.tolist() == [exact[i] for i in expected]


def test_a_score_does_not_depend_on_the_rows_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    rows, query = unit_rows(draw.standard_normal((300, 383))), unit_rows(draw.standard_normal((1, 383)))[0]
    whole = dict(zip(*nearest(rows, query, rows @ query, 300), strict=True))
    for size in (1, 2, 7):
        monkeypatch.setattr("sgsd.bank.retrieval.embedding.BLOCK_ROWS", size)
        assert dict(zip(*nearest(rows, query, rows @ query, 300), strict=True)) == whole


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def _named_by_content(path: Path) -> None:
    """A file that the name vouches for, though no cache wrote it."""
    path.rename(path.with_name(f"{hashlib.sha256(path.read_bytes()).hexdigest()}.npy"))


def _as_pickle(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    _named_by_content(path)


def _too_long_a_shape(path: Path) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)})
    _named_by_content(path)


def _other_rows(path: Path) -> None:
    np.save(path, np.zeros((3, 48), np.float32))
    _named_by_content(path)


def _as_archive(path: Path) -> None:
    np.savez(path.with_suffix(".npz"), np.zeros(3))
    path.with_suffix(".npz").rename(path)
    _named_by_content(path)


def _emptied(path: Path) -> None:
    path.write_bytes(b"")
    _named_by_content(path)


@pytest.mark.parametrize(
    "damage",
    [
        _flip,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b"not an array"),
        _emptied,
        _as_pickle,
        _as_archive,
        _too_long_a_shape,
        _other_rows,
    ],
    ids=["bit", "cut", "text", "empty", "pickle", "archive", "shape", "dtype"],
)
def test_a_damaged_file_costs_time_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object]
) -> None:
    expected = pairs_for(make(tmp_path), QUERIES, 4)
    for path in files(tmp_path):
        damage(path)
    encoder = WordEncoder()
    assert pairs_for(make(tmp_path, encoder), QUERIES, 4) == expected
    assert set(encoder.asked.values()) == {1}
    assert len(encoder.asked) == len(BANK) + len(QUERIES)
    assert len(warnings(caplog)) == 2
    assert all("damaged" in line and str(tmp_path) in line for line in warnings(caplog))
    caplog.clear()
    again = WordEncoder()
    assert pairs_for(make(tmp_path, again), QUERIES, 4) == expected
    assert not again.asked
    assert not warnings(caplog), "the damaged file is gone, the new one is whole"


def test_where_nothing_can_be_written_a_warning_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert pairs_for(make(blocked), QUERIES, 4) == pairs_for(make(), QUERIES, 4)
    assert [line for line in warnings(caplog) if "no vectors can be cached" in line] == warnings(caplog)
    assert len(warnings(caplog)) == 2, "once for items, once for queries"


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    make(tmp_path)
    assert files(tmp_path) == []


def test_many_small_files_become_one_and_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors_module, "MANY_FILES", 4)
    retriever = make(tmp_path)
    for query in QUERIES:
        retriever.skills.rank([query], 1)
    (tmp_path / "draft.tmp").write_bytes(b"left by a kill")
    before = len(files(tmp_path))
    encoder = WordEncoder()
    make(tmp_path, encoder).skills.rank(QUERIES, 1)
    assert len(files(tmp_path)) == before - len(QUERIES) + 1
    make(tmp_path, encoder).skills.rank(QUERIES, 1)
    assert not encoder.asked


def test_processes_that_share_a_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    one, two = (VectorCache(tmp_path, "space", 48) for _ in range(2))
    embed = WordEncoder().queries
    first, second = one.vectors(["a", "b"], embed), two.vectors(["b", "c"], embed)
    np.testing.assert_array_equal(first[1], second[0])
    third = VectorCache(tmp_path, "space", 48)
    for path in files(tmp_path):
        path.unlink()  # joined by another process just after this one listed the folder
    np.testing.assert_array_equal(third.vectors(["a", "c"], embed), np.stack([first[0], second[1]]))


def test_a_long_first_embedding_is_kept_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors_module, "BLOCK_TEXTS", 3)
    asked: list[str] = []

    def killed(texts: list[str]) -> np.ndarray:
        if len(asked) >= 6:
            raise KeyboardInterrupt
        asked.extend(texts)
        return WordEncoder().queries(texts)

    texts = [f"text {i}" for i in range(9)]
    with pytest.raises(KeyboardInterrupt):
        VectorCache(tmp_path, "space", 48).vectors(texts, killed)
    rest = WordEncoder()
    VectorCache(tmp_path, "space", 48).vectors(texts, rest.queries)
    assert list(rest.asked) == texts[6:]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_vector_without_direction_is_refused(value: float) -> None:
    def embed(texts: Sequence[str]) -> np.ndarray:
        return np.full((len(texts), 48), value)

    with pytest.raises(UserError, match="zero or not finite; use dtype float32"):
        VectorCache(None, "space", 48).vectors(["a"], embed)
