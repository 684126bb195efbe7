"""An item's history: its events, its ancestors, and the memories at the root."""

from __future__ import annotations

import difflib
import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sgsd.bank.history import Event, Kind, Origin
from sgsd.bank.skill_bank import Bank
from sgsd.bank.store import BankStore
from sgsd.bank.text import quoted
from sgsd.types import BankItem, UserError


@dataclass(frozen=True)
class ItemHistory:
    """One item's history.

    `own` are the memories it was extracted from itself; `parents` are the items it stands for, each with a life of its
    own. `current` says whether it stands in the bank now.
    """

    item: BankItem
    current: bool
    events: tuple[Event, ...]
    own: tuple[dict[str, Any], ...]
    parents: tuple[ItemHistory, ...]

    def walk(self) -> Iterator[ItemHistory]:
        """The item and its ancestors, nearer ones first, each once."""
        seen: set[str] = set()
        waiting = deque([self])
        while waiting:
            life = waiting.popleft()
            if life.item.id not in seen:
                seen.add(life.item.id)
                waiting += life.parents
                yield life

    @property
    def memories(self) -> tuple[dict[str, Any], ...]:
        """The item's own and those of all its ancestors, each once."""
        told = ((json.dumps(memory, sort_keys=True), memory) for life in self.walk() for memory in life.own)
        return tuple(dict(told).values())


def item_history(store: BankStore, item_id: str) -> ItemHistory:
    """Return the item's history. Raises UserError where the store has never held such an item."""
    by_item: dict[str, list[Event]] = {}
    for event in store.events():
        if event.change.kind is not Kind.DESCRIBED:
            by_item.setdefault(event.change.item_id, []).append(event)
    if item_id not in by_item:
        near = ", ".join(quoted(name) for name in difflib.get_close_matches(item_id, by_item, n=3))
        hint = f"did you mean {near}?" if near else "`sgsd bank log STORE --events` names all it ever held"
        raise UserError(f"{store.path}: has never held an item {quoted(item_id)}; {hint}")
    return _HistoryReader(store, by_item, store.origins(), {item.id for item in store.snapshot().items}).life(item_id)


@dataclass
class _HistoryReader:
    store: BankStore
    events: dict[str, list[Event]]
    origins: dict[int, Origin]
    current: set[str]

    def life(self, item_id: str) -> ItemHistory:
        """Parents before heirs, without recursion: chains of ancestors may be longer than Python's stack.

        Two items can each stand for the other, one before a rollback and one after it: the way back to an item that
        is under way is left out.
        """
        told: dict[str, ItemHistory] = {}
        under_way = {item_id: iter(self._parents(item_id))}  # from the item down to the ancestor that is looked at
        while under_way:
            name, left = next(reversed(under_way.items()))
            parent = next((found for found in left if found not in told and found not in under_way), None)
            if parent is not None:
                under_way[parent] = iter(self._parents(parent))
            else:
                del under_way[name]
                told[name] = self._life(name, [told[p] for p in self._parents(name) if p in told])
        return told[item_id]

    def _life(self, item_id: str, parents: Sequence[ItemHistory]) -> ItemHistory:
        own = self.events[item_id]
        found = (self.store.memory(name) for name in self._own_memories(item_id))
        return ItemHistory(
            item=self.store.item_of(own[-1]),
            current=item_id in self.current,
            events=tuple(own),
            own=tuple(memory for memory in found if memory is not None),
            parents=tuple(parents),
        )

    def _parents(self, item_id: str) -> list[str]:
        named = dict.fromkeys(name for origin in self._origins(item_id) for name in origin.items)
        return [name for name in named if name in self.events and name != item_id]

    def _own_memories(self, item_id: str) -> list[str]:
        """A merged item's origin names its parents' memories with its own; those are listed where they belong."""
        origins = self._origins(item_id)
        direct = dict.fromkeys(name for origin in origins if not origin.items for name in origin.memories)
        theirs = {
            name for parent in self._parents(item_id) for origin in self._origins(parent) for name in origin.memories
        }
        merged = (name for origin in origins if origin.items for name in origin.memories if name not in theirs)
        return list({**direct, **dict.fromkeys(merged)})

    def _origins(self, item_id: str) -> list[Origin]:
        return [self.origins[event.seq] for event in self.events[item_id] if event.seq in self.origins]


def roll_back(store: BankStore, event: int) -> list[Event]:
    """Make the bank what it was after `event`, by new events: the past is never rewritten.

    Raises:
        UserError: no such event, one within an import (half of which was never the bank), or the store is open for
            reading only.
    """
    before = store.snapshot(event)
    ends = [0, *(version.event for version in store.versions())]
    if event not in ends:
        earlier, later = max(e for e in ends if e < event), min(e for e in ends if e > event)
        raise UserError(
            f"{store.path}: event {event} is in the middle of an import; go back to event {earlier}, before it, or to"
            f" {later}, after it"
        )
    return store.import_bank(before, note=f"rolled back to event {event}")


@dataclass(frozen=True)
class BankDiff:
    """The changes that lead from one bank to another, by id."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    edited: tuple[str, ...]
    moved: bool  # the items that both have stand in another order
    described: bool  # the metadata are others


def diff_banks(before: Bank, after: Bank) -> BankDiff:
    """Compare two banks item by item."""
    old, new = {item.id: item for item in before.items}, {item.id: item for item in after.items}
    kept_before, kept_after = [name for name in old if name in new], [name for name in new if name in old]
    return BankDiff(
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        edited=tuple(name for name in kept_after if old[name] != new[name]),
        moved=kept_before != kept_after,
        described=before.metadata != after.metadata,
    )


def parse_bank_reference(reference: str) -> tuple[str, int | None]:
    """`bank.sqlite@12` as path and event; without a number the latest. Raises UserError for anything else after @."""
    path, mark, number = reference.rpartition("@")
    if not mark:
        return reference, None
    if not re.fullmatch(r"[0-9]{1,15}", number) or not path:
        raise UserError(f"{quoted(reference)}: name a bank, or STORE@EVENT with the number of an event")
    return path, int(number)
