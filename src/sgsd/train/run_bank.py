"""The bank of a run: the configured one at its start, in a store of the run's own, so that it may grow and go back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from sgsd.bank import Bank, BankStore, fork_store
from sgsd.train.processes import from_first
from sgsd.types import UserError


@dataclass
class RunBank:
    """What contexts are made from now, and where its history is kept.

    Only the first process opens the store; the others are sent what it holds. A checkpoint pins `event` and the
    version of `current`.
    """

    path: Path
    started_from: str  # version of the configured bank
    current: Bank
    event: int = 0  # number of the last event that `current` contains; 0 as long as the store has not been made

    @classmethod
    def configured(cls, bank: Bank, path: Path) -> RunBank:
        return cls(path, bank.version, bank)

    def start(self, accelerator: Accelerator) -> None:
        """Put the configured bank into the run's store, or go back to it in a store that is there.

        Raises:
            UserError: the store began with another bank.
        """
        configured = self.current
        self._take(accelerator, lambda: _start(self.path, configured))

    def go_back(self, accelerator: Accelerator, event: int, version: str) -> None:
        """Return to the event that a checkpoint has pinned; later ones are set aside.

        Raises:
            UserError: the store is missing, or holds something else at that event.
        """
        self._take(accelerator, lambda: _go_back(self.path, event, version))

    def _take(self, accelerator: Accelerator, find: Callable[[], tuple[Bank, int]]) -> None:
        self.current, self.event = from_first(accelerator, find)


def _start(path: Path, configured: Bank) -> tuple[Bank, int]:
    with BankStore(path) as store:
        if store.event == 0:
            store.import_bank(configured, "start of the run")
        first = store.versions()[0]
    if first.version != configured.version:
        raise UserError(f"{path}: the run was started with another bank than the one configured now; put that one back")
    return fork_store(path, path, first.event), first.event


def _go_back(path: Path, event: int, version: str) -> tuple[Bank, int]:
    with BankStore(path, read_only=True) as store:
        found = store.snapshot(event).version
    if found != version:
        raise UserError(f"{path}: its event {event} is not the bank of the checkpoint; restore the file from a copy")
    return fork_store(path, path, event), event
