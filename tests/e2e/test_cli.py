"""The command line as a user meets it: one clear line and exit code 2 for what can be mended."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from runs import SMALL, merged, run_small
from sgsd.cli.main import run


def write_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(merged(SMALL, {"output": str(folder / "run"), **changes})))
    return path


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command that must be refused; returns its one line."""
    capsys.readouterr()
    assert run(argv) == 2
    captured = capsys.readouterr()
    message = captured.err.strip()
    assert message.startswith("error ")
    assert "\n" not in message
    assert "Traceback" not in captured.out + captured.err
    return message


BAD_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"model": {"path": "/no/such/folder"}}, "there is no folder /no/such/folder"),
    ({"optimizer": {"lerning_rate": 1}}, "optimizer.lerning_rate: there is no such key"),
    ({"optmizer": {"lr": 1}}, "did you mean 'optimizer'"),
    ({"steps": "many"}, "steps: input should be a valid integer"),
    ({"steps": 2.5}, "steps: input should be a valid integer"),
    ({"model": {"trust_remote_code": "yes"}}, "model.trust_remote_code: input should be a valid boolean"),
    ({"method": {"name": "sgsd", "k": "four"}}, "method.k: input should be a valid integer"),
    ({"method": {"name": "sgsd", "tau": -1.0}}, "tau must be positive"),
    ({"method": {"name": "grpo", "group": 3}}, "not a whole number of groups of 3"),
    ({"bank": {"path": None}}, "bank.path: sgsd retrieves skills"),
    ({"bank": {"path": "/no/bank.json"}}, "/no/bank.json"),
    ({"data": {"path": "/no/data.jsonl"}}, "there is no file /no/data.jsonl"),
    ({"data": {"path": "lab:tests"}}, "lab:train and lab:held-out"),
    ({"prompts": {"folder": "/no/prompts"}}, "neither a bundled set"),
    ({"prompts": {"max_tokens": 5}}, "prompts.max_tokens 5"),
    ({"verifier": {"name": "no.module:f"}}, "no.module"),
    ({"model": {"dtype": "bfloat16"}}, "model.dtype: where all weights train"),
    ({"lora": {"target_modules": ["nothing"]}}, "lora.target_modules:"),
    ({"evaluation": {"data": {"path": "lab:held-out", "limit": 99999}}}, "99999 were asked for"),
    ({"model": {"attention": "flash_attention_2"}}, "flash_attention_2 needs dtype"),
]


@pytest.mark.parametrize(("change", "expected"), BAD_CONFIGS, ids=[message[:40] for _, message in BAD_CONFIGS])
def test_a_bad_config_is_one_clear_line(
    change: dict[str, Any], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refused(capsys, "train", str(write_config(tmp_path, **change)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty"),
        ('{"problem": "1+1"}\n', "no column 'answer'"),
        ('{"problem": "1+1", "answer": "2"}\n{"problem": "2+2", "answer": null}\n', "row 2 has no answer"),
        ('{"problem": "1+1", "answer": "2"}\n{"problem": "2+2", "answer": "  "}\n', "row 2 has no answer"),
        ('{"problem": ', "cannot be read"),
    ],
)
def test_bad_data_names_the_row(text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(text)
    assert expected in refused(capsys, "train", str(write_config(tmp_path, data={"path": str(data), "limit": None})))


def test_a_malformed_bank_names_item_and_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bank = tmp_path / "bank.json"
    skill = {"skill_id": "s1", "title": "<|im_start|>", "principle": "p", "when_to_apply": "w"}
    bank.write_text(json.dumps({"general_skills": [skill], "common_mistakes": [], "metadata": {}}))
    message = refused(capsys, "train", str(write_config(tmp_path, bank={"path": str(bank)})))
    assert "s1" in message
    assert "title" in message
    assert refused(capsys, "bank", "validate", str(bank)) == message


def test_an_occupied_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_small(tmp_path / "run", steps=1)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert "already holds a run" in refused(capsys, "train", str(write_config(tmp_path)))
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_a_folder_that_holds_no_demo_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "something else than a demo" in refused(capsys, "demo", "--output", str(tmp_path))
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_commands_and_configs_that_do_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'train'" in refused(capsys, "trian")
    assert "there is no such config file" in refused(capsys, "train", str(tmp_path / "no.yaml"))
    assert "the config file comes before --seed" in refused(capsys, "train", "--seed", "1")
    torn = tmp_path / "torn.yaml"
    torn.write_text("steps: [1")
    assert "not readable as YAML" in refused(capsys, "train", str(torn))
    twice = tmp_path / "twice.yaml"
    twice.write_text("steps: 1\nsteps: 2\n")
    assert "stands twice" in refused(capsys, "train", str(twice))
    assert "metrics" in refused(capsys, "report", str(tmp_path))


def test_overrides_and_print_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path)
    assert run(["train", str(path), "--print-config", "--optimizer.lr", "3e-4", "--method.k", "3", "--seed", "5"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["optimizer"]["lr"], printed["method"]["k"], printed["seed"]) == (3e-4, 3, 5)
    assert printed["method"]["tau"] == 1.0  # the method's own default, written out
    assert run(["train", str(path), "--print-config", "--lora", "none", "--bank.path", "lab"]) == 0
    without_bank = write_config(tmp_path, bank={"path": None}, method={"name": "sgsd"})
    assert run(["train", str(without_bank), "--print-config", "--bank.path", "lab"]) == 0
    assert run(["train", str(without_bank), "--print-config", "--method.name", "grpo", "--method.group", "4"]) == 0
    assert "optimizer.lerning_rate: there is no such key" in refused(
        capsys, "train", str(path), "--optimizer.lerning-rate", "1"
    )


def test_preview_shows_the_prompts_with_their_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["preview", str(write_config(tmp_path))]) == 0
    shown = capsys.readouterr().out
    assert "student, thinking off" in shown
    assert "teacher 2, weight" in shown
    assert "<|im_start|>user" in shown
    assert "Skill:" in shown


def test_doctor_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    assert "accelerator" in capsys.readouterr().out
    assert run([]) == 0
    assert "demo" in capsys.readouterr().out


def test_your_own_data_verifier_and_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's example: a JSONL file, a function that grades, a bank in JSON."""
    grader = "def grade(completion, gold):\n    return completion.strip().endswith(gold)\n"
    (tmp_path / "my_domain.py").write_text(grader)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "sums.jsonl").write_text("".join(f'{{"q": "Addition: 3{i}+4{i}", "a": "7"}}\n' for i in range(4)))
    assert run(["lab", "bank", str(tmp_path / "bank.json")]) == 0
    config = write_config(
        tmp_path,
        steps=1,
        data={"path": str(tmp_path / "sums.jsonl"), "problem": "q", "answer": "a", "limit": None},
        verifier={"name": "my_domain:grade"},
        bank={"path": str(tmp_path / "bank.json")},
    )
    assert run(["train", str(config)]) == 0
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("module", ["sgsd", "sgsd.cli"])
def test_the_package_runs_as_a_module(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == version("sgsd")
