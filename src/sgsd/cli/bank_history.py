"""`sgsd bank log|diff|rollback|why|stats|lint`: what a bank has been through. Each returns what is to be printed."""

from __future__ import annotations

from collections import Counter
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
    Life,
    at_event,
    difference,
    is_dynamic,
    is_store,
    life_of,
    lint_bank,
    open_bank,
    rolled_back,
    terminal_safe,
    words_of,
)
from sgsd.types import Skill, UserError

EXCERPT = 160


def log(store: Path, events: bool = False, limit: int = 50) -> RenderableType:
    """The versions of a store, newest last, or every single event.

    Args:
        store: The store to read.
        events: Show every event instead of the versions.
        limit: How many of the newest to show.
    """
    with BankStore(store, read_only=True) as source:
        if events:
            table = Table("event", "what", "item", "content", "note", box=None, pad_edge=False)
            for event in source.events()[-limit:]:
                change = event.change
                row = (change.kind, change.item_id or "–", change.content_hash[:12], event.note)
                table.add_row(str(event.seq), *(_plain(str(cell)) for cell in row))
            return table
        table = Table("event", "version", "skills", "mistakes", "note", box=None, pad_edge=False)
        for version in source.versions()[-limit:]:
            counts = (str(version.skills), str(version.mistakes))
            table.add_row(str(version.event), version.version[:12], *counts, _plain(version.note))
        return table


def diff(before: str, after: str) -> RenderableType:
    """What leads from one bank to another.

    Args:
        before: A bank, or STORE@EVENT.
        after: A bank, or STORE@EVENT.
    """
    old, new = _bank_at(before), _bank_at(after)
    found = difference(old, new)
    lines: list[RenderableType] = [_plain(f"+ {name}: {_headline(new, name)}") for name in found.added]
    lines += [_plain(f"- {name}: {_headline(old, name)}") for name in found.removed]
    for name in found.edited:
        lines.append(_plain(f"~ {name}"))
        pairs = zip(words_of(old.item(name)), words_of(new.item(name)))
        lines += [_plain(f"    was: {was}\n    now: {now}") for was, now in pairs if was != now]
    moved = ", the others in another order" if found.moved else ""
    counts = f"{len(found.added)} added, {len(found.removed)} removed, {len(found.edited)} edited{moved}"
    return Group(*lines, _plain(counts))


def rollback(store: Path, event: int) -> RenderableType:
    """Make the bank of a store what it was after an event; the history between stays and can be returned to.

    Args:
        store: The store to change.
        event: The number of the event, as `sgsd bank log` shows it.
    """
    with BankStore(store) as target:
        written = rolled_back(target, event)
        bank = target.snapshot()
        now = target.event
    done = f"{len(written)} new events" if written else "nothing to do"
    return _plain(f"{store}: as after event {event} ({done}); {_counts(bank)}, now at event {now}")


def why(store: Path, item: str) -> RenderableType:
    """Where an item comes from: its events, the items it stands for, and the rollouts they were learned from.

    Args:
        store: The store to read.
        item: The id of the item, which may have been retired since.
    """
    with BankStore(store, read_only=True) as source:
        life = life_of(source, item)
    tree = Tree(_told(life))
    _grow(tree, life, set())
    return tree


def stats(path: Path) -> RenderableType:
    """How much a bank holds, how long its texts are, and how much of it was learned during a run.

    Args:
        path: A JSON file or a store.
    """
    bank = open_bank(path)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("version", bank.version[:12])
    for name, items in (("skills", bank.skills), ("mistakes", bank.mistakes)):
        words = [sum(len(text.split()) for text in words_of(item)) for item in items]
        size = f", {mean(words):.0f} words on average, {max(words)} at most" if words else ""
        learned = sum(is_dynamic(item) for item in items)
        table.add_row(name, f"{len(items)}{size}, {learned} learned during a run")
    findings = Counter(str(finding.kind) for finding in lint_bank(bank))
    table.add_row("lint", ", ".join(f"{count} {kind}" for kind, count in findings.items()) or "nothing found")
    if is_store(path):
        with BankStore(path, read_only=True) as source:
            events, origins = source.events(), source.origins()
        kinds = Counter(str(event.change.kind) for event in events)
        table.add_row("events", ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
        table.add_row("with origins", f"{len(origins)} events")
    return table


def lint(path: Path) -> RenderableType:
    """Look for what should not stand in a bank: numbers of one problem, orders to the reader, near-duplicates.

    Args:
        path: A JSON file or a store.
    """
    findings = lint_bank(open_bank(path))
    if not findings:
        return _plain(f"{path}: nothing found")
    table = Table("severity", "what", "item", "field", "where", box=None, pad_edge=False)
    for found in findings:
        row = (found.severity, found.kind, found.item, found.field, found.excerpt)
        table.add_row(*(_plain(str(cell)) for cell in row))
    return table


def _bank_at(reference: str) -> Bank:
    path, event = at_event(reference)
    if event is None:
        return open_bank(path)
    if not is_store(path):
        raise UserError(f"{path}: is no store, so it has no events; leave @{event} out")
    with BankStore(path, read_only=True) as source:
        return source.snapshot(event)


def _grow(branch: Tree, life: Life, told: set[str]) -> None:
    """Each ancestor once: one that many items stand for would fill the screen."""
    told.add(life.item.id)
    for event in life.events:
        branch.add(_plain(f"event {event.seq}: {event.change.kind} ({event.note})"))
    for memory in life.memories if not life.parents else ():
        branch.add(_plain(_memory_line(memory)))
    for parent in life.parents:
        if parent.item.id in told:
            branch.add(_plain(f"{parent.item.id}, told above"))
        else:
            _grow(branch.add(_told(parent)), parent, told)


def _told(life: Life) -> Text:
    kind = "skill" if isinstance(life.item, Skill) else "mistake"
    standing = "in the bank" if life.current else "no longer in the bank"
    return _plain(f"{kind} {life.item.id}, {standing}: {' | '.join(words_of(life.item))}")


def _memory_line(memory: dict[str, Any]) -> str:
    verdict = "right" if memory["correct"] else "wrong"
    said = " ".join(str(memory["problem"]).split())[:EXCERPT]
    return f"rollout {memory['index']} on {memory['problem_id']}, {verdict}: {said}"


def _headline(bank: Bank, item_id: str) -> str:
    return words_of(bank.item(item_id))[0]


def _counts(bank: Bank) -> str:
    return f"{len(bank.skills)} skills, {len(bank.mistakes)} mistakes, version {bank.version[:12]}"


def _plain(text: str) -> Text:
    return Text(terminal_safe(text))
