"""`sgsd init` and `sgsd configs`: a folder that trains as it is, and the published configurations wherever sgsd is."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from sgsd.bank import open_bank
from sgsd.cli.init_command import VERIFIERS, shipped, starter_problems
from sgsd.cli.main import run as sgsd
from sgsd.config.loading import load_config
from sgsd.lab.task import is_held_out
from sgsd.records.run_files import Records

ROOT = Path(__file__).parents[2]
SHORT = ["--steps", "2", "--rollouts", "8", "--evaluation.problems", "8", "--evaluation.samples", "1"]


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_a_new_folder_trains_as_it_is(
    verifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sgsd(["init", "mine", "--verifier", verifier]) == 0
    assert "cd mine && sgsd train config.yaml" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "mine")
    assert (Path("verifier.py").exists()) == (verifier != "math")
    assert sgsd(["preview", "config.yaml"]) == 0
    assert sgsd(["train", "config.yaml", "--dry-run"]) == 0
    assert sgsd(["train", "config.yaml", *SHORT]) == 0
    said = capsys.readouterr().out
    assert "First rollouts:" in said
    assert "On 8 held-out problems, 95 % intervals:" in said
    steps = Records(Path("run")).read("metrics")
    assert 0 < sum(step["accuracy"] for step in steps) < 2
    assert sum(step["polarity/validated"] + step["polarity/reversed"] for step in steps) > 0
    bank = open_bank(Path("bank.json"))
    assert (len(bank.skills), len(bank.mistakes)) == (3, 3)


def test_both_verifiers_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for verifier in VERIFIERS:
        assert sgsd(["init", str(tmp_path / verifier), "--verifier", verifier]) == 0
        monkeypatch.chdir(tmp_path / verifier)
        assert sgsd(["train", "config.yaml", *SHORT]) == 0
        found.append([record["accuracy"] for record in Records(Path("run")).read("metrics")])
    assert found[0] == found[1]


def test_the_problems_are_held_apart() -> None:
    files = starter_problems()
    texts = {name: {problem.text for problem in problems} for name, problems in files.items()}
    assert all(len(texts[name]) == len(problems) for name, problems in files.items())
    assert not texts["train.jsonl"] & texts["held_out.jsonl"]
    assert all(is_held_out(text) for text in texts["held_out.jsonl"])


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("mine")
    assert sgsd(["init", str(tmp_path)]) == 2
    assert sgsd(["init", str(tmp_path / "a.txt")]) == 2
    assert capsys.readouterr().err.count("choose a new folder") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_configs_are_listed_shown_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sgsd(["configs"]) == 0
    listed = capsys.readouterr().out.split()
    assert {"qwen3-1.7b-sgsd", "zoo/dasd", "accelerate/fsdp2"} <= set(listed)
    assert sgsd(["configs", "zoo/dasd"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["method"]["name"] == "dasd"
    assert sgsd(["configs", "qwen3-1.7b-sgsd", "--output", "mine.yaml"]) == 0
    assert Path("mine.yaml").read_bytes() == shipped()["qwen3-1.7b-sgsd"].read_bytes()
    assert load_config("mine.yaml").method["name"] == "sgsd"
    assert sgsd(["configs", "qwen3-1.7b-sgsd", "--output", "mine.yaml"]) == 2
    assert sgsd(["configs", "qwen3-1.7b-sgds"]) == 2
    assert "did you mean 'qwen3-1.7b-sgsd'?" in capsys.readouterr().err


@pytest.mark.prove
def test_the_wheel_alone_trains_a_new_folder_with_a_learning_curve(tmp_path: Path) -> None:
    """In an empty folder, importing nothing but the wheel; then a wrong verifier is noticed by the tenth step."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(tmp_path), str(ROOT)], check=True
    )
    (wheel,) = tmp_path.glob("sgsd-*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    environment = {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def run(*words: str, cwd: Path = tmp_path) -> str:
        command = [sys.executable, "-m", "sgsd", *words]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    assert "qwen3-1.7b-sgsd" in run("configs")
    run("init", "mine")
    mine = tmp_path / "mine"
    assert "held-out problems, 95 % intervals" in run("train", "config.yaml", cwd=mine)
    summary = json.loads((mine / "run" / "summary.json").read_text())
    before, after = (summary[when]["avg_at_2"] for when in ("before", "after"))
    assert after["low"] > before["high"]
    assert summary["train_seconds"] < 120
    source = (mine / "verifier.py").read_text()
    (mine / "verifier.py").write_text(source.replace("== answer", '== answer + "0"'))
    said = run("train", "config.yaml", "--steps", "10", "--output", "wrong", cwd=mine)
    assert "First rollouts: 0 of 32 right." in said
    guards = Records(mine / "wrong").read("guards")
    assert any(line["guard"] == "nothing_right" and line["step"] <= 10 for line in guards)
