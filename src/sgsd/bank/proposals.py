"""Changes of a bank as pure functions: a bank and proposals in, a bank out. Nothing here calls a model."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from sgsd.bank.schema import canonical_json, check_item, hash_of, item_texts
from sgsd.bank.skill_bank import Bank
from sgsd.types import BankItem, Mistake, Skill

ItemT = TypeVar("ItemT", bound=BankItem)
DYNAMIC = "dynamic"  # the mark, in an item's meta, of what was learned during a run: only that is ever pruned


@dataclass(frozen=True, slots=True)
class Proposal:
    """An item that wants to stand in a bank, and where it comes from: ids of memories and of items it stands for."""

    item: BankItem
    memories: tuple[str, ...] = ()
    items: tuple[str, ...] = ()


def content_id(item: BankItem) -> str:
    """Return the id that an item's words alone decide: the same words have the same id in every run.

    "gen_" (skill) or "err_" (mistake) + the first 12 hexadecimal digits of the SHA-256 of its words, folded so that
    case, spacing and ways to compose a letter make no difference. (Compatibility forms do: x² is not x2.)
    """
    folded = [_fold(text) for text in item_texts(item)]
    return ("gen_" if isinstance(item, Skill) else "err_") + hash_of(canonical_json(folded))[:12]


def with_content_id(item: ItemT) -> ItemT:
    """Return the item under its `content_id`. Raises UserError where the item could not stand in a bank."""
    named = replace(item, id=content_id(item))
    check_item(named)
    return named


def _fold(text: str) -> str:
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text).casefold()).strip()


def join_duplicates(proposals: Iterable[Proposal]) -> list[Proposal]:
    """Make exact duplicates (equal words, whatever their ids) one: the first, with the origins of all."""
    found: dict[str, Proposal] = {}
    for proposal in proposals:
        known = found.setdefault(content_id(proposal.item), proposal)
        if known is not proposal:
            found[content_id(known.item)] = Proposal(
                known.item, _union(known.memories, proposal.memories), _union(known.items, proposal.items)
            )
    return list(found.values())


def _union(left: Sequence[str], right: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*left, *right)))


def bank_of_proposals(proposals: Iterable[Proposal], metadata: Mapping[str, object] | None = None) -> Bank:
    """Make a bank of the proposed items, skills and mistakes each in their order, duplicates joined."""
    items = [proposal.item for proposal in join_duplicates(proposals)]
    skills = tuple(item for item in items if isinstance(item, Skill))
    mistakes = tuple(item for item in items if isinstance(item, Mistake))
    return Bank(skills, mistakes, dict(metadata or {}))


def is_dynamic(item: BankItem) -> bool:
    """Tell whether the item was learned during a run; the mark is the step."""
    return type(item.meta.get(DYNAMIC)) is int


def remove_items(bank: Bank, ids: Iterable[str]) -> Bank:
    """Return the bank without the items of those ids."""
    gone = set(ids)
    return replace(
        bank,
        skills=tuple(skill for skill in bank.skills if skill.id not in gone),
        mistakes=tuple(mistake for mistake in bank.mistakes if mistake.id not in gone),
    )


def add_items(
    bank: Bank,
    proposals: Iterable[Proposal],
    *,
    step: int,
    add: int = 5,
    capacity: int = 30,
    score: Callable[[str], float] | None = None,
    given: Collection[str] = (),
) -> tuple[Bank, list[Proposal]]:
    """Return the bank with up to `add` new dynamic items, pruned to `capacity` of them, and the proposals taken in.

    What the bank says already, in the same words, is no new item. Items of the bank's beginning are never pruned: those
    without a mark, and the `given` ids, which may bear another run's. Of the dynamic ones those of the lowest `score`
    go first; without one (the published way) the oldest. An item just taken in is not pruned by its own arrival.
    """
    known = {item.id for item in bank.items} | {content_id(item) for item in bank.items}
    fresh = [p for p in join_duplicates(proposals) if known.isdisjoint({p.item.id, content_id(p.item)})][
        : min(add, capacity)
    ]
    marked = [replace(p, item=replace(p.item, meta={**p.item.meta, DYNAMIC: step})) for p in fresh]
    dynamic = [item for item in bank.items if is_dynamic(item) and item.id not in given]
    order = {item.id: (score(item.id) if score else 0.0, item.meta[DYNAMIC], item.id) for item in dynamic}
    surplus = max(0, len(dynamic) + len(marked) - capacity)
    pruned = sorted(order, key=lambda item_id: order[item_id])[:surplus]
    left = remove_items(bank, pruned)
    new_skills = tuple(p.item for p in marked if isinstance(p.item, Skill))
    new_mistakes = tuple(p.item for p in marked if isinstance(p.item, Mistake))
    return replace(left, skills=(*left.skills, *new_skills), mistakes=(*left.mistakes, *new_mistakes)), marked
