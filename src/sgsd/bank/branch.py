"""Going back to an event of a bank's history, or branching off from it. What came later is set aside, never lost."""

from __future__ import annotations

from contextlib import closing
from itertools import count
from pathlib import Path

from sgsd.bank.history import Content, Kind
from sgsd.bank.schema import canonical_json, hash_of
from sgsd.bank.skill_bank import Bank
from sgsd.bank.sqlite import connect, reported, transaction
from sgsd.bank.store import MAX_NOTE_CHARS, BankStore
from sgsd.bank.text import check_line
from sgsd.files import replacing
from sgsd.types import UserError

# Table → the rows that a copy takes along, in the order in which rows refer to each other. Memories are not numbered
# by events, and one too many does no harm.
_KEPT = {
    "contents": "hash IN (SELECT content_hash FROM past.events WHERE seq <= :event)",
    "events": "seq <= :event",
    "origins": "seq <= :event",
    "memories": "true",
}
# A version like the one before it: its one event says the metadata that hold already. Only its note is new.
_MARK = """INSERT INTO main.events (seq, batch, kind, item_id, content_hash, note)
           SELECT coalesce(max(seq), 0) + 1, coalesce(max(batch), 0) + 1, ?, '', ?, ? FROM main.events"""


def rewind_store(path: Path | str, event: int) -> Bank:
    """Make the store's history end with an event; returns the bank there.

    A copy of the store as it was is first put beside it, as NAME.abandoned-1.sqlite, -2, … Nothing is written where
    nothing comes after the event. Each file appears whole or not at all, also after kill -9. Event numbers, batches and
    notes stay what they were.

    Raises:
        UserError: the file is no store or has no such event.
    """
    path = Path(path)
    with BankStore(path, read_only=True) as store:
        latest, bank = store.event, store.snapshot(event)
    if event < latest:
        names = (path.with_name(f"{path.stem}.abandoned-{n}{path.suffix}") for n in count(1))
        _copy(path, next(name for name in names if not name.exists()), latest)
        _copy(path, path, event)
    return bank


def branch_store(source: Path | str, target: Path | str, event: int, note: str) -> Bank:
    """Make `target`, a new file, a store that goes on from an event of `source`; returns the bank at that event.

    One event more, which changes nothing and has that note, says where its own history begins. The file appears whole
    or not at all.

    Raises `UserError` where `source` is no store or has no such event, where `target` is there already, and where the
    note is not one clean line.
    """
    source, target = Path(source), Path(target)
    try:
        check_line(note, MAX_NOTE_CHARS)
    except ValueError as error:
        raise UserError(f"{target}: the note of a branch {error}") from None
    with BankStore(source, read_only=True) as store:
        bank = store.snapshot(event)
    if target.exists():
        raise UserError(f"{target}: there is a file already; a bank is branched off into a new one")
    metadata = canonical_json(dict(bank.metadata))
    _copy(source, target, event, (hash_of(metadata), metadata, note))
    return bank


def _copy(source: Path, target: Path, event: int, mark: tuple[str, str, str] | None = None) -> None:
    """The copy up to an event; a mark, as hash and JSON of the metadata that hold there and a note, comes after it."""
    with replacing(target) as new:
        BankStore(new).close()  # writes the tables
        _copy_rows(source, new, event, mark)


def _copy_rows(source: Path, new: Path, event: int, mark: tuple[str, str, str] | None) -> None:
    with reported(new), closing(connect(new, read_only=False)) as connection:
        connection.execute("ATTACH ? AS past", (f"{source.absolute().as_uri()}?mode=ro",))
        with transaction(connection, "IMMEDIATE"):
            # An older schema lacks some tables.
            known = {name for (name,) in connection.execute("SELECT name FROM past.sqlite_master WHERE type = 'table'")}
            for table, rows in _KEPT.items():
                if table in known:
                    chosen = f"SELECT * FROM past.{table} WHERE {rows}"
                    connection.execute(f"INSERT INTO main.{table} {chosen}", {"event": event} if ":" in rows else {})
            if mark is not None:
                digest, metadata, note = mark
                connection.execute(
                    "INSERT OR IGNORE INTO main.contents (hash, kind, json) VALUES (?, ?, ?)",
                    (digest, Content.METADATA, metadata),
                )
                connection.execute(_MARK, (Kind.DESCRIBED, digest, note))
