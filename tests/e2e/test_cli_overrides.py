"""What a command line may say of a config's keys, and what `sgsd preview` shows of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from runs import SMALL, merged
from sgsd.cli.main import run
from sgsd.cli.overrides import read_flags
from sgsd.types import UserError


def write_config(folder: Path, **changes: Any) -> str:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(merged(SMALL, {"output": str(folder / "run"), **changes})))
    return str(path)


READ: list[tuple[str, dict[str, Any]]] = [
    ("--seed 3 --optimizer.lr 1e-4", {"seed": 3, "optimizer.lr": 1e-4}),
    ("--seed=3", {"seed": 3}),
    ("--track tensorboard --track.project p", {"track.to": "tensorboard", "track.project": "p"}),
    ("--track=wandb", {"track.to": "wandb"}),
    ("--track none", {"track.to": "none"}),
    ("--data.strip-instruction", {"data.strip_instruction": True}),
    ("--data.no-strip-instruction --seed 1", {"data.strip_instruction": False, "seed": 1}),
    ("--data.strip-instruction True", {"data.strip_instruction": True}),
    ("--data.strip-instruction=true", {"data.strip_instruction": True}),
    ("--data.strip-instruction false --seed 1", {"data.strip_instruction": False, "seed": 1}),
    ("--data.strip-instruction maybe", {"data.strip_instruction": "maybe"}),
    ("--name true", {"name": "true"}),
    ("--output 2026", {"output": "2026"}),
    ("--output none", {"output": None}),
    ("--group None", {"group": None}),
    ("--method.name grpo --method.group 4", {"method.name": "grpo", "method.group": 4}),
    ("--method.also answer", {"method.also": "answer"}),
    ("--method.also None", {"method.also": None}),
    ("--method.also null", {"method.also": None}),
    ("--method.scale-rewards none", {"method.scale_rewards": "none"}),
    ("--method.tau 5e-1", {"method.tau": 0.5}),
    ("--method.low -1", {"method.low": -1}),
    ("--method.switch --seed 1", {"method.switch": True, "seed": 1}),
    ("--lora none --seed 1", {"lora": None, "seed": 1}),
    ("--lora.target-modules [q_proj]", {"lora.target_modules": ["q_proj"]}),
    ("--lora.target-modules q_proj v_proj --seed 1", {"lora.target_modules": ["q_proj", "v_proj"], "seed": 1}),
    ("--lora.target-modules q_proj", {"lora.target_modules": ["q_proj"]}),
    ("--optimizer.betas 0.9 0.95", {"optimizer.betas": [0.9, 0.95]}),
    ("--rollout.base-url http://a", {"rollout.base_url": "http://a"}),
    ("--rollout.base-url http://a http://b", {"rollout.base_url": ["http://a", "http://b"]}),
    ("--rollout.sleep 1", {"rollout.sleep": 1}),
    ("--evaluation.data None", {"evaluation.data": None}),
    ("--evaluation.data.path lab:held-out", {"evaluation.data.path": "lab:held-out"}),
    ("--evaluation.problems 8", {"evaluation.problems": 8}),
    ("--bank.retrieval hybrid --bank.rerank=1", {"bank.retrieval": "hybrid", "bank.rerank": 1}),
    ("--verifier.options.timeout 3", {"verifier.options.timeout": 3}),
    ("--guards.length.action off", {"guards.length.action": False}),
]


@pytest.mark.parametrize(("line", "values"), READ, ids=[line for line, *_ in READ])
def test_flags_are_read_by_the_types_of_their_keys(line: str, values: dict[str, Any]) -> None:
    assert read_flags(line.split()) == values


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--method.k [1", r"--method.k: not readable as YAML"),
        ("loose", r"loose: belongs to no flag; keys of the config are given as --key.part value"),
        ("--seed 1 2", r"2: belongs to no flag"),
        ("--seed", r"--seed: say what, for instance --seed 0"),
        ("--model.dtype --seed 1", r"--model.dtype: say what, for instance --model.dtype float32"),
    ],
)
def test_flags_that_cannot_be_read_are_named(line: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        read_flags(line.split())


def test_switches_and_options_that_are_none_can_be_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path)
    said = "--rollout.no-prefetch --data.strip-instruction=false --writer.thinking --method.also answer --method.k 3"
    assert run(["train", path, "--print-config", *said.split(), "--seed", "5"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["writer"]["thinking"], printed["data"]["strip_instruction"], printed["seed"]) == (True, False, 5)
    assert (printed["method"]["also"], printed["method"]["k"]) == ("answer", 3)
    absent = "--evaluation.data.path lab:held-out --evaluation.data.limit 16 --bank.retrieval random"
    assert run(["train", path, "--print-config", *absent.split()]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["evaluation"]["data"]["limit"] == 16
    assert printed["bank"]["retrieval"] == "random"


def test_help_lists_every_key_with_the_files_own_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(["train", write_config(tmp_path), "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "--optimizer.max_grad_norm 1.0  (number above 0)" in shown
    assert "--steps 3  (whole number at least 0) Updates of the policy; 0: evaluate it as it is." in shown


NULLS: dict[str, Any] = {"lora": None, "evaluation": {"data": None}, "bank": {"path": "lab", "embedding": None}}
RAISED = "--lora.rank 8 --evaluation.data.path lab:held-out --bank.retrieval embedding --bank.embedding.model a/b"


@pytest.mark.parametrize("more", ["", " --optimizer.lr 1e-5"], ids=["by themselves", "with others"])
def test_keys_of_a_section_that_the_file_leaves_out_can_be_set(
    more: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", write_config(tmp_path, **NULLS), "--print-config", *(RAISED + more).split()]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["lora"]["rank"], printed["lora"]["alpha"]) == (8, 128)
    assert printed["evaluation"]["data"]["path"] == "lab:held-out"
    assert printed["bank"]["embedding"]["model"] == "a/b"
    assert run(["train", write_config(tmp_path), "--bank.path.name", "8"]) == 2
    assert "--bank.path.name: path is a single value and has no parts" in capsys.readouterr().err


@pytest.mark.parametrize("track", ["trackio", {"to": "none", "project": "mine"}])
def test_a_tracker_can_be_named_in_one_word(track: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path, track=track)
    assert run(["train", path, "--print-config", "--track", "tensorboard"]) == 0
    project = "sgsd" if isinstance(track, str) else "mine"
    found = {"to": "tensorboard", "project": project, "entity": None}
    assert yaml.safe_load(capsys.readouterr().out)["track"] == found


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--optimizer.lerning-rate 1", "optimizer.lerning_rate: there is no such key; there are lr,"),
        ("--data.strip-instruction maybe", "data.strip_instruction: input should be a valid boolean, not 'maybe'"),
        ("--steps many", "steps: input should be a valid integer, not 'many'"),
        ("--method.also everything", "method.also: input should be 'answer'"),
        ("--method.k", "method.k: input should be a valid integer, not True"),
        ("--method.kk 3", "sgsd has no such option; did you mean 'k'?"),
        ("--evaluation.data.limit many", "evaluation.data.limit: input should be a valid integer, not 'many'"),
    ],
)
def test_what_is_no_value_is_one_clear_line(
    line: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", write_config(tmp_path), *line.split()]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("stance", ["raw", "contrast", "ratio"])
def test_preview_shows_the_null_teacher_of_a_contrast(
    stance: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["preview", write_config(tmp_path), "--method.stance", stance]) == 0
    shown = capsys.readouterr().out
    assert shown.count("teacher 2, weight") == 1
    assert shown.count("null teacher, which the others are compared with, thinking off") == (stance == "contrast")
    if stance == "contrast":
        panel = shown[shown.index("null teacher") :]
        assert "Skill:" in panel
        assert "<|im_start|>assistant" in panel
