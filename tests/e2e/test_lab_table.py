"""`sgsd lab config` and `sgsd lab table`: every method has a configuration that holds together, and a table goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sgsd.cli.main import run
from sgsd.lab import method_table as table
from sgsd.lab.method_table import Cell, cells, lab_configs, overlaid, rows
from sgsd.methods import RECIPES
from sgsd.train import make_config


@pytest.mark.parametrize("name", sorted(lab_configs()))
def test_a_configuration_holds_together(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lab", "config", name]) == 0
    config = make_config(yaml.safe_load(capsys.readouterr().out))
    assert config.build_method().name == name
    assert (config.steps, config.rollouts, config.evaluation.samples) == (60, 32, 4)


def test_only_what_the_lab_cannot_do_is_missing() -> None:
    assert set(RECIPES) - set(lab_configs()) == {"critique"}


def test_a_change_replaces_the_method_and_is_laid_over_the_rest() -> None:
    base = {"method": {"name": "sgsd", "k": 4}, "teacher": {"period": 25, "ema_decay": 0.9}, "steps": 60}
    found = overlaid(base, {"method": {"name": "opsd"}, "teacher": {"period": 10}})
    assert found == {"method": {"name": "opsd"}, "teacher": {"period": 10, "ema_decay": 0.9}, "steps": 60}


def test_a_small_table_and_its_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"steps": 1, "rollouts": 8}
    configs = {name: {**lab_configs()[name], **small} for name in ("sgsd",)}
    for config in configs.values():
        config["evaluation"] = {**config["evaluation"], "problems": 4}
    monkeypatch.setattr(table, "lab_configs", lambda: configs)
    command = ["lab", "table", "--methods", "sgsd", "--seeds", "0", "1", "--output", str(tmp_path)]
    assert run(command) == 0
    said = capsys.readouterr().out
    assert "sgsd, seed 1: done" in said
    found = json.loads((tmp_path / "table.json").read_text())
    assert {row["method"] for row in found} == {"sgsd"}
    assert all(len(row["after"]) == 2 and row["over_seeds"]["low"] <= row["over_seeds"]["accuracy"] for row in found)
    assert run(command) == 0
    assert "done" not in capsys.readouterr().out, "what has ended is not run again"


def test_a_run_that_fails_says_why_and_leaves_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table, "lab_configs", lambda: {"sgsd": {**lab_configs()["sgsd"], "rollouts": -1}})
    assert run(["lab", "table", "--methods", "sgsd", "--seeds", "0", "--output", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert "rollouts" in out
    assert "not every run has ended" in err


def test_a_method_without_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lab", "table", "--methods", "critique"]) == 2
    assert "critique has no lab configuration" in capsys.readouterr().err


def test_rows_are_best_first_and_whole(tmp_path: Path) -> None:
    def end(method: str, seed: int, accuracy: float) -> None:
        folder = tmp_path / f"{method}-{seed}"
        folder.mkdir()
        one: dict[str, Any] = {"avg_at_4": {"accuracy": accuracy}, "greedy": {"accuracy": accuracy}}
        (folder / "summary.json").write_text(json.dumps({"before": one, "after": one, "train_seconds": 1.0}))

    wanted = cells(["sgsd", "grpo", "opsd"], [0, 1], tmp_path)
    assert [cell.seed for cell in wanted] == [0, 0, 0, 1, 1, 1]
    for method, first, second in (("sgsd", 0.7, 0.8), ("grpo", 0.8, 0.9)):
        end(method, 0, first)
        end(method, 1, second)
    end("opsd", 0, 1.0)
    found = list(rows(wanted))
    assert [row.method for row in found] == ["grpo", "sgsd"]
    assert found[0].estimate.accuracy == pytest.approx(0.85)
    assert found[0].estimate.high - found[0].estimate.accuracy == pytest.approx(12.7062 * 0.05)
    assert Cell("opsd", 1, tmp_path / "opsd-1").summary is None
    (one,) = rows(cells(["grpo"], [0], tmp_path))
    assert one.to_dict()["over_seeds"] == {"accuracy": 0.8, "low": None, "high": None}
