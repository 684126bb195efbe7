"""Where an item comes from and what has happened to it: its events, its ancestors, and the memories at the root."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sgsd.bank.history import Event, Kind, Origin
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

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Life]]:
        """The item and its ancestors, each with its depth."""
        yield depth, self
        for parent in self.parents:
            yield from parent.walk(depth + 1)


def life_of(store: BankStore, item_id: str) -> Life:
    """The item's life. Raises UserError where the store has never held such an item."""
    events, origins = store.events(), store.origins()
    current = store.snapshot()
    return _life(store, events, origins, current, item_id, frozenset())


def _life(
    store: BankStore,
    events: list[Event],
    origins: dict[int, Origin],
    current: Bank,
    item_id: str,
    above: frozenset[str],
) -> Life:
    own = tuple(event for event in events if event.change.item_id == item_id)
    if not own:
        current.item(item_id)  # names the nearest ids
    known = [event for event in own if event.change.kind is not Kind.RETIRED]
    item = store.snapshot(known[-1].seq).item(item_id)
    sources = [origins[event.seq] for event in own if event.seq in origins]
    memory_ids = dict.fromkeys(name for origin in sources for name in origin.memories)
    parent_ids = dict.fromkeys(name for origin in sources for name in origin.items)
    parents = [name for name in parent_ids if name not in above | {item_id}]
    return Life(
        item=item,
        current=any(item_id == there.id for there in current.items),
        events=own,
        memories=tuple(memory for name in memory_ids if (memory := store.memory(name)) is not None),
        parents=tuple(_life(store, events, origins, current, name, above | {item_id}) for name in parents),
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
