"""`sgsd bank log|diff|rollback|why|stats|lint`: what a bank has been through. Each returns what is to be printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from sgsd.bank import (
    Bank,
    BankStore,
    Event,
    ItemHistory,
    Severity,
    Version,
    diff_banks,
    is_dynamic,
    is_store,
    item_history,
    item_texts,
    lint_bank,
    open_bank,
    parse_bank_reference,
    roll_back,
)
from sgsd.cli.arguments import BankAt, BankPath, EventNumber, Item, RunOrNone, Store
from sgsd.cli.bank_ledger import best_and_worst, item_in_run
from sgsd.cli.bank_text import counted, headline, plain, summary
from sgsd.types import Skill, UserError

EXCERPT = 160  # characters of a problem
ROLLOUTS = 5  # shown of one item; one that was proposed in the same words over and over has hundreds


@dataclass(frozen=True)
class Refused:
    """A command's output where its answer is no, and the line with which it ends."""

    shown: RenderableType
    complaint: str

    def __rich__(self) -> RenderableType:
        return self.shown


def log(store: Store, events: bool = False, limit: int = 50) -> RenderableType:
    """The versions of a store, newest last, or every single event.

    Args:
        store: The store to read.
        events: Show every event instead of the versions.
        limit: How many of the newest to show.
    """
    if limit < 1:
        raise UserError(f"--limit is {limit}; show at least one")
    with BankStore(store, read_only=True) as source:
        table, rows = _events(source.events()) if events else _versions(source.versions())
    for row in rows[-limit:]:
        table.add_row(*(plain(cell) for cell in row))
    earlier = [plain(f"… and {len(rows) - limit} earlier; see them with --limit")] if len(rows) > limit else []
    return Group(*earlier, table)


def diff(before: BankAt, after: BankAt) -> RenderableType:
    """Show what leads from one bank to another.

    Args:
        before: A bank, or a store as it was after an event: STORE@EVENT.
        after: A bank, or STORE@EVENT.
    """
    old, new = _bank_at(before), _bank_at(after)
    found = diff_banks(old, new)
    lines: list[RenderableType] = [plain(f"+ {name}: {headline(new.item(name))}") for name in found.added]
    lines += [plain(f"- {name}: {headline(old.item(name))}") for name in found.removed]
    for name in found.edited:
        changed = [(was, now) for was, now in zip(item_texts(old.item(name)), item_texts(new.item(name))) if was != now]
        lines.append(plain(f"~ {name}" + ("" if changed else ": the same words, another meta")))
        lines += [plain(f"    was: {was}\n    now: {now}") for was, now in changed]
    counts = [f"{len(found.added)} added, {len(found.removed)} removed, {len(found.edited)} edited"]
    counts += ["the others in another order"] if found.moved else []
    counts += ["other metadata"] if found.described else []
    return Group(*lines, plain(", ".join(counts)))


def rollback(store: Store, event: EventNumber) -> RenderableType:
    """Make the bank of a store what it was after an event; the history between stays and can be returned to.

    Args:
        store: The store to change.
        event: The number of the event, as `sgsd bank log` shows it.
    """
    BankStore(store, read_only=True).close()  # a misspelt path must not become an empty store
    with BankStore(store) as target:
        written = roll_back(target, event)
        bank = target.snapshot()
        now = target.event
    done = f"back to event {event} by {len(written)} new events" if written else f"is as after event {event} already"
    return plain(f"{store}: {done}; {summary(bank)}, at event {now}")


def why(store: Store, item: Item, run: RunOrNone = None, limit: int = 20) -> RenderableType:
    """Show where an item comes from: its events, the items it stands for, and the rollouts they were learned from.

    Args:
        store: The store to read.
        item: The id of the item, which may have been retired since.
        run: The folder of a run that used the item, to show what its ledger says of it.
        limit: How many of the items it stands for to show, the nearest first.
    """
    if limit < 0:
        raise UserError(f"--limit is {limit}; give 0 or more")
    with BankStore(store, read_only=True) as source:
        life = item_history(source, item)
    shown = {ancestor.item.id for ancestor in islice(life.walk(), limit + 1)}
    ledger = [Text(), item_in_run(item, run)] if run is not None else []
    return Group(_tree(life, shown), *_sum(life, limit), *ledger)


