"""The bank with its history, in one SQLite file: an append-only log of events over immutable, hashed contents.

A bank at event n is the fold of events 1 … n, so going back and forking need no undo. No clock and no random number
is stored: the same imports give the same events, hashes and versions on every machine.

The journal is a rollback journal with `synchronous=FULL`: write-ahead logging needs shared memory, which network file
systems lack. One process should own the file and send snapshots to the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sgsd.bank.bank_files import load_bank, save_bank
from sgsd.bank.history import NO_METADATA, Change, Content, Event, Kind, Origin, State, changes_between, state_of
from sgsd.bank.schema import canonical_json, hash_of, item_record
from sgsd.bank.skill_bank import Bank, bank_of
from sgsd.bank.sqlite import connect, is_store, reported, transaction
from sgsd.bank.text import check_line, quoted
from sgsd.types import BankItem, UserError

SCHEMA_VERSION = 2
APPLICATION_ID = int.from_bytes(b"sgsd", "big")  # in the file's header, so that another program's file is recognised
MAX_NOTE_CHARS = 500

_CONTENTS = """CREATE TABLE contents (
        hash TEXT PRIMARY KEY NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('skill', 'mistake', 'metadata')),
        json TEXT NOT NULL
    ) WITHOUT ROWID"""
_EVENTS = """CREATE TABLE events (
        seq INTEGER PRIMARY KEY NOT NULL,
        batch INTEGER NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('created', 'merged', 'edited', 'retired', 'restored', 'described')),
        item_id TEXT NOT NULL,
        content_hash TEXT NOT NULL REFERENCES contents (hash),
        note TEXT NOT NULL
    )"""
_ORIGINS = """CREATE TABLE origins (
        seq INTEGER NOT NULL REFERENCES events (seq),
        source TEXT NOT NULL CHECK (source IN ('memory', 'item')),
        ref TEXT NOT NULL,
        PRIMARY KEY (seq, source, ref)
    ) WITHOUT ROWID"""
_MEMORIES = """CREATE TABLE memories (
        id TEXT PRIMARY KEY NOT NULL,
        json TEXT NOT NULL
    ) WITHOUT ROWID"""


def _guards(*tables: str) -> tuple[str, ...]:
    return tuple(
        f"""CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table}
        BEGIN SELECT RAISE(ABORT, 'the history of a bank is never rewritten'); END"""
        for table in tables
        for verb in ("UPDATE", "DELETE")
    )


TABLES = ("contents", "events", "origins", "memories")
_SCHEMA = (_CONTENTS, _EVENTS, _ORIGINS, _MEMORIES, *_guards(*TABLES))
# Schema 1 knew neither origins nor merged items; its events move into a table that does.
_FROM_1_TO_2 = (
    "DROP TRIGGER events_no_update",
    "DROP TRIGGER events_no_delete",
    "ALTER TABLE events RENAME TO events_1",
    _EVENTS,
    "INSERT INTO events SELECT * FROM events_1",
    "DROP TABLE events_1",
    _ORIGINS,
    _MEMORIES,
    *_guards("events", "origins", "memories"),
)


@dataclass(frozen=True, slots=True)
class Version:
    """The bank after one import: the number of its last event, its content's hash, and how much it holds."""

    event: int
    version: str
    skills: int
    mistakes: int
    note: str


