"""Retrieval by meaning: the items whose vectors lie nearest to the query's, exactly and for any batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import numpy as np

from sgsd.bank.retrieval.base import Hit, Items, ItemT, Ranker, item_text, require_items, top_k
from sgsd.bank.retrieval.encoder import Encoder
from sgsd.bank.retrieval.vector_cache import VectorCache
from sgsd.types import BankItem, Mistake, Skill

BLOCK_QUERIES = 32  # scored at a time: the products of 100,000 items with 32 queries take 13 MB
BLOCK_ROWS = 4096  # scored exactly at a time


class Embedder:
    """An encoder with its caches: what a text's vector is, made at most once."""

    def __init__(self, encoder: Encoder, cache: Path | None) -> None:
        self._encoder = encoder
        self._queries = VectorCache(cache, encoder.query_space, encoder.dimension)
        self._documents = VectorCache(cache, encoder.document_space, encoder.dimension)

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Rows [N, D] of length 1."""
        return self._queries.vectors(texts, self._encoder.queries)

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        """Rows [N, D] of length 1."""
        return self._documents.vectors(texts, self._encoder.documents)


class EmbeddingRetriever:
    """Retrieval by cosine, as published: score(q, i) = ⟨q, i⟩ of vectors of length 1; ties by item order.

    Raises `UserError` for an empty bank.
    """

    skills: Ranker[Skill]
    mistakes: Ranker[Mistake]

    def __init__(self, bank: Items, embedder: Embedder) -> None:
        require_items(bank)
        self._embedder = embedder
        vectors_ND = self.vectors(bank.items)
        split = len(bank.skills)
        self.skills = _Nearest(bank.skills, vectors_ND[:split], embedder.queries)
        self.mistakes = _Nearest(bank.mistakes, vectors_ND[split:], embedder.queries)

    def vectors(self, items: Sequence[BankItem]) -> np.ndarray:
        """Rows [N, D] of length 1: the product of two is their cosine."""
        return self._embedder.documents([item_text(item) for item in items])


@dataclass(frozen=True, slots=True)
class _Nearest(Generic[ItemT]):
    items: tuple[ItemT, ...]
    vectors_ND: np.ndarray
    embed: Callable[[Sequence[str]], np.ndarray]

    def rank(self, queries: Sequence[str], k: int) -> list[list[Hit[ItemT]]]:
        found: list[list[Hit[ItemT]]] = []
        queries_QD = self.embed(queries)
        for start in range(0, len(queries), BLOCK_QUERIES):
            block_QD = queries_QD[start : start + BLOCK_QUERIES]
            rough_QN = block_QD @ self.vectors_ND.T
            for query_D, rough_N in zip(block_QD, rough_QN, strict=True):
                places, scores = nearest(self.vectors_ND, query_D, rough_N, k)
                found.append([Hit(self.items[i], float(score)) for i, score in zip(places, scores, strict=True)])
        return found


def nearest(vectors_ND: np.ndarray, query_D: np.ndarray, rough_N: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k rows nearest to a query and their cosines, from products of vectors of length 1 that rounding has touched.

    `rough_N` is a float32 matrix product, whose last bits depend on the batch and the library. It is off by less than
    γ = D·2⁻²⁴, so each of the true k best stands within 2γ of the k-th best rough product; those few are computed
    again in float64, a row at a time, and these scores decide.
    """
    k = min(k, len(rough_N))
    if k < 1:
        return np.empty(0, dtype=np.intp), np.empty(0)
    slack = 2.0 * (len(query_D) + 8) * 2.0**-24  # 8: the lengths are not exactly 1
    floor = float(np.partition(rough_N, -k)[-k]) - slack
    near = np.flatnonzero(rough_N >= np.float64(floor))
    wide_D = query_D.astype(np.float64)
    blocks = (near[start : start + BLOCK_ROWS] for start in range(0, len(near), BLOCK_ROWS))
    # Not a matrix product: summed row by row, a score does not depend on which rows stand beside it.
    scores = np.concatenate([(vectors_ND[block] * wide_D).sum(axis=1) for block in blocks])
    chosen = top_k(np.clip(scores, -1.0, 1.0), k)
    return near[chosen], np.clip(scores, -1.0, 1.0)[chosen]
