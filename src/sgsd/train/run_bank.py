"""The bank of a run: the configured one at its start, in a store of the run's own, so that it may grow and go back.

A configured bank that is a store itself brings its history along, so that an item's origin is known in the run as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from sgsd.bank import (
    DYNAMIC,
    Bank,
    BankStore,
    Ledger,
    Version,
    branch_store,
    is_dynamic,
    is_store,
    item_texts,
    rewind_store,
)
from sgsd.distributed.processes import from_first
from sgsd.types import BankItem, Skill, UserError

STORE = "bank.sqlite"  # the run's own bank, in its folder
START = "start of the run"  # the note of the event at which the run began; a store that was another run's has two


@dataclass
class RunBank:
    """The bank that contexts are made from, and the store of its history.

    Only the first process opens the store; the others are sent what it holds. A checkpoint pins `event` and the
    version of `current`.
    """

    path: Path
    source: Path | None  # the configured bank's file; none: it is bundled
    started_from: str  # version of the configured bank
    current: Bank
    event: int = 0  # number of the last event that `current` contains; 0 as long as the store has not been made

    @classmethod
    def configured(cls, bank: Bank, path: Path, source: Path | None = None) -> RunBank:
        return cls(path, source, bank.version, bank)

    def start(self, accelerator: Accelerator) -> None:
        """Put the configured bank into the run's store, or go back to it in a store that is there.

        Raises UserError: the store began with another bank, or the configured one has just been changed.
        """
        configured = self.current
        self._take(accelerator, lambda: _start(self.path, self.source, configured))

    def go_back(self, accelerator: Accelerator, event: int, version: str) -> None:
        """Return to the event that a checkpoint has pinned; later ones are set aside.

        Raises UserError: the store is missing, or holds something else at that event.
        """
        self._take(accelerator, lambda: _go_back(self.path, event, version))

    def _take(self, accelerator: Accelerator, find: Callable[[], tuple[Bank, int]]) -> None:
        self.current, self.event = from_first(accelerator, find)


def _start(path: Path, source: Path | None, configured: Bank) -> tuple[Bank, int]:
    with BankStore(path) as store:
        begun = store.event > 0
    if not begun:
        _fill(path, source, configured)
    with BankStore(path, read_only=True) as store:
        first = run_start(store)
    if first is None or first.version != configured.version:
        raise UserError(f"{path}: the run was started with another bank than the one configured now; put that one back")
    return rewind_store(path, first.event), first.event


def _fill(path: Path, source: Path | None, configured: Bank) -> None:
    """Make the empty store at `path` one that begins with the configured bank."""
    if source is None or not is_store(source):
        with BankStore(path) as store:
            store.import_bank(configured, START)
        return
    with BankStore(source, read_only=True) as store:
        alike = [version for version in store.versions() if version.version == configured.version]
    if not alike:  # somebody has put another file in its place since it was read
        raise UserError(f"{source}: the bank was changed while the run was starting; start it again")
    path.unlink()
    branch_store(source, path, alike[-1].event, START)


def _go_back(path: Path, event: int, version: str) -> tuple[Bank, int]:
    with BankStore(path, read_only=True) as store:
        found = store.snapshot(event).version
    if found != version:
        raise UserError(f"{path}: its event {event} is not the bank of the checkpoint; restore the file from a copy")
    return rewind_store(path, event), event


def run_start(store: BankStore) -> Version | None:
    """Return the version at which the run that owns the store began; None where it is no run's."""
    return next((version for version in reversed(store.versions()) if version.note == START), None)


def initial_items(store: BankStore) -> dict[str, BankItem]:
    """Return the items the run began with, by id: they stay, though another run may have marked them as learned."""
    start = run_start(store)
    return {item.id: item for item in store.snapshot(start.event).items} if start else {}


def item_records(store: BankStore, ledger: Ledger) -> list[dict[str, Any]]:
    """Return one record for every item of the run, the highest standing first: its headline and its ledger row.

    `learned` is the step at which an update brought it, None for an item that the run began with; `kept` says whether
    it stands in the bank now.
    """
    initial = initial_items(store)
    kept = {item.id: item for item in store.snapshot().items}
    last = {event.change.item_id: event for event in store.events()}
    lost = {name: store.item_of(last[name]) for name in ledger.items if name in last}
    known: dict[str, BankItem] = lost | initial | kept
    rows = replace(ledger, items={name: ledger.stats(name) for name in known}).rows()
    return [
        {
            "id": row.id,
            "kind": "skill" if isinstance(item, Skill) else "mistake",
            "says": item_texts(item)[0],
            "learned": item.meta[DYNAMIC] if is_dynamic(item) and row.id not in initial else None,
            "kept": row.id in kept,
            **asdict(row),
        }
        for row in rows
        for item in (known[row.id],)
    ]