def stats(path: BankPath, run: RunOrNone = None) -> RenderableType:
    """Show how much a bank holds, how long its texts are, and how much of it was learned during a run.

    Args:
        path: A JSON file or a store.
        run: The folder of a run that used the bank, to show its best and worst items.
    """
    bank = open_bank(path)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("version", bank.version[:12])
    for name, items in (("skills", bank.skills), ("mistakes", bank.mistakes)):
        words = [sum(len(text.split()) for text in item_texts(item)) for item in items]
        size = f", {mean(words):.0f} words on average, {max(words)} at most" if words else ""
        learned = sum(is_dynamic(item) for item in items)
        table.add_row(name, f"{len(items)}{size}, {learned} learned during a run")
    findings = Counter(str(finding.kind) for finding in lint_bank(bank))
    table.add_row("lint", ", ".join(f"{kind}: {count}" for kind, count in findings.items()) or "nothing found")
    if is_store(path):
        with BankStore(path, read_only=True) as source:
            events, origins = source.events(), source.origins()
        kinds = Counter(str(event.change.kind) for event in events)
        table.add_row("events", ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
        table.add_row("origins", f"known of {len(origins)} of {len(events)} events")
    return Group(table, Text(), best_and_worst(bank, run)) if run is not None else table


def lint(path: BankPath) -> RenderableType:
    """Look for what should not stand in a bank: stated answers, orders to the reader, near-duplicates.

    Ends with code 2 where something is found that a cold start or an upkeep would refuse.

    Args:
        path: A JSON file or a store.
    """
    findings = lint_bank(open_bank(path))
    if not findings:
        return plain(f"{path}: nothing found")
    table = Table("severity", "what", "item", "field", "where", box=None, pad_edge=False)
    for found in findings:
        row = (found.severity, found.kind, found.item, found.field, found.excerpt)
        table.add_row(*(plain(str(cell)) for cell in row))
    refused = len({found.item for found in findings if found.severity is Severity.REFUSE})
    if not refused:
        return table
    of_them = "one item holds" if refused == 1 else f"{refused:,} items hold"
    return Refused(table, f"{path}: {of_them} what no item may hold; mend or remove what is marked refuse")


def _versions(versions: Sequence[Version]) -> tuple[Table, list[tuple[str, ...]]]:
    table = Table("event", "version", "skills", "mistakes", "note", box=None, pad_edge=False)
    return table, [(str(v.event), v.version[:12], str(v.skills), str(v.mistakes), v.note) for v in versions]


def _events(events: Sequence[Event]) -> tuple[Table, list[tuple[str, ...]]]:
    table = Table("event", "what", "item", "content", "note", box=None, pad_edge=False)
    rows = [(e.seq, e.change.kind, e.change.item_id or "–", e.change.content_hash[:12], e.note) for e in events]
    return table, [tuple(str(cell) for cell in row) for row in rows]


def _bank_at(reference: str) -> Bank:
    path, event = (
        (reference, None) if Path(reference).exists() else parse_bank_reference(reference)
    )  # a name may hold an @
    if event is None:
        return open_bank(path)
    if Path(path).exists() and not is_store(path):
        raise UserError(f"{path}: is no store, so it has no events; leave @{event} out")
    with BankStore(path, read_only=True) as source:
        return source.snapshot(event)


def _tree(life: ItemHistory, shown: set[str]) -> Tree:
    """Each ancestor once: one that many items stand for would fill the screen. Not by recursion: see `item_history`."""
    shown_before = {life.item.id}
    tree = _add_events(Tree(_title(life)), life)
    under_way = [(tree, iter(life.parents))]
    while under_way:
        branch, left = under_way[-1]
        parent = next(left, None)
        if parent is None:
            under_way.pop()
        elif parent.item.id in shown_before:
            branch.add(plain(f"{parent.item.id}, shown above"))
        elif parent.item.id in shown:
            shown_before.add(parent.item.id)
            under_way.append((_add_events(branch.add(_title(parent)), parent), iter(parent.parents)))
    return tree


def _add_events(branch: Tree, life: ItemHistory) -> Tree:
    for event in life.events:
        branch.add(plain(f"event {event.seq}, {event.change.kind}: {event.note}".removesuffix(": ")))
    for memory in life.own[:ROLLOUTS]:
        branch.add(plain(_memory_line(memory)))
    if len(life.own) > ROLLOUTS:
        branch.add(plain(f"… and {counted(len(life.own) - ROLLOUTS, 'more rollout')}"))
    return branch


def _title(life: ItemHistory) -> Text:
    kind = "skill" if isinstance(life.item, Skill) else "mistake"
    standing = "in the bank" if life.current else "no longer in the bank"
    return plain(f"{kind} {life.item.id}, {standing}: {' | '.join(item_texts(life.item))}")


def _sum(life: ItemHistory, limit: int) -> list[RenderableType]:
    """The whole way in two lines."""
    ancestors, memories = sum(1 for _ in life.walk()) - 1, life.memories
    right = sum(memory.get("correct") is True for memory in memories)
    wrong = sum(memory.get("correct") is False for memory in memories)
    merged = [f"stands for {counted(ancestors, 'other item')}"] if ancestors else []
    learned = [f"learned from {counted(len(memories), 'rollout')}, {right} right and {wrong} wrong"] if memories else []
    known = ", ".join(merged + learned)
    further = counted(ancestors - limit, "item")
    more = [plain(f"… and {further} further back; see them with --limit")] if ancestors > limit else []
    return [*more, plain(f"In all: {known}" if known else "The store does not know what it was learned from.")]


def _memory_line(memory: Mapping[str, Any]) -> str:
    """Describe whatever a store holds as a memory: it may be somebody else's."""
    correct = memory.get("correct")
    verdict = "right" if correct is True else "wrong" if correct is False else "verdict unknown"
    problem = " ".join(str(memory.get("problem", "")).split())
    cut = problem if len(problem) <= EXCERPT else f"{problem[: EXCERPT - 1]}…"
    return f"rollout {memory.get('index', '?')} on {memory.get('problem_id', '?')}, {verdict}: {cut}"
