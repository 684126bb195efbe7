"""Retrieval that has learned: what the ledger knows of an item moves it up or down, and weighs its pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic

from sgsd.bank.ledger import Ledger
from sgsd.bank.retrieval.base import Hit, ItemT, Ranker, Retriever
from sgsd.bank.retrieval.pairing import softmax
from sgsd.types import Mistake, Skill, SkillPair, UserError

CANDIDATES = 4  # times as many hits as asked for are looked at: an item far off the problem stays out, however trusted

CurrentLedger = Callable[[], Ledger]


@dataclass(frozen=True)
class RerankedRetriever:
    """Reorders another retriever's hits by the ledger as it is at each query; see `rerank` for the rule."""

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
        ledger = self.ledger()
        return [rerank(hits, ledger, self.weight)[:k] for hits in self.ranker.rank(queries, CANDIDATES * k)]


def rerank(hits: Sequence[Hit[ItemT]], ledger: Ledger, weight: float = 0.1) -> list[Hit[ItemT]]:
    """Order hits by score + weight · trust, ties as they stood.

    Each hit keeps its retrieval score: trust decides who is chosen, `pair_weights` what the chosen weigh. Give more
    hits than you will keep. The default moves an item past others that match at most 0.2 better (scores end at 1).
    """
    return sorted(hits, key=lambda hit: -(hit.score + weight * ledger.trust(hit.item.id)))


def pair_weights(
    pairs: Sequence[SkillPair], ledger: Ledger, strength: float = 1.0, temperature: float = 1.0
) -> tuple[float, ...]:
    """Weights that sum to 1: softmax(score / temperature + strength · trust), trust of both items pooled.

    With strength 0 they are the weights of retrieval. Trust lies in (−1, 1), so by the default no pair gains or loses
    more than a factor e.
    """
    if not temperature > 0.0:
        raise UserError(f"the temperature of the pair weights is {temperature}; give a positive number")
    return softmax([pair.score / temperature + strength * ledger.trust(*pair.item_ids) for pair in pairs])


def reweigh(
    pairs: Sequence[SkillPair], ledger: Ledger, strength: float, temperature: float = 1.0
) -> tuple[SkillPair, ...]:
    """Return the pairs with the weights of `pair_weights`."""
    weights = pair_weights(pairs, ledger, strength, temperature)
    return tuple(replace(pair, weight=weight) for pair, weight in zip(pairs, weights, strict=True))
