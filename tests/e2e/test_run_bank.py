"""A run owns its bank: it starts from the configured one, may grow, and goes back with the checkpoint."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from resumable import assert_same_bits, bank_history, lines
from runs import run_small
from sgsd.bank import (
    DYNAMIC,
    Bank,
    BankStore,
    Ledger,
    Origin,
    TeacherObservation,
    item_history,
    item_texts,
    open_bank,
    save_bank,
)
from sgsd.checkpoint.saving import checkpoints, read_position
from sgsd.lab.demo_bank import demo_bank
from sgsd.report import write_report
from sgsd.train import loop
from sgsd.train.run_bank import START, RunBank, item_records
from sgsd.types import Mistake, Skill, UserError

EACH_STEP = {"every": 1, "keep": 9}


def grow_before(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """What online maintenance will do: before a step the store gets a version, and contexts follow it."""
    plain = loop.train_step

    def train_step(run: Any, source: Any, upkeep: Any, now: int, clock: Any) -> Any:
        if now == step:
            grown = Bank(tuple(reversed(run.bank.current.skills)), run.bank.current.mistakes[:1])
            with BankStore(run.bank.path) as store:
                run.bank.event = store.import_bank(grown, f"before step {step}")[-1].seq
                run.bank.current = store.snapshot()
            run.follow_bank()
        return plain(run, source, upkeep, now, clock)

    monkeypatch.setattr(loop, "train_step", train_step)


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
    assert open_bank(same / "bank.sqlite") == open_bank(folder / "bank.sqlite")
    assert_same_bits(folder, same)
    assert not (run_small(tmp_path / "none", steps=1, method={"name": "grpo"}) / "bank.sqlite").exists()


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A store as a cold start leaves it: an item that stands for another one, which was learned from a rollout."""
    path, bank = tmp_path / "built.sqlite", demo_bank(0)
    first, second, *_ = bank.skills
    with BankStore(path) as store:
        store.remember({"m1": {"text": "a rollout"}})
        store.import_bank(Bank((first,), ()), "proposals", {first.id: Origin(("m1",))})
        store.import_bank(bank, "merged", {second.id: Origin(("m1",), (first.id,))})
    return path


def begin(path: Path, source: Path | None, bank: Bank | None = None) -> RunBank:
    """The beginning of a run, without the run."""
    run_bank = RunBank.configured(bank or open_bank(source or ""), path, source)
    run_bank.start(Accelerator(cpu=True))
    return run_bank


def test_a_run_knows_where_the_items_of_a_built_bank_come_from(tmp_path: Path, built: Path) -> None:
    folder = run_small(tmp_path / "run", steps=2, bank={"path": str(built)})
    name = demo_bank(0).skills[1].id
    with BankStore(built, read_only=True) as source, BankStore(folder / "bank.sqlite", read_only=True) as store:
        assert item_history(store, name) == item_history(source, name)
        assert [memory["text"] for memory in item_history(store, name).memories] == ["a rollout"]
        *before, mark = store.events()
        assert before == source.events()
        assert (mark.note, store.event) == (START, source.event + 1)
    (saved,) = checkpoints(folder / "checkpoints")
    assert read_position(saved).bank_event == mark.seq
    whole = bank_history(folder)
    run_small(folder, steps=2, bank={"path": str(built)}, resume=True)
    assert bank_history(folder) == whole
    with BankStore(built) as store:
        store.import_bank(demo_bank(1))
    with pytest.raises(UserError, match="the bank has changed"):
        run_small(folder, steps=2, bank={"path": str(built)}, resume=True)


def test_a_run_that_begins_again_finds_its_own_beginning(tmp_path: Path, built: Path) -> None:
    """Its history may hold the same bank before, as the source's, and after, as its own."""
    with BankStore(built) as store:  # the source has been here before, gone elsewhere, and come back
        store.import_bank(demo_bank(1), "elsewhere")
        store.import_bank(demo_bank(0), "back")
        end = store.event
    path = tmp_path / "bank.sqlite"
    assert begin(path, built).event == end + 1
    with BankStore(path) as store:  # and so does the run
        store.import_bank(demo_bank(1), "upkeep after step 1")
        store.import_bank(demo_bank(0), "upkeep after step 2")
    with BankStore(built) as store:  # and the source once more
        store.import_bank(demo_bank(1), "elsewhere again")
        store.import_bank(demo_bank(0), "back again")
    again = begin(path, built)
    assert (again.event, again.current) == (end + 1, demo_bank(0))
    assert (tmp_path / "bank.abandoned-1.sqlite").exists()
    with pytest.raises(UserError, match="another bank than the one configured now"):
        begin(path, built, demo_bank(1))


