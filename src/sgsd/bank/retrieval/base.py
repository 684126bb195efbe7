"""From a problem's text to its pool of skill pairs: the k nearest skills and the k nearest mistakes, paired by rank."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np

from sgsd.bank.schema import Bank, canonical_json
from sgsd.types import BankItem, Mistake, Skill, SkillPair, UserError

ItemT = TypeVar("ItemT", bound=BankItem)
ItemT_co = TypeVar("ItemT_co", bound=BankItem, covariant=True)


Pairing = Literal["rank", "rotated"]


@dataclass(frozen=True, slots=True)
class Hit(Generic[ItemT_co]):
    """An item and its score for one query; scores are comparable within that query only."""

    item: ItemT_co
    score: float


class Ranker(Protocol[ItemT_co]):
    """Ranks the items of one kind."""

    def rank(self, queries: Sequence[str], k: int) -> Sequence[Sequence[Hit[ItemT_co]]]:
        """The min(k, number of items) best items for each query, best first; scores in [-1, 1], as cosines are.

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
    """The text by which an item is found: all that it says, one field a line."""
    if isinstance(item, Skill):
        return f"{item.title}\n{item.principle}\n{item.when_to_apply}"
    return f"{item.description}\n{item.why_it_happens}\n{item.how_to_avoid}"


class RandomRetriever:
    """A control: an order of the items drawn from (seed, query), all scores 0, so that all pairs weigh the same.

    Items are sorted by SHA-256 of (seed, query, id): the order is the same on every machine and in every batch, and a
    new item is slipped into it without disturbing the others. Raises `UserError` for an empty bank.
    """

    skills: Ranker[Skill]
    mistakes: Ranker[Mistake]

    def __init__(self, bank: Bank, seed: int) -> None:
        require_items(bank)
        self.skills = _Shuffled(bank.skills, seed)
        self.mistakes = _Shuffled(bank.mistakes, seed)


def pairs_for(
    retriever: Retriever, queries: Sequence[str], k: int, temperature: float = 1.0, pairing: Pairing = "rank"
) -> list[tuple[SkillPair, ...]]:
    """The pool of pairs of each query: rank r's skill with rank r's mistake, weighted by score.

    w_r = exp(s_r / T) / Σ exp(s / T), s_r the mean of the two scores. With pairing "rotated" rank r's skill goes with
    the mistake of rank (r + h) mod k, h a hash of the query. By rank, problems of one kind show an item with the same
    partner every time, and what is learned of the one is learned of both; rotated, each meets all the others.

    Where one kind has fewer than k items, its side of the last pairs is None and the score is the other side's. Raises
    `UserError` for k < 1, for a temperature that is not positive (infinity gives equal weights), and where the
    retriever finds nothing at all, as in an empty bank.
    """
    if k < 1:
        raise UserError(f"k is {k}; retrieve at least one pair")
    if not temperature > 0.0:
        raise UserError(f"the retrieval temperature is {temperature}; give a positive number")
    unique = list(dict.fromkeys(queries))  # rollouts of one problem ask the same
    skills, mistakes = retriever.skills.rank(unique, k), retriever.mistakes.rank(unique, k)
    if pairing == "rotated":
        mistakes = [_rotated(hits, query) for hits, query in zip(mistakes, unique, strict=True)]
    pools = (_pool(*hits, temperature) for hits in zip(skills, mistakes, strict=True))
    pool_of = dict(zip(unique, pools, strict=True))
    return [pool_of[query] for query in queries]


def retrieve_pairs(retriever: Retriever, query: str, k: int, temperature: float = 1.0) -> tuple[SkillPair, ...]:
    """The pool of pairs of one query; see `pairs_for`."""
    return pairs_for(retriever, [query], k, temperature)[0]


def softmax(scores: Sequence[float], temperature: float = 1.0) -> tuple[float, ...]:
    """exp(s/T) / Σ exp(s/T) in float64; exactly equivariant under permutation, for the sum is correctly rounded."""
    top = max(scores)
    exponentials = [math.exp((score - top) / temperature) for score in scores]
    total = math.fsum(exponentials)
    return tuple(value / total for value in exponentials)


def _rotated(hits: Sequence[Hit[ItemT]], query: str) -> list[Hit[ItemT]]:
    digest = hashlib.sha256(query.encode("utf-8", "surrogatepass")).digest()
    shift = int.from_bytes(digest[:8], "big") % max(1, len(hits))
    return [*hits[shift:], *hits[:shift]]


def _pool(skills: Sequence[Hit[Skill]], mistakes: Sequence[Hit[Mistake]], temperature: float) -> tuple[SkillPair, ...]:
    rows = list(zip_longest(skills, mistakes))
    if not rows:
        raise UserError("nothing was retrieved, not even one item; give a bank that holds some")
    scores = [math.fsum(hit.score for hit in row if hit) / sum(hit is not None for hit in row) for row in rows]
    return tuple(
        SkillPair(skill.item if skill else None, mistake.item if mistake else None, score, weight)
        for (skill, mistake), score, weight in zip(rows, scores, softmax(scores, temperature), strict=True)
    )


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


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """The places of the k highest scores, highest first, ties in their order; the whole is never sorted."""
    k = min(k, len(scores))
    if k < 1:
        return np.empty(0, dtype=np.intp)
    enough = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    return enough[np.argsort(-scores[enough], kind="stable")[:k]]


def require_items(bank: Bank) -> None:
    """Raises UserError for an empty bank."""
    if not len(bank):
        raise UserError("the bank is empty: nothing can be retrieved; give a bank that holds some items")
