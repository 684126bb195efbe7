"""Random retrieval, a control: every query gets an order of the items that has nothing to do with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from sgsd.bank.retrieval.base import Hit, Items, ItemT, Ranker, require_items
from sgsd.bank.schema import canonical_json
from sgsd.types import Mistake, Skill


class RandomRetriever:
    """A control: an order of the items drawn from (seed, query), all scores 0, so that all pairs weigh the same.

    Items are sorted by SHA-256 of (seed, query, id): the order is the same on every machine and in every batch, and a
    new item is slipped into it without disturbing the others. Raises `UserError` for an empty bank.
    """

    skills: Ranker[Skill]
    mistakes: Ranker[Mistake]

    def __init__(self, bank: Items, seed: int) -> None:
        require_items(bank)
        self.skills = _Shuffled(bank.skills, seed)
        self.mistakes = _Shuffled(bank.mistakes, seed)


@dataclass(frozen=True, slots=True)
class _Shuffled(Generic[ItemT]):
    items: tuple[ItemT, ...]
    seed: int

    def rank(self, queries: Sequence[str], k: int) -> list[list[Hit[ItemT]]]:
        return [[Hit(item, 0.0) for item in self._order(query)[:k]] for query in queries]

    def _order(self, query: str) -> list[ItemT]:
        drawn = hashlib.sha256(canonical_json([self.seed, query]).encode("utf-8", "surrogatepass"))

        def key(item: ItemT) -> bytes:
            mixed = drawn.copy()
            mixed.update(item.id.encode())
            return mixed.digest()

        return sorted(self.items, key=key)
