"""Lexical retrieval: BM25, and what two items have in common word by word."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Generic

import bm25s
import numpy as np
from bm25s.stopwords import STOPWORDS_EN

from sgsd.bank.retrieval.base import Hit, Items, ItemT, Ranker, item_text, require_items, top_k
from sgsd.types import BankItem, Mistake, Skill

# Words, numbers and operators. A minus sign is one where it does not join two letters: "x - 1", not "non-empty".
_TOKEN = re.compile(
    r"[^\W\d_]+|\d+|[+*/^=<>%|\u00ac\u00b1\u00d7\u00f7\u2190-\u22ff]|(?<![^\W\d_])[-\u2212]|[-\u2212](?![^\W\d_])"
)
_STOPWORDS = frozenset(STOPWORDS_EN)


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

    def __init__(self, bank: Items) -> None:
        require_items(bank)
        self._bank = bank
        scores = _bm25_scores([item_text(item) for item in bank.items])
        split = len(bank.skills)
        self.skills = _ByScore(bank.skills, lambda query: scores(query)[:split])
        self.mistakes = _ByScore(bank.mistakes, lambda query: scores(query)[split:])

    def vectors(self, items: Sequence[BankItem]) -> np.ndarray:
        """Rows [N, V] of length 1: (1 + log f)·idf of each term, f how often the item has it; for comparing items."""
        counts = [Counter(tokenize(item_text(item))) for item in items]
        columns = {term: column for column, term in enumerate(dict.fromkeys(chain.from_iterable(counts)))}
        weights_NV = np.zeros((len(counts), len(columns)))
        for row, count in enumerate(counts):
            for term, frequency in count.items():
                weights_NV[row, columns[term]] = (1.0 + math.log(frequency)) * self._rarity(term)
        lengths_N1 = np.linalg.norm(weights_NV, axis=1, keepdims=True)
        return weights_NV / np.where(lengths_N1 > 0.0, lengths_N1, 1.0)

    def _rarity(self, term: str) -> float:
        return math.log(1.0 + len(self._bank.items) / max(1, self._items_with[term]))

    @cached_property
    def _items_with(self) -> Counter[str]:
        return Counter(chain.from_iterable(set(tokenize(item_text(item))) for item in self._bank.items))


@dataclass(frozen=True, slots=True)
class _ByScore(Generic[ItemT]):
    items: tuple[ItemT, ...]
    scores: Callable[[str], np.ndarray]  # query → one score an item, in the items' order

    def rank(self, queries: Sequence[str], k: int) -> list[list[Hit[ItemT]]]:
        return [self._best(self.scores(query), k) for query in queries]

    def _best(self, scores: np.ndarray, k: int) -> list[Hit[ItemT]]:
        return [Hit(self.items[i], float(scores[i])) for i in top_k(scores, k)]


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
