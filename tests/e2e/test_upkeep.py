"""The bank grows during a run: every process's rollouts, one writer, one store, and a resume that repeats nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from runs import SMALL, merged, run_small
from scripted_server import scripted_server
from sgsd.bank import BankStore, Ledger, is_dynamic
from sgsd.records.run_files import Records
from sgsd.train.evidence_log import read_ledger
from sgsd.types import UserError

pytest.importorskip("openai", reason="the client is an extra: pip install 'sgsd[writer]'")

STEPS = 4


def growing(url: str, **skills: Any) -> dict[str, Any]:
    writer = {"kind": "server", "model": "scripted", "base_url": url, "batch": 4, "retries": 0, "timeout": 5.0}
    return {"steps": STEPS, "writer": writer, "skills": {"every": 2, "threshold": 1.0, "add": 2, **skills}}


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    return Records(folder).read(name)


def test_each_window_is_read_whole_and_new_items_are_used_at_once(tmp_path: Path) -> None:
    with scripted_server() as (url, prompts):
        run = run_small(tmp_path / "run", **growing(url))
    updates = read(run, "bank")
    assert [update["step"] for update in updates] == [2, 4]
    assert all(update["memories"] == 2 * SMALL["rollouts"] for update in updates), (
        "the whole window, not its last batch"
    )
    assert len(updates[0]["added"]) == 2
    assert prompts
    with BankStore(run / "bank.sqlite", read_only=True) as store:
        bank, origins = store.snapshot(), store.origins()
        assert store.event == updates[-1]["event"]
        learned = [item for item in bank.items if is_dynamic(item)]
        assert [item.id for item in learned if item.meta["dynamic"] == 2]
        memory_ids = [name for origin in origins.values() for name in origin.memories]
        assert memory_ids
        assert all(store.memory(name) for name in memory_ids)
    assert (run / "ledger.json").exists()


def test_the_ledger_is_what_the_sightings_say(tmp_path: Path) -> None:
    run = run_small(tmp_path / "run")
    kept = Ledger.from_json(json.loads((run / "ledger.json").read_text()))
    lines = read(run, "sightings")
    assert kept == read_ledger(lines)
    assert len(lines) == SMALL["steps"]
    assert all(len(line["teachers"]) == SMALL["rollouts"] * SMALL["method"]["k"] for line in lines)


def test_a_resumed_run_asks_nothing_twice_and_is_the_same(tmp_path: Path) -> None:
    with scripted_server() as (url, prompts):
        whole = run_small(tmp_path / "whole", checkpoint={"every": 1, "keep": 9}, **growing(url))
        asked = len(prompts)
        for stop in (1, 2, 3):
            part = tmp_path / f"from-{stop}"
            shutil.copytree(whole, part)
            for step in range(stop + 1, STEPS + 1):
                shutil.rmtree(part / "checkpoints" / f"step-{step:06d}")
            config = part / "config.yaml"
            config.write_text(config.read_text().replace(str(whole), str(part)))
            run_small(part, resume=True, checkpoint={"every": 1, "keep": 9}, **growing(url))
            for name in ("metrics", "sightings", "memories", "bank"):
                assert (part / f"{name}.jsonl").read_bytes() == (whole / f"{name}.jsonl").read_bytes(), (stop, name)
            with BankStore(part / "bank.sqlite", read_only=True) as a, BankStore(whole / "bank.sqlite") as b:
                assert a.events() == b.events()
        assert len(prompts) == asked, "the answers are kept in the run's folder"


def test_a_writer_that_fails_costs_one_update_and_never_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = "http://127.0.0.1:9/v1"  # the discard port: nothing listens there
    run = run_small(tmp_path / "run", **growing(nobody))
    assert len(read(run, "metrics")) == STEPS
    updates = read(run, "bank")
    assert [update["step"] for update in updates] == [2, 4]
    assert all("no connection" in update["failed"] for update in updates)
    assert "the bank stays as it is" in caplog.text


def test_a_server_that_refuses_costs_no_run_either_but_a_missing_key_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with scripted_server() as (url, _):
        run = run_small(tmp_path / "run", **growing(f"{url}/nowhere"))
    assert len(read(run, "metrics")) == STEPS
    assert all("failed" in update for update in read(run, "bank"))
    assert "the bank stays as it is" in caplog.text
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        run_small(tmp_path / "no-key", **{**growing(""), "writer": {"kind": "server", "model": "hosted"}})


def test_trust_reorders_and_reweighs(tmp_path: Path) -> None:
    plain = run_small(tmp_path / "plain", steps=6)
    trusting = run_small(tmp_path / "trusting", steps=6, bank={"path": "lab", "rerank": 2.0, "reweigh": 3.0})
    first, last = [[line["teachers"] for line in read(run, "sightings")] for run in (plain, trusting)]
    assert first[0] == last[0], "nothing is known yet"
    items = [[[row[1] for row in step] for step in steps] for steps in (first, last)]
    assert items[0][1:] != items[1][1:]


@pytest.mark.slow
def test_two_processes_keep_one_bank(tmp_path: Path) -> None:
    with scripted_server() as (url, _):
        one = run_small(tmp_path / "one", **growing(url))
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(merged(SMALL, {"output": str(tmp_path / "two"), **growing(url)})))
        strategy = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "sgsd.cli"]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *strategy, "train", str(config)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    two = tmp_path / "two"
    assert read(one, "memories") == read(two, "memories")
    assert read(one, "bank") == read(two, "bank")
    rows = [[row[:3] for line in read(run, "sightings") for row in line["teachers"]] for run in (one, two)]
    assert rows[0] == rows[1]
