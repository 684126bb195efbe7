"""Retrieval of skills without mistakes, or of mistakes without skills: scores and weights are that side's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sgsd.bank import Hit, Ranker, Retriever
from sgsd.methods.context import PairSide
from sgsd.types import Mistake, Skill


@dataclass(frozen=True)
class _Nothing:
    def rank(self, queries: Sequence[str], k: int) -> list[list[Hit[Any]]]:
        return [[] for _ in queries]


@dataclass(frozen=True)
class _OneSided:
    skills: Ranker[Skill]
    mistakes: Ranker[Mistake]


def one_sided(retriever: Retriever, side: PairSide) -> Retriever:
    """The retriever itself for whole pairs."""
    if side == "pair":
        return retriever
    if side == "skill":
        return _OneSided(retriever.skills, _Nothing())
    return _OneSided(_Nothing(), retriever.mistakes)