def test_a_run_may_begin_with_the_bank_of_another_run(tmp_path: Path, built: Path) -> None:
    first, second = tmp_path / "first.sqlite", tmp_path / "second.sqlite"
    begin(first, built)
    grown = Bank(demo_bank(0).skills[:3], demo_bank(0).mistakes)
    with BankStore(first) as store:
        end = store.import_bank(grown, "upkeep after step 1")[-1].seq
    assert begin(second, first).event == end + 1
    assert begin(second, first).event == end + 1
    assert open_bank(second) == grown
    with BankStore(second, read_only=True) as store:
        assert [event.note for event in store.events()].count(START) == 2


def test_a_bank_changed_while_the_run_was_starting(tmp_path: Path, built: Path) -> None:
    configured, path = open_bank(built), tmp_path / "bank.sqlite"
    with BankStore(built) as store:  # it grew: the run takes what it has read
        end = store.event
        store.import_bank(demo_bank(1), "meanwhile")
    assert begin(path, built, configured).event == end + 1
    assert open_bank(path) == configured
    path.unlink()
    built.unlink()
    with BankStore(built) as store:  # it was replaced
        store.import_bank(demo_bank(1), "another")
    with pytest.raises(UserError, match="changed while the run was starting"):
        begin(path, built, configured)


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


def test_a_finished_run_tells_what_came_of_each_item(tmp_path: Path, built: Path) -> None:
    folder = run_small(tmp_path / "run", bank={"path": str(built)})
    told = json.loads((folder / "items.json").read_text())["items"]
    ledger = Ledger.from_json(json.loads((folder / "ledger.json").read_text()))
    bank = demo_bank(0)
    assert {item["id"] for item in told} == {item.id for item in bank.items}
    assert [item["standing"] for item in told] == sorted((ledger.standing(i.id) for i in bank.items), reverse=True)
    rows = {row.id: row for row in ledger.rows()}
    for item in told:
        assert item["says"] in item_texts(bank.item(item["id"]))
        assert (item["kept"], item["learned"]) == (True, None)
        row = rows.get(item["id"])
        assert item["retrieved"] == (row.retrieved if row else 0)
        assert item["trust"] == (row.trust if row else 0.0)
    page = write_report(folder).read_text(encoding="utf-8")
    assert f"{len(rows)} of {len(bank)}\u00a0items were shown to a teacher." in page


def test_items_are_told_by_when_they_came_and_whether_they_stayed(tmp_path: Path) -> None:
    """One that an earlier run had learned is one that this run began with, whatever its mark says."""
    path, source = tmp_path / "bank.sqlite", tmp_path / "source.sqlite"
    first, second = (Skill(name, name, "p", "w", {DYNAMIC: 25}) for name in ("first", "second"))
    lost, never = Skill("lost", "lost", "p", "w", {DYNAMIC: 50}), Mistake("never", "never", "w", "h")
    with BankStore(source) as store:
        store.import_bank(Bank((first,), (never,)))
    begin(path, source)
    with BankStore(path) as store:
        store.import_bank(Bank((first, second, lost), (never,)), "upkeep after step 25")
        store.import_bank(Bank((second,), (never,)), "upkeep after step 50")
    seen = [TeacherObservation((name,), outcome, 0.1 * outcome, 1) for name in ("first", "lost") for outcome in (1, -1)]
    with BankStore(path, read_only=True) as store:
        told = item_records(store, Ledger().observe([*seen, TeacherObservation(("second",), 1, 0.1, 1)]))
    found = [(item["id"], item["kind"], item["learned"], item["kept"], item["validated"]) for item in told]
    assert found == [
        ("first", "skill", None, False, 2),
        ("lost", "skill", 50, False, 2),
        ("never", "mistake", None, True, 0),
        ("second", "skill", 25, True, 1),
    ]


@pytest.mark.parametrize("left", ["an empty file", "an empty store", "a draft"])
def test_a_branch_killed_at_its_very_start_begins_again(left: str, tmp_path: Path, built: Path) -> None:
    path = tmp_path / "bank.sqlite"
    if left == "an empty store":
        BankStore(path).close()
    else:
        (path if left == "an empty file" else tmp_path / ".bank.sqlite.tmp").write_bytes(b"")
    with BankStore(built, read_only=True) as store:
        assert begin(path, built).event == store.event + 1
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []
