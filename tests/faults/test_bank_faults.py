"""Processes killed with -9 in the middle of a write: what was there before, or what was to come, and nothing else."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sgsd.bank import Bank, BankStore, load_bank, open_bank, save_bank
from sgsd.types import Skill, UserError

# Large enough for a write to take milliseconds, and sharing no text, so that a mixture of the two cannot pass for one.
ONE = Bank(tuple(Skill(f"a{i}", f"one {i}", "p" * 500, "w") for i in range(120)), metadata={"is": 1})
TWO = Bank(tuple(Skill(f"a{i}", f"two {i}", "q" * 500, "w") for i in range(119)), metadata={"is": 2})

WRITE_FOREVER = """
import sys
from pathlib import Path
from sgsd.bank import BankStore, load_bank, save_bank
folder = Path(sys.argv[1])
banks = [load_bank(folder / name) for name in ("one.json", "two.json")]
with BankStore(folder / "bank.db") as store:
    first = store.event
    while True:
        for bank in banks:
            save_bank(bank, folder / "bank.json")
            store.import_bank(bank)
            if first is not None and store.event > first:
                print("ready", flush=True)
                first = None
"""

# The cache is so small that SQLite spills the open transaction into the file itself; the kill then leaves a journal
# that must be rolled back, which a read-only connection cannot do by itself.
DIE_IN_A_TRANSACTION = """
import os, signal, sys
from sgsd.bank import BankStore, load_bank
import sgsd.bank.store as module
bank = load_bank(sys.argv[2])
def kill(*_): os.kill(os.getpid(), signal.SIGKILL)
store = BankStore(sys.argv[1])
store._connection.execute("PRAGMA cache_size = 1")
append = store._append
def append_and_die(*values):
    append(*values)
    kill()
store._append = append_and_die
store.import_bank(bank)
"""


@contextmanager
def running(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)
        assert process.stdout is not None
        process.stdout.close()


def test_kill_in_a_loop_of_saves_and_imports(tmp_path: Path) -> None:
    save_bank(ONE, tmp_path / "one.json")
    save_bank(TWO, tmp_path / "two.json")
    versions = {ONE.version, TWO.version}
    delays = random.Random(0)
    events = [0]
    for _ in range(4):
        with running(WRITE_FOREVER, tmp_path) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(delays.uniform(0.0, 0.1))
            process.send_signal(signal.SIGKILL)
        assert load_bank(tmp_path / "bank.json").version in versions
        with BankStore(tmp_path / "bank.db", read_only=True) as store:
            assert store.snapshot().version in versions
            assert {version.version for version in store.versions()} <= versions, "half an import became a version"
            events.append(store.event)
    assert events == sorted(set(events)), "every round wrote something, and no committed event was ever lost"
    with sqlite3.connect(tmp_path / "bank.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


@pytest.mark.parametrize("read_only", [True, False], ids=["reader", "writer"])
def test_a_transaction_spilled_into_the_file_is_undone_by_whoever_comes_next(read_only: bool, tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    with BankStore(path) as store:
        store.import_bank(ONE)
    whole = path.read_bytes()
    save_bank(TWO, tmp_path / "two.json")
    with running(DIE_IN_A_TRANSACTION, path, tmp_path / "two.json") as process:
        assert process.wait(timeout=60) == -signal.SIGKILL
    assert (tmp_path / "bank.db-journal").exists()
    assert path.read_bytes() != whole, "the kill must have come in mid-write for this test to mean anything"
    with BankStore(path, read_only=read_only) as store:
        assert store.snapshot() == ONE
        assert [version.version for version in store.versions()] == [ONE.version]
    assert path.read_bytes() == whole


def test_a_kill_while_the_file_is_made_leaves_a_path_that_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    code = DIE_IN_A_TRANSACTION.replace("store = BankStore", "module.BankStore._create = kill\nstore = BankStore")
    save_bank(ONE, tmp_path / "one.json")
    with running(code, path, tmp_path / "one.json") as process:
        assert process.wait(timeout=60) == -signal.SIGKILL
    with pytest.raises(UserError, match="holds no bank yet"):
        BankStore(path, read_only=True)
    with BankStore(path) as store:
        store.import_bank(ONE)
    assert open_bank(path) == ONE


def test_two_writers_take_turns(tmp_path: Path) -> None:
    """Both open at once: the second import starts from what the first committed, and no event number is given twice."""
    path = tmp_path / "bank.db"
    with BankStore(path) as first, BankStore(path) as second:
        first.import_bank(ONE)
        second.import_bank(TWO)
        first.import_bank(ONE)
        assert first.snapshot() == second.snapshot() == ONE
        assert [event.seq for event in first.events()] == list(range(1, first.event + 1))


def test_a_locked_store_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgsd.bank.sqlite.LOCK_SECONDS", 0.05)
    path = tmp_path / "bank.db"
    with BankStore(path) as store:
        store.import_bank(ONE)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match="another process is writing to it"):
            store.import_bank(TWO)
        other.execute("ROLLBACK")
        other.close()
        store.import_bank(TWO)
        assert store.snapshot() == TWO


def test_an_import_that_fails_half_way_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bank.db"
    with BankStore(path) as store:
        store.import_bank(ONE)
        append = store._append

        def append_and_fail(*values: object) -> None:
            append(*values)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        monkeypatch.setattr(store, "_append", append_and_fail)
        with pytest.raises(KeyboardInterrupt):
            store.import_bank(TWO)
        assert store.snapshot() == ONE
        monkeypatch.undo()
        store.import_bank(TWO)
        assert store.snapshot() == TWO


def test_a_truncated_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    with BankStore(path) as store:
        store.import_bank(ONE)
    whole = path.read_bytes()
    for size in (20, 100, 4096, len(whole) // 2, len(whole) - 4096):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError) as caught:
            open_bank(path)
        assert str(caught.value).startswith(f"{path}: "), size


def test_a_flipped_bit_is_never_read_as_another_bank(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    with BankStore(path) as store:
        store.import_bank(Bank(ONE.skills[:6]))
    expected, whole = open_bank(path), path.read_bytes()
    places, outcomes = random.Random(1), {"same": 0, "refused": 0}
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[places.randrange(16, len(whole))] ^= 1 << places.randrange(8)
        path.write_bytes(damaged)
        try:
            found = open_bank(path)
        except UserError:
            outcomes["refused"] += 1
        else:
            assert found == expected
            outcomes["same"] += 1
    assert min(outcomes.values()) > 30, outcomes


def test_a_json_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bank.json"
    save_bank(Bank(ONE.skills[:2]), path)
    whole = path.read_bytes()
    for size in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError):
            load_bank(path)
    assert json.loads(whole)


def test_a_save_needs_no_right_to_the_old_file(tmp_path: Path) -> None:
    """The file is replaced, not rewritten: a reader that holds it open goes on reading the old bank."""
    path = tmp_path / "bank.json"
    save_bank(ONE, path)
    with open(path, "rb") as reader:
        save_bank(TWO, path)
        assert json.loads(reader.read())["metadata"] == {"is": 1}
    os.chmod(path, 0o400)
    save_bank(ONE, path)
    assert load_bank(path) == ONE
