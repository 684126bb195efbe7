"""`sgsd plan` as a user meets it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from runs import SMALL, merged
from sgsd.cli.main import run
from sgsd.train.resume_run import begin

FEW: dict[str, Any] = {"rollouts": 4, "steps": 40}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders go, so that one can look what stays."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def write_config(folder: Path, **changes: Any) -> str:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(merged(SMALL, {"output": str(folder / "run"), **FEW, **changes})))
    return str(path)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert run(argv) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error ")
    assert "\n" not in message
    return message


def files(folder: Path) -> Mapping[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_steps_say_what_forty_will_take(
    tmp_path: Path, temporary: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("the user's own, of another run")
    evaluation = {"data": {"path": "lab:held-out"}, "problems": 4, "samples": 2, "sampling": {"max_tokens": 96}}
    path = write_config(tmp_path, evaluation=evaluation, checkpoint={"every": 10}, skills={"every": 1})
    before = files(tmp_path)
    assert run(["plan", path, "--steps", "2", "--seed", "3"]) == 0
    assert files(tmp_path) == before
    assert list(temporary.iterdir()) == []
    shown = " ".join(capsys.readouterr().out.split())
    for expected in (
        "by 1 steps after one that warmed up",
        "40 steps.",
        "from 4 of 4 problems",
        "If all reach 96:",
        "at the peak, resident",
        "checkpoints",
        "updates of the bank every 1 steps are not in it",
    ):
        assert expected in shown


def test_nothing_stays_of_a_plan_that_fails(
    tmp_path: Path, temporary: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: Any) -> Any:
        begin(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("sgsd.plan.measured.begin", stopped)
    assert run(["plan", write_config(tmp_path), "--steps", "2"]) == 130
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_here(tmp_path: Path, temporary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--student-prompt", "40", "--teacher-prompt", "80", "--completion=24")
    assert run(["plan", write_config(tmp_path), "--memory", "80", "--processes", "2", *given]) == 0
    shown = capsys.readouterr().out
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "run").exists()
    for expected in (
        "It fits: ",
        "of 74.5 GiB",
        "student's prompts 40 tokens, teachers' 80, completions 24",
        "2 processes hold the weights in parts (FSDP)",
        "2 rollouts",
    ):
        assert expected in shown


def test_what_cannot_be_planned_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path)
    for expected, *argv in (
        ("--on: seconds by arithmetic are no longer given", path, "--on", "h100"),
        ("--memory: say what, for instance --memory 80", path, "--memory"),
        ("--memory: 'much' is not a whole number", path, "--memory", "much"),
        ("--completion: goes with --memory GB", path, "--completion", "3"),
        ("memory is traced by --memory, not both", path, "--memory", "80", "--steps", "3"),
        ("--steps: 'few' is not a whole number", path, "--steps", "few"),
        ("--steps: 1 leaves none after the warm-up", path, "--steps", "1"),
        ("--processes: 4 groups of rollouts cannot be shared by 5", path, "--memory", "80", "--processes", "5"),
        ("the config file comes before --memory", "--memory", "80"),
        ("there is no such config file", str(tmp_path / "no.yaml")),
    ):
        assert expected in refused(capsys, "plan", *argv)
    with pytest.raises(SystemExit, match="0"):
        run(["plan", "--help"])
    assert "sgsd plan CONFIG [--steps N]" in capsys.readouterr().out


def test_two_processes_plan_together(tmp_path: Path) -> None:
    """The first alone hears of the steps; the others must know how many follow, or all wait for one another."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    path = write_config(tmp_path, steps=5)
    script = tmp_path / "plan.py"  # all steps are short ones, however busy the machine
    script.write_text("from sgsd.cli import main, plan_command\n\nplan_command.SECONDS = 600.0\nmain.main()\n")
    done = subprocess.run(
        [*command, str(script), "plan", path],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert done.stdout.count("at the peak") == 1
    assert "by 4 steps after one that warmed up" in " ".join(done.stdout.split())
