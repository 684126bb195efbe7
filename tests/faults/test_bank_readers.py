"""Four readers beside a writer: none ever sees an error, nor a bank that is neither the one nor the other."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sgsd.bank import BankStore
from sgsd.lab.demo_bank import demo_bank

READER = """
import json, sys, time
from sgsd.bank import BankStore
path, until = sys.argv[1], time.time() + float(sys.argv[2])
seen = {}
while time.time() < until or sum(seen.values()) < 3:
    with BankStore(path, read_only=True) as store:
        version = store.snapshot().version
        store.versions(), store.origins()
    seen[version] = seen.get(version, 0) + 1
print(json.dumps(seen))
"""


def read_beside_a_writer(path: Path, seconds: float) -> tuple[list[dict[str, int]], int]:
    banks = [demo_bank(0), demo_bank(1)]
    with BankStore(path) as store:
        store.import_bank(banks[0])
        command = [sys.executable, "-c", READER, str(path), str(seconds)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        readers = [subprocess.Popen(command, **pipes) for _ in range(4)]  # type: ignore[call-overload]
        writes, alive = 0, True
        while alive:
            writes += 1
            store.import_bank(banks[writes % 2])
            time.sleep(0.02)
            alive = any(reader.poll() is None for reader in readers)
    found = []
    for reader in readers:
        said, wrong = reader.communicate(timeout=60)
        assert reader.returncode == 0, wrong
        found.append(json.loads(said))
    assert all(set(seen) <= {bank.version for bank in banks} for seen in found)
    return found, writes


def test_readers_beside_a_writer(tmp_path: Path) -> None:
    found, writes = read_beside_a_writer(tmp_path / "bank.sqlite", seconds=2.0)
    assert writes > 5
    assert all(sum(seen.values()) > 2 for seen in found)


@pytest.mark.prove
def test_readers_beside_a_writer_for_half_a_minute(tmp_path: Path) -> None:
    found, writes = read_beside_a_writer(tmp_path / "bank.sqlite", seconds=30.0)
    assert writes > 50
    assert all(len(seen) == 2 for seen in found), "every reader has met both"
