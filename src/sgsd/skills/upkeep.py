"""Upkeep during a run: what the last steps' rollouts teach is added to the bank, and what has been refuted goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from sgsd.bank import Bank, Origin, Proposal, add_items, join_duplicates, remove_items
from sgsd.skills.build import merge_kinds
from sgsd.skills.extraction import ExtractSettings, ItemFilter, extract
from sgsd.skills.memories import Memory
from sgsd.skills.merge import MergeSettings
from sgsd.skills.writers.writer_client import WriterClient


@dataclass(frozen=True)
class UpkeepSettings:
    """When and how far the bank changes; the defaults are the published ones."""

    every: int = 25  # steps
    threshold: float = 0.8  # success of the window from which nothing is done
    add: int = 5
    capacity: int = 30  # items learned during the run that are kept
    extract: ExtractSettings = field(default_factory=ExtractSettings)
    merge: MergeSettings = field(default_factory=MergeSettings)


@dataclass(frozen=True)
class UpkeepResult:
    """What one update did."""

    bank: Bank
    success: float  # share of right answers in the window
    memories: int
    proposals: int = 0
    added: tuple[Proposal, ...] = ()
    removed: tuple[str, ...] = ()
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def origins(self) -> dict[str, Origin]:
        """Where the new items come from, for the store."""
        return {p.item.id: Origin(tuple(sorted(p.memories)), tuple(sorted(p.items))) for p in self.added}


def update_bank(
    bank: Bank,
    window: Sequence[Memory],
    client: WriterClient,
    settings: UpkeepSettings,
    step: int,
    *,
    item_filter: ItemFilter | None = None,
    worth: Callable[[str], float] | None = None,
    retired: Sequence[str] = (),
    given: Collection[str] = (),
) -> UpkeepResult:
    """The bank after the window's rollouts: extract, merge, add, prune. Pure but for what the desk asks.

    `worth` says which learned items go first (none: the oldest); `retired` go in any case, and their ids stay known
    to the caller. Items that another process's rollouts have already brought (equal ids) are not added again.

    Raises:
        WriterError: the writer failed; the bank is what it was.
    """
    success = sum(memory.correct for memory in window) / max(1, len(window))
    gone = set(retired)
    if not window or success >= settings.threshold:
        return _after(bank, remove_items(bank, gone), success, len(window))
    extraction = extract(window, client, settings.extract, item_filter)
    merges = merge_kinds(extraction.proposals, client, settings.merge)
    proposals = [p for merged in merges.values() for p in merged.items if p.item.id not in gone]
    # What most memories speak for comes first: only the first few are taken.
    ordered = sorted(join_duplicates(proposals), key=lambda p: -len(p.memories))
    new, taken = add_items(
        remove_items(bank, gone),
        ordered,
        step=step,
        add=settings.add,
        capacity=settings.capacity,
        worth=worth,
        given=given,
    )
    return _after(bank, new, success, len(window), len(ordered), taken, extraction.refused)


def _after(
    before: Bank,
    after: Bank,
    success: float,
    memories: int,
    proposals: int = 0,
    taken: Sequence[Proposal] = (),
    refused: Counter[str] | None = None,
) -> UpkeepResult:
    left = {item.id for item in after.items}
    removed = tuple(item.id for item in before.items if item.id not in left)
    return UpkeepResult(after, success, memories, proposals, tuple(taken), removed, refused or Counter())
