"""A bank of skills and mistakes in memory. One that exists is valid, whether read from a file or built in code."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sgsd.bank.retrieval.encoder import EmbeddingSettings
from sgsd.bank.retrieval.factory import Retrieval, make_retriever
from sgsd.bank.retrieval.pairing import retrieve_pairs
from sgsd.bank.schema import checked_bank, content_hash, item_record, version_of
from sgsd.bank.text import quoted
from sgsd.types import BankItem, Mistake, Skill, SkillPair, UserError


@dataclass(frozen=True)
class Bank:
    """Skills and mistakes in their order, with the metadata of the file they came from.

    Raises `UserError`, naming the item and the field, where the content breaks the format's rules.
    """

    skills: tuple[Skill, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "skills", tuple(self.skills))
        object.__setattr__(self, "mistakes", tuple(self.mistakes))
        object.__setattr__(self, "metadata", dict(self.metadata))
        checked_bank(bank_record(self), "the bank")

    def __len__(self) -> int:
        return len(self.skills) + len(self.mistakes)

    @property
    def items(self) -> tuple[BankItem, ...]:
        """The skills, then the mistakes."""
        return (*self.skills, *self.mistakes)

    @cached_property
    def version(self) -> str:
        """SHA-256 of the content: the items, their ids and their order; the bank's metadata is not part of it."""
        return version_of([content_hash(skill) for skill in self.skills], [content_hash(m) for m in self.mistakes])

    def search(
        self,
        problem: str,
        k: int = 8,
        *,
        retrieval: Retrieval = "bm25",
        embedding: EmbeddingSettings | None = None,
        diversity: float = 0.0,
    ) -> tuple[SkillPair, ...]:
        """Find the k pairs of a skill and a mistake that a problem's teachers would be shown, best first.

            weight_r = exp(s_r) / Σ exp(s),   s_r the mean score of rank r's skill and rank r's mistake

        For many problems make one retriever, by `make_retriever`, and ask it with `pairs_for`: that indexes once.

        Args:
            problem: the problem's text.
            k: number of pairs; fewer come back where the bank holds fewer items.
            retrieval: "bm25" (words), "embedding" (meaning), "hybrid" (both) or "random" (a control).
            embedding: the model of "embedding" and "hybrid".
            diversity: how much unlike one another the items must be, from 0 (not at all) to 1.

        Returns:
            Pairs with `skill`, `mistake`, `score` (in [-1, 1]) and `weight` (all weights sum to 1).

        Raises:
            UserError: the bank is empty, k is below 1, or the settings do not go together.

        Example:
            >>> hint = Skill("s1", "Legendre", "Sum the floors of n / p^i.", "Zeros at the end of a factorial.")
            >>> pair, = Bank(skills=(hint,)).search("How many zeros end 100 factorial?", k=3)
            >>> pair.skill.title, pair.weight
            ('Legendre', 1.0)
        """
        retriever = make_retriever(retrieval, self, diversity=diversity, embedding=embedding)
        return retrieve_pairs(retriever, problem, k)

    def item(self, item_id: str) -> BankItem:
        """The item of that id; a `UserError` suggests the nearest ids where there is none."""
        if item_id in self._items:
            return self._items[item_id]
        near = ", ".join(quoted(name) for name in difflib.get_close_matches(item_id, self._items, n=3))
        raise UserError(f"the bank has no item {quoted(item_id)}" + (f"; did you mean {near}?" if near else ""))

    @cached_property
    def _items(self) -> dict[str, BankItem]:
        return {item.id: item for item in self.items}


def bank_record(bank: Bank) -> dict[str, Any]:
    """The bank as the published JSON writes it."""
    return {
        "general_skills": [item_record(skill) for skill in bank.skills],
        "task_specific_skills": {},
        "common_mistakes": [item_record(mistake) for mistake in bank.mistakes],
        "metadata": dict(bank.metadata),
    }


def bank_of(record: Any, source: str) -> Bank:
    """The bank that a parsed file holds. `source` names the file in a refusal, which is a `UserError`."""
    checked = checked_bank(record, source)
    return Bank(
        skills=tuple(Skill(r.skill_id, r.title, r.principle, r.when_to_apply, r.meta) for r in checked.general_skills),
        mistakes=tuple(
            Mistake(r.mistake_id, r.description, r.why_it_happens, r.how_to_avoid, r.meta)
            for r in checked.common_mistakes
        ),
        metadata=checked.metadata,
    )
