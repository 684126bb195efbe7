"""Retrieval that has learned: what the ledger knows of an item moves it up or down, and weighs its pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic

from sgsd.bank.ledger import Ledger, pair_weights, rerank
from sgsd.bank.retrieval.base import Hit, ItemT, Ranker, Retriever
from sgsd.types import Mistake, Skill, SkillPair

CANDIDATES = 4  # times as many hits as asked for are looked at: an item far off the problem stays out, however trusted

CurrentLedger = Callable[[], Ledger]


@dataclass(frozen=True)
class RerankedRetriever:
    """Reorders another retriever's hits by the ledger as it is when asked; see `reranked` for the rule."""

    retriever: Retriever
    ledger: CurrentLedger
    weight: float

    @property
    def skills(self) -> Ranker[Skill]:
        return _RerankedRanker(self.retriever.skills, self.ledger, self.weight)

    @property
    def mistakes(self) -> Ranker[Mistake]:
        return _RerankedRanker(self.retriever.mistakes, self.ledger, self.weight)


@dataclass(frozen=True)
class _RerankedRanker(Generic[ItemT]):
    ranker: Ranker[ItemT]
    ledger: CurrentLedger
    weight: float

    def rank(self, queries: Sequence[str], k: int) -> list[list[Hit[ItemT]]]:
        now = self.ledger()
        return [rerank(hits, now, self.weight)[:k] for hits in self.ranker.rank(queries, CANDIDATES * k)]


def weighed(
    pairs: Sequence[SkillPair], ledger: Ledger, strength: float, temperature: float = 1.0
) -> tuple[SkillPair, ...]:
    """The pairs with weights that the ledger has a say in; see `pair_weights` for the rule."""
    weights = pair_weights(pairs, ledger, strength, temperature)
    return tuple(replace(pair, weight=weight) for pair, weight in zip(pairs, weights, strict=True))
