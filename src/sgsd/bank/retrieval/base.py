"""Rankers and retrievers: the protocols, and what all of them use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from sgsd.bank.schema import item_texts
from sgsd.types import BankItem, Mistake, Skill, UserError

ItemT = TypeVar("ItemT", bound=BankItem)
ItemT_co = TypeVar("ItemT_co", bound=BankItem, covariant=True)


class Items(Protocol):
    """A retriever's view of a bank."""

    @property
    def skills(self) -> tuple[Skill, ...]: ...

    @property
    def mistakes(self) -> tuple[Mistake, ...]: ...

    @property
    def items(self) -> tuple[BankItem, ...]: ...


@dataclass(frozen=True, slots=True)
class Hit(Generic[ItemT_co]):
    """An item and its score for one query; scores are comparable within that query only."""

    item: ItemT_co
    score: float


class Ranker(Protocol[ItemT_co]):
    """Ranks the items of one kind."""

    def rank(self, queries: Sequence[str], k: int) -> Sequence[Sequence[Hit[ItemT_co]]]:
        """Return the min(k, number of items) best items for each query, best first; scores in [-1, 1], as cosines are.

        A query's ranking depends on that query and the bank alone, never on the rest of the batch.
        """


class Retriever(Protocol):
    """A ranker for the skills of a bank and one for its mistakes, their scores on one scale."""

    @property
    def skills(self) -> Ranker[Skill]: ...

    @property
    def mistakes(self) -> Ranker[Mistake]: ...


class VectorRetriever(Retriever, Protocol):
    """A retriever that can also say how alike two items are."""

    def vectors(self, items: Sequence[BankItem]) -> np.ndarray:
        """Rows [N, D] of length 1 (0 for an item without a word): the product of two rows is their likeness."""
        ...


def item_text(item: BankItem) -> str:
    """Return the text by which an item is found: all that it says, one field a line."""
    return "\n".join(item_texts(item))


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the k highest scores, highest first, ties in their order; the whole is never sorted."""
    k = min(k, len(scores))
    if k < 1:
        return np.empty(0, dtype=np.intp)
    enough = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    return enough[np.argsort(-scores[enough], kind="stable")[:k]]


def require_items(bank: Items) -> None:
    """Raise UserError for an empty bank."""
    if not bank.items:
        raise UserError("the bank is empty: nothing can be retrieved; give a bank that holds some items")
