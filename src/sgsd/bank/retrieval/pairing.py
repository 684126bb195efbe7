"""Pools of skill pairs for a problem's text: the k nearest skills and the k nearest mistakes, paired by rank."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Literal

from sgsd.bank.retrieval.base import Hit, ItemT, Retriever
from sgsd.types import Mistake, Skill, SkillPair, UserError

Pairing = Literal["rank", "rotated"]


def pairs_for(
    retriever: Retriever, queries: Sequence[str], k: int, temperature: float = 1.0, pairing: Pairing = "rank"
) -> list[tuple[SkillPair, ...]]:
    """Make the pool of pairs of each query: rank r's skill with rank r's mistake, weighted by score.

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
    """Make the pool of pairs of one query; see `pairs_for`."""
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
