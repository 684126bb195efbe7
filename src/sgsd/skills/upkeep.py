"""Upkeep during a run: new items from the last steps' rollouts come in, and surplus learned ones go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from sgsd.bank import Bank, Origin, Proposal, add_items, join_duplicates
from sgsd.config.skills_config import SkillsConfig
from sgsd.skills.build import BuildSettings, merge_kinds
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

    @classmethod
    def from_config(cls, skills: SkillsConfig) -> UpkeepSettings:
        """Take the settings of a run's config."""
        built = BuildSettings.from_config(skills)
        return cls(skills.every, skills.threshold, skills.add, skills.capacity, built.extract, built.merge)


@dataclass(frozen=True)
class UpkeepResult:
    """The bank after one update, and what was done to it."""

    bank: Bank
    success: float  # share of right answers in the window
    memories: int
    proposals: int = 0
    added: tuple[Proposal, ...] = ()
    removed: tuple[str, ...] = ()
    refused: Counter[str] = field(default_factory=Counter)

    def to_record(self) -> dict[str, Any]:
        """Return the update as a line of bank.jsonl."""
        return {
            "success": self.success,
            "memories": self.memories,
            "proposals": self.proposals,
            "added": [proposal.item.id for proposal in self.added],
            "removed": list(self.removed),
            "refused": dict(self.refused),
        }

    @property
    def origins(self) -> dict[str, Origin]:
        """The new items' origins by id, for the store."""
        return {p.item.id: Origin(tuple(sorted(p.memories)), tuple(sorted(p.items))) for p in self.added}


def update_bank(
    bank: Bank,
    window: Sequence[Memory],
    client: WriterClient,
    settings: UpkeepSettings,
    step: int,
    *,
    item_filter: ItemFilter | None = None,
    score: Callable[[str], float] | None = None,
    given: Collection[str] = (),
) -> UpkeepResult:
    """Extract, merge, add and prune: the bank after the window's rollouts. Pure but for the client's calls.

    Learned items of the lowest `score` go first (none: the oldest). Items that another process's rollouts have already
    brought (equal ids) are not added again.

    Raises:
        WriterError: the writer failed; the bank is what it was.
    """
    success = sum(memory.correct for memory in window) / max(1, len(window))
    if not window or success >= settings.threshold:
        return UpkeepResult(bank, success, len(window))
    extraction = extract(window, client, settings.extract, item_filter)
    merges = merge_kinds(extraction.proposals, client, settings.merge)
    proposals = join_duplicates(p for merged in merges.values() for p in merged.items)
    ordered = sorted(proposals, key=lambda p: -len(p.memories))  # what most memories speak for: only a few are taken
    new, taken = add_items(
        bank, ordered, step=step, add=settings.add, capacity=settings.capacity, score=score, given=given
    )
    left = {item.id for item in new.items}
    removed = tuple(item.id for item in bank.items if item.id not in left)
    return UpkeepResult(new, success, len(window), len(ordered), tuple(taken), removed, extraction.refused)
