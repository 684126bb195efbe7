"""A bank's history as values: events, their fold, and the events that lead from one bank to another. No file here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sgsd.bank.schema import canonical_json, content_hash, hash_of, version_of
from sgsd.bank.skill_bank import Bank

NO_METADATA = hash_of(canonical_json({}))


class Kind(StrEnum):
    """Kinds of events; `described` replaces the bank's metadata and has no item."""

    CREATED = "created"
    MERGED = "merged"  # created to stand for other items, or, as it is, standing for others from now on
    EDITED = "edited"
    RETIRED = "retired"
    RESTORED = "restored"
    DESCRIBED = "described"


class Content(StrEnum):
    """Kinds of stored contents."""

    SKILL = "skill"
    MISTAKE = "mistake"
    METADATA = "metadata"


@dataclass(frozen=True, slots=True)
class Change:
    """An event that has not been written yet. For a retired item the hash is that of its last content."""

    kind: Kind
    content: Content
    item_id: str
    content_hash: str


@dataclass(frozen=True, slots=True)
class Event:
    """A change in its place in the log. The events of one import share a batch, so that half of it is no version."""

    seq: int
    batch: int
    change: Change
    note: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Sources of an event's item: memories, and items it stands for; both by id, sorted."""

    memories: tuple[str, ...] = ()
    items: tuple[str, ...] = ()


@dataclass
class State:
    """The sum of a run of events: item id → content hash, in the bank's order, and the ids that are retired."""

    skills: dict[str, str] = field(default_factory=dict)
    mistakes: dict[str, str] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)
    metadata: str = NO_METADATA

    @property
    def version(self) -> str:
        """`Bank.version` of the bank in this state."""
        return version_of(list(self.skills.values()), list(self.mistakes.values()))

    def section(self, content: Content) -> dict[str, str]:
        return self.skills if content is Content.SKILL else self.mistakes

    def apply(self, change: Change) -> None:
        """Take one step. Created and restored items go to the end of their section, edited ones keep their place.

        Raises `ValueError` where the step is impossible: the log was written by something else.
        """
        if change.kind is Kind.DESCRIBED:
            self.metadata = change.content_hash
            return
        item_id, section = change.item_id, self.section(change.content)
        known = item_id in self.skills or item_id in self.mistakes
        possible = {
            Kind.CREATED: not known and item_id not in self.retired,
            Kind.MERGED: item_id in section or (not known and item_id not in self.retired),
            Kind.RESTORED: item_id in self.retired,
            Kind.EDITED: item_id in section,
            Kind.RETIRED: item_id in section,
        }
        if not possible[change.kind]:
            raise ValueError(f"item {item_id!r} cannot be {change.kind} there")
        if change.kind is Kind.RETIRED:
            del section[item_id]
            self.retired.add(item_id)
        else:
            section[item_id] = change.content_hash
            self.retired.discard(item_id)


def state_of(bank: Bank) -> State:
    """The state whose snapshot is `bank`."""
    return State(
        skills={skill.id: content_hash(skill) for skill in bank.skills},
        mistakes={mistake.id: content_hash(mistake) for mistake in bank.mistakes},
        metadata=hash_of(canonical_json(dict(bank.metadata))),
    )


def changes_between(before: State, after: State, merged: Collection[str] = ()) -> list[Change]:
    """The events that make a bank in state `before` equal to `after`, order included; none if it is equal already.

    Ids in `merged` stand for other items: new ones are merged instead of created, and unchanged ones say so too.

    Items only ever move to the end, so one that stands behind an item placed after it is retired and restored.
    Retirements come first: an id that turns from a skill into a mistake must be free before it is taken.
    """
    retirements, rest = [], []
    gone = set(before.retired)
    for content in (Content.SKILL, Content.MISTAKE):
        old, kept = before.section(content), _kept(before.section(content), after.section(content))
        for item_id, digest in old.items():
            if item_id not in kept:
                retirements.append(Change(Kind.RETIRED, content, item_id, digest))
                gone.add(item_id)
    for content in (Content.SKILL, Content.MISTAKE):
        old, new = before.section(content), after.section(content)
        kept = _kept(old, new)
        for item_id, digest in new.items():
            if item_id not in kept:
                new_kind = Kind.MERGED if item_id in merged else Kind.CREATED
                kind = Kind.RESTORED if item_id in gone else new_kind
                rest.append(Change(kind, content, item_id, digest))
            elif old[item_id] != digest:
                rest.append(Change(Kind.EDITED, content, item_id, digest))
            elif item_id in merged:
                rest.append(Change(Kind.MERGED, content, item_id, digest))
    if before.metadata != after.metadata:
        rest.append(Change(Kind.DESCRIBED, Content.METADATA, "", after.metadata))
    return retirements + rest


def _kept(old: Mapping[str, str], new: Mapping[str, str]) -> set[str]:
    """The ids that need not move: the longest beginning of `new` that `old` holds in the same order."""
    remaining = iter([item_id for item_id in old if item_id in new])
    return {item_id for item_id in new if item_id in remaining}  # `in` reads an iterator on, to its end after a miss
