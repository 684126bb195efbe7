"""A run owns its bank: it starts from the configured one, may grow, and goes back with the checkpoint."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resumable import assert_same_bits, bank_history, lines
from runs import run_small
from sgsd.bank import Bank, BankStore, open_bank, save_bank
from sgsd.lab.bank import demo_bank
from sgsd.train import loop
from sgsd.train.checkpoint import checkpoints, read_position
from sgsd.types import UserError

EACH_STEP = {"every": 1, "keep": 9}


def grow_before(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """What online maintenance will do: before a step the store gets a version, and contexts follow it."""
    plain = loop.collect

    def collect(parts: Any, now: int, *rest: Any) -> Any:
        if now == step:
            grown = Bank(tuple(reversed(parts.bank.current.skills)), parts.bank.current.mistakes[:1])
            with BankStore(parts.bank.path) as store:
                parts.bank.event = store.import_bank(grown, f"before step {step}")[-1].seq
                parts.bank.current = store.snapshot()
            parts.follow_bank()
        return plain(parts, now, *rest)

    monkeypatch.setattr(loop, "collect", collect)


def forget(folder: Path, after: int) -> None:
    """As if killed before the checkpoints after this step."""
    for saved in checkpoints(folder / "checkpoints"):
        if read_position(saved).step > after:
            (saved / "manifest.json").unlink()


def test_the_run_s_bank_is_the_configured_one_and_no_longer_depends_on_it(tmp_path: Path) -> None:
    with BankStore(tmp_path / "mine.sqlite") as store:
        store.import_bank(demo_bank(0), "mine")
    folder = run_small(tmp_path / "run", steps=1, bank={"path": str(tmp_path / "mine.sqlite")})
    assert open_bank(folder / "bank.sqlite") == demo_bank(0)
    (saved,) = checkpoints(folder / "checkpoints")
    position = read_position(saved)
    assert (position.bank_event, position.bank_version) == (len(bank_history(folder)), demo_bank(0).version)
    same = run_small(tmp_path / "json", steps=1, bank={"path": saved_as_json(tmp_path / "mine.json", demo_bank(0))})
    assert bank_history(same) == bank_history(folder)
    assert_same_bits(folder, same)
    assert not (run_small(tmp_path / "none", steps=1, method={"name": "grpo"}) / "bank.sqlite").exists()


def saved_as_json(path: Path, bank: Bank) -> str:
    save_bank(bank, path)
    return str(path)


def test_resume_notices_a_changed_bank(tmp_path: Path) -> None:
    path = saved_as_json(tmp_path / "bank.json", demo_bank(0))
    folder = run_small(tmp_path / "run", steps=1, bank={"path": path})
    saved_as_json(tmp_path / "bank.json", demo_bank(1))
    with pytest.raises(UserError, match="the bank has changed"):
        run_small(folder, steps=1, bank={"path": path}, resume=True)
    for checkpoint in checkpoints(folder / "checkpoints"):  # not even where nothing had been saved yet
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    with pytest.raises(UserError, match="another bank than the one configured now"):
        run_small(folder, steps=1, bank={"path": path}, resume=True)


def test_a_bank_that_grew_goes_back_with_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It grows before step 2: a run resumed before that grows again, one resumed after it does not."""
    grow_before(monkeypatch, 2)
    whole = run_small(tmp_path / "whole", checkpoint=EACH_STEP)
    shown = [
        {item for teacher in record["teachers"] for item in teacher["items"]} for record in lines(whole, "rollouts")
    ]
    assert shown[1] - shown[0]
    for stop in (1, 2):
        parts = tmp_path / f"stopped-{stop}"
        shutil.copytree(whole, parts)
        forget(parts, stop)
        run_small(parts, checkpoint=EACH_STEP, resume=True)
        assert_same_bits(whole, parts)
        assert bank_history(parts) == bank_history(whole)
        aside = sorted(path.name for path in parts.glob("bank.*"))
        assert aside == (["bank.abandoned-1.sqlite", "bank.sqlite"] if stop == 1 else ["bank.sqlite"])


def test_a_grown_bank_is_not_a_changed_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow_before(monkeypatch, 2)
    folder = run_small(tmp_path / "run", steps=2)
    event = len(bank_history(folder))
    (saved,) = checkpoints(folder / "checkpoints")
    assert read_position(saved).bank_event == event
    run_small(folder, steps=2, resume=True)
    with BankStore(folder / "bank.sqlite") as store:  # somebody wrote into the run's own bank
        store.import_bank(replace(store.snapshot(), skills=store.snapshot().skills[:1]))
    run_small(folder, steps=2, resume=True)
    assert len(bank_history(folder)) == event
    (folder / "bank.sqlite").unlink()
    with pytest.raises(UserError, match="there is no such store"):
        run_small(folder, steps=2, resume=True)


def test_a_start_killed_before_its_first_checkpoint_begins_again(tmp_path: Path) -> None:
    whole = run_small(tmp_path / "whole", steps=1)
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "config.yaml").write_bytes((whole / "config.yaml").read_bytes())
    (begun / "bank.sqlite").write_bytes(b"")  # what a writer killed at its very start leaves
    (begun / "metrics.jsonl").write_text('{"step": 1, "lo')
    run_small(begun, steps=1, resume=True)
    assert_same_bits(whole, begun)
    assert bank_history(begun) == bank_history(whole)