class BankStore:
    """A bank's file, open. Use it in a `with` block.

    A writer makes the file where there is none; a reader (`read_only=True`) never writes and waits for a writer's
    transaction to end. Raises `UserError` where the file is missing (reader), is not a bank store, is damaged,
    locked, or of a newer schema.
    """

    def __init__(self, path: Path | str, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self.read_only = read_only
        with reported(self.path):
            self._connection = connect(self.path, read_only=read_only)
            try:
                self._open_schema()
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._connection.close()

    @property
    def event(self) -> int:
        """The number of the latest event; 0 before the first."""
        with reported(self.path):
            return int(self._connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])

    def events(self, until: int | None = None) -> list[Event]:
        """The log, oldest first, up to and with event `until` (all of it by default)."""
        query = """SELECT seq, batch, events.kind, contents.kind, item_id, content_hash, note
                   FROM events LEFT JOIN contents ON hash = content_hash
                   WHERE seq <= coalesce(?, seq) ORDER BY seq"""
        with reported(self.path):
            rows = self._connection.execute(query, (until,)).fetchall()
        if [row[0] for row in rows] != list(range(1, len(rows) + 1)):
            raise self._damaged("its event numbers have gaps")
        return [self._event(*row) for row in rows]

    def import_bank(self, bank: Bank, note: str = "", origins: Mapping[str, Origin] | None = None) -> list[Event]:
        """Make the store's bank equal to `bank` and return the events that took: none if it was equal already.

        Items that `bank` lacks are retired, not lost: every earlier event can still be read. `origins` says, by item
        id, what items come from; an item that was there already, and now stands for others too, gets an event that
        says so. It is all one transaction: a process killed in the middle leaves the bank as it was.
        """
        if self.read_only:
            raise UserError(f"{self.path}: is open for reading only; open it for writing to import a bank")
        try:
            check_line(note, MAX_NOTE_CHARS)
        except ValueError as error:
            raise UserError(f"{self.path}: the note of an import {error}") from None
        with reported(self.path), transaction(self._connection, "IMMEDIATE"):
            past = self.events()
            parents = self._parents() if origins else {}
            merged = {
                name for name, origin in (origins or {}).items() if not parents.get(name, set()) >= {*origin.items}
            }
            changes = changes_between(self._fold(past), state_of(bank), merged)
            events = self._append(past[-1:], changes, _contents(bank), note)
            self._append_origins(events, origins or {})
            return events

    def remember(self, memories: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep memories, by id, so that an item's origins can be read back to them; known ids are left as they are."""
        if self.read_only:
            raise UserError(f"{self.path}: is open for reading only; open it for writing to keep memories")
        with reported(self.path), transaction(self._connection, "IMMEDIATE"):
            # In ASCII: a memory may hold half a character, which JSON can spell and UTF-8 cannot.
            rows = [(name, json.dumps(dict(memory), sort_keys=True)) for name, memory in memories.items()]
            self._connection.executemany("INSERT OR IGNORE INTO memories (id, json) VALUES (?, ?)", rows)

    def memory(self, memory_id: str) -> dict[str, Any] | None:
        """A memory by its id; None where the store has not kept it."""
        if self._schema < 2:
            return None
        with reported(self.path):
            row = self._connection.execute("SELECT json FROM memories WHERE id = ?", (memory_id,)).fetchone()
        try:
            memory = json.loads(row[0]) if row else None
        except (ValueError, TypeError, RecursionError):
            raise self._damaged(f"memory {quoted(memory_id)} is not JSON") from None
        if memory is not None and not isinstance(memory, dict):
            raise self._damaged(f"memory {quoted(memory_id)} is not an object")
        return memory

    def origins(self) -> dict[int, Origin]:
        """Return the sources of events' items, by event number; events without any have no entry."""
        if self._schema < 2:
            return {}
        with reported(self.path):
            rows = self._connection.execute("SELECT seq, source, ref FROM origins ORDER BY seq, source, ref").fetchall()
        found: dict[int, dict[str, list[str]]] = {}
        for seq, source, ref in rows:
            found.setdefault(seq, {"memory": [], "item": []})[source].append(ref)
        return {seq: Origin(tuple(refs["memory"]), tuple(refs["item"])) for seq, refs in found.items()}

    def snapshot(self, event: int | None = None) -> Bank:
        """The bank after event number `event` (the latest by default); 0 is the empty bank before all events."""
        with reported(self.path), transaction(self._connection, "DEFERRED"):
            if event is not None and not 0 <= event <= self.event:
                raise UserError(f"{self.path}: has no event {event}; the latest is {self.event}")
            state = self._fold(self.events(event))
            contents = dict(self._connection.execute("SELECT hash, json FROM contents"))
        record = {
            "general_skills": self._items(contents, state.skills, "skill_id"),
            "common_mistakes": self._items(contents, state.mistakes, "mistake_id"),
            "metadata": self._content(contents, state.metadata) if state.metadata != NO_METADATA else {},
        }
        return bank_of(record, str(self.path))

    def item_of(self, event: Event) -> BankItem:
        """The item as an event left it (or, where it retired it, as it had been)."""
        with reported(self.path):
            row = self._connection.execute("SELECT json FROM contents WHERE hash = ?", (event.change.content_hash,))
            record = self._content({event.change.content_hash: row.fetchone()[0]}, event.change.content_hash)
        kind = "general_skills" if event.change.content is Content.SKILL else "common_mistakes"
        bank = bank_of({"general_skills": [], "common_mistakes": [], kind: [record]}, str(self.path))
        return bank.items[0]

    def versions(self) -> list[Version]:
        """The bank after each import, oldest first."""
        found: list[Version] = []
        state = State()
        for _, batch in groupby(self.events(), key=lambda event: event.batch):
            *_, last = (self._apply(state, event) for event in batch)
            found.append(Version(last.seq, state.version, len(state.skills), len(state.mistakes), last.note))
        return found

    def export(self, output: Path | str, event: int | None = None) -> Bank:
        """Write the bank after `event` (the latest by default) as published JSON, atomically, and return it."""
        bank = self.snapshot(event)
        save_bank(bank, output)
        return bank

    def _open_schema(self) -> None:
        """Check the file's mark and schema; a writer sets up a file that has neither."""
        self._connection.execute("PRAGMA trusted_schema = OFF")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        with transaction(self._connection, "DEFERRED" if self.read_only else "IMMEDIATE"):
            application = self._number("PRAGMA application_id")
            schema = self._number("PRAGMA user_version")
            if application == 0 and self._number("SELECT count(*) FROM sqlite_master") == 0:
                self._create()
            elif application != APPLICATION_ID:
                raise UserError(f"{self.path}: is another program's SQLite file, not a bank store; give another path")
            elif schema > SCHEMA_VERSION:
                raise UserError(
                    f"{self.path}: has schema {schema}, this sgsd reads up to {SCHEMA_VERSION}; upgrade sgsd"
                )
            # Costs less than a snapshot, and finds rows that are lost, which neither the log nor the hashes would miss.
            elif (found := self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise self._damaged(ascii(found))
            elif schema < SCHEMA_VERSION and not self.read_only:
                self._run(_FROM_1_TO_2)
            self._schema = self._number("PRAGMA user_version")
        if not self.read_only:  # a mode that the file keeps, so it is set only once the file is known to be ours
            self._connection.execute("PRAGMA journal_mode = DELETE")

    def _create(self) -> None:
        if self.read_only:
            raise UserError(f"{self.path}: holds no bank yet; import one first")
        self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._run(_SCHEMA)

    def _run(self, statements: Sequence[str]) -> None:
        for statement in statements:
            self._connection.execute(statement)
        self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _number(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])

    def _event(
        self, seq: int, batch: int, kind: str, content: str | None, item_id: str, digest: str, note: str
    ) -> Event:
        if content is None:
            raise self._damaged(f"event {seq} has lost its content")
        try:
            return Event(seq, batch, Change(Kind(kind), Content(content), item_id, digest), note)
        except ValueError as error:
            raise self._damaged(f"event {seq}: {error}") from None

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self.path}: is damaged: {what}; restore it from a copy")

    def _append(
        self, last: list[Event], changes: list[Change], contents: Mapping[str, tuple[str, str]], note: str
    ) -> list[Event]:
        seq, batch = (last[0].seq + 1, last[0].batch + 1) if last else (1, 1)
        events = [Event(number, batch, change, note) for number, change in enumerate(changes, start=seq)]
        needed = {change.content_hash for change in changes} & contents.keys()
        self._connection.executemany(
            "INSERT OR IGNORE INTO contents (hash, kind, json) VALUES (?, ?, ?)",
            [(digest, *contents[digest]) for digest in sorted(needed)],
        )
        self._connection.executemany(
            "INSERT INTO events (seq, batch, kind, item_id, content_hash, note) VALUES (?, ?, ?, ?, ?, ?)",
            [(e.seq, e.batch, e.change.kind, e.change.item_id, e.change.content_hash, e.note) for e in events],
        )
        return events

    def _parents(self) -> dict[str, set[str]]:
        """Item id → the items it is known to stand for."""
        found: dict[str, set[str]] = {}
        query = "SELECT item_id, ref FROM origins JOIN events USING (seq) WHERE source = 'item'"
        for item_id, ref in self._connection.execute(query):
            found.setdefault(item_id, set()).add(ref)
        return found

    def _append_origins(self, events: Sequence[Event], origins: Mapping[str, Origin]) -> None:
        rows = []
        for event in events:
            origin = origins.get(event.change.item_id)
            if origin is not None and event.change.kind is not Kind.RETIRED:
                rows += [(event.seq, "memory", ref) for ref in origin.memories]
                rows += [(event.seq, "item", ref) for ref in origin.items]
        self._connection.executemany("INSERT OR IGNORE INTO origins (seq, source, ref) VALUES (?, ?, ?)", rows)

    def _fold(self, events: list[Event]) -> State:
        state = State()
        for event in events:
            self._apply(state, event)
        return state

    def _apply(self, state: State, event: Event) -> Event:
        try:
            state.apply(event.change)
        except ValueError as error:
            raise self._damaged(f"event {event.seq}: {error}") from None
        return event

    def _items(self, contents: Mapping[str, str], section: Mapping[str, str], id_field: str) -> list[Any]:
        records = [self._content(contents, digest) for digest in section.values()]
        for item_id, record in zip(section, records, strict=True):
            if record.get(id_field) != item_id:
                raise self._damaged(f"the content of item {quoted(str(item_id))} is another's")
        return records

    def _content(self, contents: Mapping[str, str], digest: str) -> Any:
        text = contents[digest]
        if not isinstance(text, str) or hash_of(text) != digest:
            raise self._damaged(f"content {digest[:12]} was altered")
        return json.loads(text)


