"""Where an item comes from and what has happened to it: its events, its ancestors, and the memories at the root."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sgsd.bank.history import Event, Origin
from sgsd.bank.schema import Bank
from sgsd.bank.store import BankStore
from sgsd.types import BankItem, UserError


@dataclass(frozen=True)
class Life:
    """One item's history.

    `parents` are the items it was merged from, each with a life of its own; `memories` are those it was extracted
    from, or that its parents were. `current` says whether it stands in the bank now.
    """

    item: BankItem
    current: bool
    events: tuple[Event, ...]
    memories: tuple[dict[str, Any], ...]
    parents: tuple[Life, ...]

    def walk(self) -> Iterator[Life]:
        """The item and its ancestors, nearer ones first, each once."""
        seen: dict[str, Life] = {}
        waiting = [self]
        while waiting:
            life = waiting.pop(0)
            if life.item.id not in seen:
                seen[life.item.id] = life
                waiting += life.parents
        yield from seen.values()


def life_of(store: BankStore, item_id: str) -> Life:
    """The item's life. Raises UserError where the store has never held such an item."""
    by_item: dict[str, list[Event]] = {}
    for event in store.events():
        by_item.setdefault(event.change.item_id, []).append(event)
    history = _History(store, by_item, store.origins(), {item.id for item in store.snapshot().items})
    if item_id not in by_item:
        store.snapshot().item(item_id)  # names the nearest ids
    return history.life(item_id)


@dataclass
class _History:
    store: BankStore
    events: dict[str, list[Event]]
    origins: dict[int, Origin]
    current: set[str]
    told: dict[str, Life] = field(default_factory=dict)  # an ancestor of many is looked up once

    def life(self, item_id: str, above: frozenset[str] = frozenset()) -> Life:
        if item_id not in self.told:
            self.told[item_id] = self._life(item_id, above | {item_id})
        return self.told[item_id]

    def _life(self, item_id: str, above: frozenset[str]) -> Life:
        own = self.events[item_id]
        sources = [self.origins[event.seq] for event in own if event.seq in self.origins]
        memory_ids = dict.fromkeys(name for origin in sources for name in origin.memories)
        parent_ids = dict.fromkeys(name for origin in sources for name in origin.items)
        return Life(
            item=self.store.item_of(own[-1]),
            current=item_id in self.current,
            events=tuple(own),
            memories=tuple(memory for name in memory_ids if (memory := self.store.memory(name)) is not None),
            parents=tuple(self.life(name, above) for name in parent_ids if name not in above and name in self.events),
        )


def rolled_back(store: BankStore, event: int) -> list[Event]:
    """Make the bank what it was after `event`, by new events: the past is never rewritten.

    Raises:
        UserError: no such event, or the store is open for reading only.
    """
    return store.import_bank(store.snapshot(event), note=f"rolled back to event {event}")


@dataclass(frozen=True)
class Difference:
    """What leads from one bank to another, by id."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    edited: tuple[str, ...]
    moved: bool  # the same items in another order


def difference(before: Bank, after: Bank) -> Difference:
    """Items that came, went or changed."""
    old, new = {item.id: item for item in before.items}, {item.id: item for item in after.items}
    kept_before, kept_after = [name for name in old if name in new], [name for name in new if name in old]
    return Difference(
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        edited=tuple(name for name in kept_after if old[name] != new[name]),
        moved=kept_before != kept_after,
    )


def at_event(reference: str) -> tuple[str, int | None]:
    """`bank.sqlite@12` as path and event; without a number the latest. Raises UserError for anything else after @."""
    path, mark, number = reference.rpartition("@")
    if not mark:
        return reference, None
    if not number.isdecimal():
        raise UserError(f"{reference}: after @ comes the number of an event, not {number!r}")
    return path, int(number)
