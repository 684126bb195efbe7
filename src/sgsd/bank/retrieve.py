"""From a problem's text to its pool of skill pairs: the k nearest skills and the k nearest mistakes, paired by rank."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Generic, Protocol, TypeVar

import bm25s
import numpy as np
from bm25s.stopwords import STOPWORDS_EN

from sgsd.bank.schema import Bank, canonical_json
from sgsd.types import BankItem, Mistake, Skill, SkillPair, UserError

ItemT = TypeVar("ItemT", bound=BankItem)
ItemT_co = TypeVar("ItemT_co", bound=BankItem, covariant=True)

# Words, numbers and operators. A minus sign is one where it does not join two letters: "x - 1", not "non-empty".
_TOKEN = re.compile(
    r"[^\W\d_]+|\d+|[+*/^=<>%|\u00ac\u00b1\u00d7\u00f7\u2190-\u22ff]|(?<![^\W\d_])[-\u2212]|[-\u2212](?![^\W\d_])"
)
_STOPWORDS = frozenset(STOPWORDS_EN)


@dataclass(frozen=True, slots=True)
class Hit(Generic[ItemT_co]):
    """An item and its score for one query; scores are comparable within that query only."""

    item: ItemT_co
    score: float


class Ranker(Protocol[ItemT_co]):
    """Ranks the items of one kind."""

    def rank(self, queries: Sequence[str], k: int) -> Sequence[Sequence[Hit[ItemT_co]]]:
        """The min(k, number of items) best items for each query, best first; scores in [0, 1].

        A query's ranking depends on that query and the bank alone, never on the rest of the batch.
        """


class Retriever(Protocol):
    """A ranker for the skills of a bank and one for its mistakes, their scores on one scale."""

    @property
    def skills(self) -> Ranker[Skill]: ...

    @property
    def mistakes(self) -> Ranker[Mistake]: ...


def item_text(item: BankItem) -> str:
    """The text by which an item is found: all that it says, one field a line."""
    if isinstance(item, Skill):
        return f"{item.title}\n{item.principle}\n{item.when_to_apply}"
    return f"{item.description}\n{item.why_it_happens}\n{item.how_to_avoid}"


def tokenize(text: str) -> list[str]:
    """Lower-cased words, numbers and mathematical operators; compatibility forms folded (x₂ is x 2), stop words out."""
    tokens = _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())
    return [token for token in tokens if token not in _STOPWORDS]


class Bm25Retriever:
    """Lexical retrieval (BM25, Lucene's variant, k1 = 1.5, b = 0.75); no model, no download, ties by item order.

    score(q, i) = bm25(q, i) / max_j bm25(q, j), j over all skills and mistakes of the bank; 0 where nothing matches.

    Why the division: a pair's weight is the softmax, at temperature 1, of its mean score, a rule made for cosines.
    BM25 has no upper bound and grows with the length of the query, so raw scores (10 to 40 for a competition problem)
    would give nearly all the weight to the first pair. On a scale of [0, 1] no pair of a pool weighs more than e times
    another, as with cosines. One index over both kinds makes a skill's score and a mistake's comparable.

    A term counts once in a query however often the problem repeats it. Raises `UserError` for an empty bank.
    """

    skills: Ranker[Skill]
    mistakes: Ranker[Mistake]

    def __init__(self, bank: Bank) -> None:
        _require_items(bank)
        scores = _bm25_scores([item_text(item) for item in bank.items])
        split = len(bank.skills)
        self.skills = _ByScore(bank.skills, lambda query: scores(query)[:split])
        self.mistakes = _ByScore(bank.mistakes, lambda query: scores(query)[split:])


class RandomRetriever:
    """A control: an order of the items drawn from (seed, query), all scores 0, so that all pairs weigh the same.

    Items are sorted by SHA-256 of (seed, query, id): the order is the same on every machine and in every batch, and a
    new item is slipped into it without disturbing the others. Raises `UserError` for an empty bank.
    """

    skills: Ranker[Skill]
    mistakes: Ranker[Mistake]

    def __init__(self, bank: Bank, seed: int) -> None:
        _require_items(bank)
        self.skills = _Shuffled(bank.skills, seed)
        self.mistakes = _Shuffled(bank.mistakes, seed)


def pairs_for(
    retriever: Retriever, queries: Sequence[str], k: int, temperature: float = 1.0
) -> list[tuple[SkillPair, ...]]:
    """The pool of pairs of each query: rank r's skill with rank r's mistake, weighted by score.

    w_r = exp(s_r / T) / Σ exp(s / T), s_r the mean of the two scores. Where one kind has fewer than k items, its side
    of the last pairs is None and the score is the other side's. Raises `UserError` for k < 1, for a temperature that
    is not positive (infinity gives equal weights), and where the retriever finds nothing at all, as in an empty bank.
    """
    if k < 1:
        raise UserError(f"k is {k}; retrieve at least one pair")
    if not temperature > 0.0:
        raise UserError(f"the retrieval temperature is {temperature}; give a positive number")
    skills, mistakes = retriever.skills.rank(queries, k), retriever.mistakes.rank(queries, k)
    return [_pool(*hits, temperature) for hits in zip(skills, mistakes, strict=True)]


def retrieve_pairs(retriever: Retriever, query: str, k: int, temperature: float = 1.0) -> tuple[SkillPair, ...]:
    """The pool of pairs of one query; see `pairs_for`."""
    return pairs_for(retriever, [query], k, temperature)[0]


def softmax(scores: Sequence[float], temperature: float = 1.0) -> tuple[float, ...]:
    """exp(s/T) / Σ exp(s/T) in float64; exactly equivariant under permutation, for the sum is correctly rounded."""
    top = max(scores)
    exponentials = [math.exp((score - top) / temperature) for score in scores]
    total = math.fsum(exponentials)
    return tuple(value / total for value in exponentials)


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
class _ByScore(Generic[ItemT]):
    items: tuple[ItemT, ...]
    scores: Callable[[str], np.ndarray]  # query → one score an item, in the items' order

    def rank(self, queries: Sequence[str], k: int) -> list[list[Hit[ItemT]]]:
        return [self._best(self.scores(query), k) for query in queries]

    def _best(self, scores: np.ndarray, k: int) -> list[Hit[ItemT]]:
        order = np.argsort(-scores, kind="stable")[:k]
        return [Hit(self.items[i], float(scores[i])) for i in order]


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


def _bm25_scores(texts: Sequence[str]) -> Callable[[str], np.ndarray]:
    """A function from a query to the score of each text, the best of them 1 (all 0 where no term occurs)."""
    vocabulary: dict[str, int] = {}
    ids = [[vocabulary.setdefault(token, len(vocabulary)) for token in tokenize(text)] for text in texts]
    if not vocabulary:
        return lambda query: np.zeros(len(texts))
    model = bm25s.BM25(method="lucene", k1=1.5, b=0.75, dtype="float64", backend="numpy")
    model.index((ids, vocabulary), show_progress=False)

    def scores(query: str) -> np.ndarray:
        terms = [token for token in dict.fromkeys(tokenize(query)) if token in vocabulary]
        raw = model.get_scores(terms) if terms else np.zeros(len(texts))
        top = raw.max()
        return raw / top if top > 0.0 else raw

    return scores


def _require_items(bank: Bank) -> None:
    if not len(bank):
        raise UserError("the bank is empty: nothing can be retrieved; give a bank that holds some items")