def open_bank(path: Path | str) -> Bank:
    """Open the bank at `path`: a JSON file, or the latest snapshot of a store. The content decides, not the name.

    Args:
        path: a bank in the published JSON layout (docs/bank.md), or a store.

    Returns:
        The bank; `bank.search(problem)` finds pairs in it.

    Raises:
        UserError: the file is missing, damaged or breaks a rule of the format; item and field are named.

    Example:
        >>> import tempfile
        >>> from sgsd.types import Skill
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_bank(Bank((Skill("s1", "Parity", "Count odd and even.", "Always."),)), f"{folder}/bank.json")
        ...     bank = open_bank(f"{folder}/bank.json")
        >>> bank.items[0].title
        'Parity'
    """
    if not is_store(path):
        return load_bank(path)
    with BankStore(path, read_only=True) as store:
        return store.snapshot()


def _contents(bank: Bank) -> dict[str, tuple[str, str]]:
    """Hash → (kind, canonical JSON) of all that a bank holds."""
    kinds: list[tuple[Content, Any]] = [(Content.SKILL, item_record(skill)) for skill in bank.skills]
    kinds += [(Content.MISTAKE, item_record(mistake)) for mistake in bank.mistakes]
    kinds += [(Content.METADATA, dict(bank.metadata))]
    texts = [(kind, canonical_json(record)) for kind, record in kinds]
    return {hash_of(text): (kind, text) for kind, text in texts}
