"""Runs of the lab made to fail in one way each: the guard for it fires, and on a run that learns none does."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from resumable import assert_same_bits, lines, stop_in
from runs import SMALL, merged, run_small
from sgsd.bank import Bank, save_bank
from sgsd.checkpoint.saving import checkpoints
from sgsd.contexts.prompts import PromptSet
from sgsd.lab.task_skills import MISLEADING, STYLISTIC, make_items
from sgsd.records.guards import GUARDS
from sgsd.records.monitor import GuardStopError
from sgsd.report import write_report
from sgsd.train import models
from sgsd.train.sampling import Sampler

ONE_TEACHER = {"name": "sgsd", "k": 1, "confidence": 0.01}


def within(window: int, *names: str) -> dict[str, Any]:
    """The guards' own bounds over a shorter window, for a shorter run."""
    return {name: {"window": window} for name in names or GUARDS}


def fired(folder: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for line in lines(folder, "guards"):
        found.setdefault(line["guard"], []).append(line["step"])
    return found


def lab_bank(path: Path, kind: str) -> dict[str, str]:
    skills, mistakes = make_items({kind: 12}, seed=0)
    save_bank(Bank(tuple(skills), tuple(mistakes)), path)
    return {"path": str(path)}


def test_no_guard_fires_on_the_demo_in_small(tmp_path: Path) -> None:
    folder = run_small(tmp_path / "run", steps=10, rollouts=16, optimizer={"lr": 3e-4}, guards=within(5))
    assert fired(folder) == {}
    assert not (folder / "guards.jsonl").exists()
    assert json.loads((folder / "summary.json").read_text())["guards"] == {}
    assert "Guards that fired" not in write_report(folder).read_text()
    record = lines(folder, "metrics")[-1]
    assert sum(record["support_histogram"]) == sum(record["polarity_histogram"]) == 16 * 2
    assert record["polarity_histogram"][0] == round(record["polarity/reversed"] * 32)
    assert 0 < record["style_token_share"] < 0.2
    assert record["delta_trend"] > 0


def test_too_high_a_learning_rate_with_a_live_teacher(tmp_path: Path) -> None:
    """Student and teacher run away from what they knew; sampling goes on for ever."""
    folder = run_small(
        tmp_path / "run", steps=11, optimizer={"lr": 1e-2}, sampling={"max_tokens": 64}, guards=within(4)
    )
    found = fired(folder)
    assert {"chase", "accuracy", "length", "truncation", "entropy_explosion"} <= found.keys()
    assert all(len(steps) == 1 for steps in found.values())
    assert found["chase"][0] <= found["accuracy"][0]  # it is the cause, and the first to be seen
    assert json.loads((folder / "summary.json").read_text())["guards"] == found
    page = write_report(folder).read_text()
    assert "Guards that fired" in page
    assert "student and live teacher chase each other" in page


def test_a_learning_rate_that_kills_exploration(tmp_path: Path) -> None:
    folder = run_small(tmp_path / "run", steps=6, optimizer={"lr": 3e-2}, sampling={"max_tokens": 48}, guards=within(3))
    assert "entropy_collapse" in fired(folder)


def test_contexts_that_never_reach_the_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptSet, "teacher", lambda self, problem, context: self.student(problem))
    found = fired(run_small(tmp_path / "run", steps=2, method=ONE_TEACHER, guards=within(2)))
    assert found == {"teacher_equals_student": [2], "polarity": [2]}  # the teachers are silent, too


def test_a_teacher_whose_weights_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = models.frozen_copy

    def zeroed(model: Any) -> Any:
        copied = plain(model)
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.zero_()
        return copied

    monkeypatch.setattr(models, "frozen_copy", zeroed)
    method = {**ONE_TEACHER, "teacher": "frozen"}
    assert "teacher_uniform" in fired(run_small(tmp_path / "run", steps=2, method=method, guards=within(2)))


def test_a_bank_that_misleads(tmp_path: Path) -> None:
    bank = lab_bank(tmp_path / "bank.json", MISLEADING)
    found = fired(run_small(tmp_path / "run", steps=5, bank=bank, guards=within(5)))
    assert found == {"support_auc": [5], "polarity": [5]}  # nearly all are reversed


