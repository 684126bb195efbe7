"""Retrieval of pairs for the contexts of a run, as its configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sgsd.bank import Bank, CurrentLedger, Hit, Ranker, RerankedRetriever, Retriever, make_retriever, pairs_for, reweigh
from sgsd.config.run_config import RunConfig
from sgsd.contexts.controls import RandomPairs
from sgsd.contexts.skill_pairs import PairSide, SkillPairs
from sgsd.types import Mistake, Skill, SkillPair


@dataclass(frozen=True)
class PairRetrieval:
    """Retrieves a pool of pairs for each query, as a declaration says; those of `RandomPairs` are drawn by chance.

    `temperature` is that of the pairs' weights; `ledger` is asked anew at every use.
    """

    config: RunConfig
    bank: Bank
    ledger: CurrentLedger
    temperature: float
    _made: dict[bool, Retriever] = field(default_factory=dict)

    def __call__(self, pairs: SkillPairs, queries: Sequence[str]) -> list[tuple[SkillPair, ...]]:
        chosen = self.config.bank
        retriever = one_sided(self.retriever(pairs), pairs.side)
        if not queries:
            return []
        pools = pairs_for(retriever, queries, pairs.k, self.temperature, chosen.pairing)
        if not chosen.reweigh:
            return pools
        return [reweigh(pool, self.ledger(), chosen.reweigh, self.temperature) for pool in pools]

    def retriever(self, pairs: SkillPairs) -> Retriever:
        """Made once for each kind. Raises UserError for an empty bank, or a model that cannot be had."""
        by_chance = isinstance(pairs, RandomPairs)
        if by_chance not in self._made:
            self._made[by_chance] = self._random() if by_chance else self._configured()
        return self._made[by_chance]

    def _random(self) -> Retriever:
        return make_retriever("random", self.bank, seed=self.config.seed)

    def _configured(self) -> Retriever:
        chosen = self.config.bank
        embedding = chosen.embedding.to_settings() if chosen.embedding else None
        retriever = make_retriever(
            chosen.retrieval, self.bank, seed=self.config.seed, diversity=chosen.diversity, embedding=embedding
        )
        return RerankedRetriever(retriever, self.ledger, chosen.rerank) if chosen.rerank else retriever


@dataclass(frozen=True)
class _Nothing:
    def rank(self, queries: Sequence[str], k: int) -> list[list[Hit[Any]]]:
        return [[] for _ in queries]


@dataclass(frozen=True)
class _OneSided:
    skills: Ranker[Skill]
    mistakes: Ranker[Mistake]


def one_sided(retriever: Retriever, side: PairSide) -> Retriever:
    """Retrieval of skills without mistakes, or the reverse: scores and weights are that side's own."""
    if side == "pair":
        return retriever
    if side == "skill":
        return _OneSided(retriever.skills, _Nothing())
    return _OneSided(_Nothing(), retriever.mistakes)
