"""Rankings made of rankings: two fused by rank, and one thinned of near-duplicates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np

from sgsd.bank.retrieval.base import Hit, Items, ItemT, Ranker, Retriever, VectorRetriever
from sgsd.types import BankItem, Mistake, Skill, UserError

RRF_CONSTANT = 60  # of Cormack, Clarke and Büttcher (2009): how much less a rank counts than the one before it
FUSED_DEPTH = 128  # of each list, or k where that is more: a deeper rank adds less than 1/188
CANDIDATES = 128  # the best items, among which diversity chooses


class HybridRetriever:
    """Reciprocal rank fusion of two retrievers: words find the named theorem, vectors the meaning.

    score(q, i) = (60 + 1)/2 · Σ_lists 1/(60 + rank(q, i)), over the lists that score i above 0; equal scores share
    the better rank. Ties go to the better rank by `first`, then by item order. Source: Cormack, Clarke, Büttcher 2009.

    Why ranks: BM25 and cosines have no common scale. Why the factor: it puts the first of both lists at 1, and the
    eighth of both at 0.90, so that a softmax at temperature 1 weighs a pool about as it does with cosines; bare sums
    (at most 0.033) would weigh all pairs alike. Skills and mistakes are fused apart, each kind by its own ranks.
    """

    skills: Ranker[Skill]
    mistakes: Ranker[Mistake]

    def __init__(self, bank: Items, first: VectorRetriever, second: Retriever) -> None:
        self.vectors = first.vectors
        place = {item.id: number for number, item in enumerate(bank.items)}
        self.skills = _Fused(place, first.skills, second.skills)
        self.mistakes = _Fused(place, first.mistakes, second.mistakes)


class DiverseRetriever:
    """Maximal marginal relevance: each next item is near the query and unlike those already chosen.

    next = argmax_i (1 − d)·score(q, i) − d·max_{j chosen} ⟨i, j⟩, among the 128 best; ties by rank. A hit keeps the
    score of its retriever, which weighs it: diversity decides who is in the pool and in which place, not how near
    they are. Source: Carbonell and Goldstein 1998. Raises `UserError` for a diversity outside [0, 1].

    Skills and mistakes are thinned apart, before they are paired: near-duplicates arise within a kind (two wordings
    of one skill), a pair is made by rank alone, and two pairs differ as soon as one of their sides does.
    """

    skills: Ranker[Skill]
    mistakes: Ranker[Mistake]

    def __init__(self, retriever: VectorRetriever, diversity: float) -> None:
        if not 0.0 <= diversity <= 1.0:
            raise UserError(f"diversity is {diversity}; give a number from 0 (off) to 1")
        self.skills = _Diverse(retriever.skills, retriever.vectors, diversity)
        self.mistakes = _Diverse(retriever.mistakes, retriever.vectors, diversity)


@dataclass(frozen=True, slots=True)
class _Fused(Generic[ItemT]):
    place: Mapping[str, int]  # of each item in the bank, by id
    first: Ranker[ItemT]
    second: Ranker[ItemT]

    def rank(self, queries: Sequence[str], k: int) -> list[list[Hit[ItemT]]]:
        depth = max(k, FUSED_DEPTH)
        lists = zip(self.first.rank(queries, depth), self.second.rank(queries, depth), strict=True)
        return [fuse_ranks(*both, self.place)[:k] for both in lists]


@dataclass(frozen=True, slots=True)
class _Diverse(Generic[ItemT]):
    ranker: Ranker[ItemT]
    vectors: Callable[[Sequence[BankItem]], np.ndarray]
    diversity: float

    def rank(self, queries: Sequence[str], k: int) -> list[list[Hit[ItemT]]]:
        return [self._chosen(hits, k) for hits in self.ranker.rank(queries, max(k, CANDIDATES))]

    def _chosen(self, hits: Sequence[Hit[ItemT]], k: int) -> list[Hit[ItemT]]:
        candidates, rest = hits[:CANDIDATES], hits[CANDIDATES:]
        if not candidates:
            return []
        scores_N = np.array([hit.score for hit in candidates])
        order = mmr_order(scores_N, self.vectors([hit.item for hit in candidates]), self.diversity, k)
        return [*(candidates[i] for i in order), *rest][:k]


def fuse_ranks(first: Sequence[Hit[ItemT]], second: Sequence[Hit[ItemT]], place: Mapping[str, int]) -> list[Hit[ItemT]]:
    """The items of two lists by reciprocal rank; `place` is the item order, for ties. See `HybridRetriever`."""
    ranks = shared_ranks(first), shared_ranks(second)
    unranked = len(first) + 1
    items = {hit.item.id: hit.item for hit in (*first, *second)}

    def score(name: str) -> float:
        parts = [(RRF_CONSTANT + 1) / (RRF_CONSTANT + of[name]) for of in ranks if name in of]
        return sum(parts) / len(ranks)

    scores = {name: score(name) for name in items}
    order = sorted(items, key=lambda name: (-scores[name], ranks[0].get(name, unranked), place[name]))
    return [Hit(items[name], scores[name]) for name in order]


def shared_ranks(hits: Sequence[Hit[BankItem]]) -> dict[str, int]:
    """The rank of each item that the list scores above 0, from 1; equal scores share the better rank."""
    ranks: dict[str, int] = {}
    rank, last = 0, float("inf")
    for number, hit in enumerate(hits, start=1):
        if hit.score <= 0.0:
            break
        if hit.score < last:
            rank, last = number, hit.score
        ranks[hit.item.id] = rank
    return ranks


def mmr_order(scores_N: np.ndarray, vectors_ND: np.ndarray, diversity: float, k: int) -> list[int]:
    """The first k by maximal marginal relevance, as places in `scores_N`; see `DiverseRetriever`."""
    wide_ND = vectors_ND.astype(np.float64)
    nearest_N = np.zeros(len(scores_N))  # the likeness to the nearest chosen one; the first choice is by score alone
    free_N = np.ones(len(scores_N), dtype=bool)
    chosen: list[int] = []
    while len(chosen) < min(k, len(scores_N)):
        worth_N = (1.0 - diversity) * scores_N - diversity * nearest_N
        pick = int(np.argmax(np.where(free_N, worth_N, -np.inf)))
        likeness_N = (wide_ND * wide_ND[pick]).sum(axis=1)
        nearest_N = np.maximum(nearest_N, likeness_N) if chosen else likeness_N
        free_N[pick] = False
        chosen.append(pick)
    return chosen