def test_a_bank_about_phrasing_alone(tmp_path: Path) -> None:
    bank = lab_bank(tmp_path / "bank.json", STYLISTIC)
    assert "style" in fired(run_small(tmp_path / "run", steps=2, bank=bank, guards=within(2)))


def test_a_confidence_that_silences_all(tmp_path: Path) -> None:
    method = {"name": "sgsd", "k": 2, "confidence": 2.0}
    assert fired(run_small(tmp_path / "run", steps=2, method=method, guards=within(2))) == {"polarity": [2]}


def test_a_sampler_that_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Sampler.sample

    def stale(sampler: Any, step: int) -> Any:
        if step == 1:
            sampler.engine.model = copy.deepcopy(sampler.engine.model)
        return plain(sampler, step)

    monkeypatch.setattr(Sampler, "sample", stale)
    # Slowly: a gap that rounding cannot explain ends the run by itself.
    guards = {"sampler_mismatch": {"window": 2, "bound": 1e-5}}
    folder = run_small(tmp_path / "run", steps=3, optimizer={"lr": 3e-6}, guards=guards)
    assert max(record["sampler_mismatch"] for record in lines(folder, "metrics")) < 1e-3
    assert "sampler_mismatch" in fired(folder)


# ── To warn and to stop, and to go on ──────────────────────────────────────────────────────────────────────────────

CUT = {"sampling": {"max_tokens": 6}, "steps": 4, "rollouts": 4}


def cut(action: str) -> dict[str, Any]:
    return {**CUT, "guards": {"truncation": {"window": 2, "action": action}}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps without a break; the guard fires in the second."""
    return run_small(tmp_path_factory.mktemp("guards") / "whole", **cut("warn"))


@pytest.mark.parametrize("moment", ["sample", "score_teachers"])
def test_a_resumed_run_fires_as_the_uninterrupted_one(
    moment: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the very step in which the guard fires: before its update, and after it."""
    stop_in(monkeypatch, moment, 2)
    parts = run_small(tmp_path / "parts", **cut("warn"))
    monkeypatch.undo()
    run_small(parts, resume=True, **cut("warn"))
    assert_same_bits(whole, parts)
    assert (parts / "guards.jsonl").read_bytes() == (whole / "guards.jsonl").read_bytes()
    assert fired(parts) == {"truncation": [2]}


def test_what_fired_after_the_checkpoint_is_forgotten_and_found_again(tmp_path: Path) -> None:
    settings = {**cut("warn"), "checkpoint": {"every": 1, "keep": 9}}
    folder = run_small(tmp_path / "run", **settings)
    before = (folder / "guards.jsonl").read_bytes()
    for damaged in checkpoints(folder / "checkpoints")[1:]:
        (damaged / "weights.safetensors").write_bytes(b"half written")
    run_small(folder, resume=True, **settings)
    assert (folder / "guards.jsonl").read_bytes() == before


def test_a_stop_is_a_checkpoint_and_a_run_that_can_go_on(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        GuardStopError, match=r"guard truncation, step 2: .* saved after step 2; go on with: sgsd train"
    ):
        run_small(tmp_path / "run", **cut("stop"))
    assert [folder.name for folder in checkpoints(tmp_path / "run" / "checkpoints")] == ["step-000002"]
    assert not (tmp_path / "run" / "summary.json").exists()
    assert "The run was stopped here." in write_report(tmp_path / "run").read_text()
    folder = run_small(tmp_path / "run", resume=True, **cut("stop"))  # the same trouble stops it once
    assert caplog.text.count("guard truncation, step 2: share of rollouts truncated 1,") == 1
    assert_same_bits(whole, folder)
    assert fired(folder) == {"truncation": [2]}


def test_on_the_command_line_a_stop_is_a_failure_with_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sgsd.cli.main import RUN_FAILED, run

    folder, config = tmp_path / "run", tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(merged(SMALL, {**cut("stop"), "output": str(folder)})))
    assert run(["train", str(config)]) == RUN_FAILED
    out, err = capsys.readouterr()
    assert "error guard truncation, step 2:" in err
    assert f"sgsd train {folder / 'config.yaml'} --resume" in err
    assert "Report: " in out
    assert "The run was stopped here." in (folder / "report.html").read_text()
    assert run(["train", str(config), "--resume", "--guards.truncation.action", "off"]) == 0
    assert [record["step"] for record in lines(folder, "metrics")] == [1, 2, 3, 4]
