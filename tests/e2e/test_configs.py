"""Every config in configs/ passes a dry run and trains, against stand-ins for what it names on the hub."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

import standins
from sgsd.cli.main import run
from sgsd.records.run_files import Records
from sgsd.train import load_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
SIZES, METHODS = ("1.7b", "4b", "8b"), ("sgsd", "grpo", "opsd", "grpo-equal", "opsd-equal")


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders and files by what they stand for."""
    folder = tmp_path_factory.mktemp("standins")
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    found = {kind: str(standins.save_model(folder / kind, kind)) for kind in standins.CONFIGS}
    rows: dict[str, Any] = {
        "dapo": [standins.dapo_row(*sum_) for sum_ in standins.SUMS] * 3,
        "metadata": [standins.metadata_row(*s) for s in standins.SUMS] + [standins.metadata_row("Sort.", "x", "code")],
        "conversational": [standins.conversational_row(*sum_) for sum_ in standins.SUMS],
        "turns": [standins.turns_row(*sum_) for sum_ in standins.SUMS],
        "plain": [standins.plain_row(*sum_) for sum_ in standins.SUMS],
    }
    for name, table in rows.items():
        found[name] = standins.write_parquet(folder / f"{name}.parquet", table)
    return {**found, "bank": standins.write_bank(folder / "bank.json")}


def data_for(config: Path) -> str:
    return "metadata" if yaml.safe_load(config.read_text())["data"]["path"].endswith("OpenThoughts-114k") else "dapo"


def arguments(config: Path, there: dict[str, str], output: Path, *, data: str, model: str = "qwen3") -> list[str]:
    """The command line of a user who has the model and the data in folders, made small."""
    method = yaml.safe_load(config.read_text())["method"]["name"]
    found = ["train", str(config), "--model.path", there[model], "--model.dtype", "float32", "--output", str(output)]
    found += ["--data.path", there[data], "--sampling.max-tokens", "6", "--steps", "3", "--compute.threads", "1"]
    found += ["--rollouts", "8" if method == "grpo" else "2", "--lora.rank", "4", "--lora.alpha", "8"]
    return [*found, "--bank.path", there["bank"]] if method == "sgsd" else found


def test_there_is_one_of_each() -> None:
    assert {path.stem for path in CONFIGS} == {f"qwen3-{size}-{method}" for size in SIZES for method in METHODS}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_says_what_it_is(config: Path) -> None:
    text, raw = config.read_text(), yaml.safe_load(config.read_text())
    assert raw["name"] == config.stem
    assert "yet run by us at this size" in text
    assert "# revision: <commit>" in text
    assert len(text.splitlines()) <= 60
    size = config.stem.split("-")[1]
    assert raw["model"]["path"] == f"Qwen/Qwen3-{size.upper()}"
    for other in SIZES:  # sizes differ in their names alone
        twin = config.with_name(config.name.replace(size, other)).read_text()
        assert twin.replace(other, size).replace(other.upper(), size.upper()) == text


def test_the_published_budgets() -> None:
    for size in SIZES:
        sgsd, grpo, opsd = (load_config(CONFIGS[0].with_name(f"qwen3-{size}-{name}.yaml")) for name in METHODS[:3])
        assert (sgsd.rollouts, sgsd.steps, sgsd.sampling.max_tokens, sgsd.method["k"]) == (16, 200, 1024, 8)
        assert (sgsd.sampling.temperature, sgsd.sampling.top_p, sgsd.sampling.top_k) == (1.1, 0.95, 20)
        assert (sgsd.optimizer.lr, sgsd.optimizer.max_grad_norm, sgsd.method["teacher"]) == (5e-6, 0.1, "live")
        assert sgsd.lora is not None
        assert (sgsd.lora.rank, sgsd.lora.alpha, sgsd.lora.target_modules) == (64, 128, ["auto"])
        assert (sgsd.prompts.student_thinking, sgsd.prompts.teacher_thinking) == (False, True)
        assert (grpo.group_size, grpo.steps, grpo.sampling.max_tokens, grpo.method["iterations"]) == (8, 300, 16_000, 2)
        assert grpo.sampling.temperature == 1.2
        assert (opsd.rollouts, opsd.steps, opsd.sampling.temperature) == (32, 300, 1.1)
        assert (opsd.method["teacher"], opsd.method["clip"]) == ("frozen", 0.05)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", ["grpo-equal", "opsd-equal"])
def test_equal_budgets_differ_in_the_method_alone(size: str, method: str) -> None:
    sgsd, other = (
        load_config(CONFIGS[0].with_name(f"qwen3-{size}-{name}.yaml")).model_dump() for name in ("sgsd", method)
    )
    assert {key for key in sgsd if sgsd[key] != other[key]} == {"name", "method", "bank"}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_passes_its_dry_run(
    config: Path, there: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments(config, there, tmp_path / "run", data=data_for(config))
    assert run([*argv, "--dry-run"]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert "8 of 8 readable" in shown
    assert ("1 of 9 rows left out: domain is not math" if data_for(config) == "metadata" else "16 of 24 rows") in shown
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_trains(config: Path, there: dict[str, str], tmp_path: Path) -> None:
    assert run(arguments(config, there, tmp_path / "run", data=data_for(config))) == 0
    assert [record["step"] for record in Records(tmp_path / "run").read("metrics")] == [1, 2, 3]
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("method", "model", "data"),
    [
        ("sgsd", "qwen2.5", "conversational"),
        ("sgsd", "llama", "turns"),
        ("opsd", "llama", "conversational"),
        ("opsd", "qwen2.5", "turns"),
        ("grpo", "llama", "plain"),
    ],
)
def test_other_models_and_data_by_flags_alone(
    method: str, model: str, data: str, there: dict[str, str], tmp_path: Path
) -> None:
    config = CONFIGS[0].with_name(f"qwen3-1.7b-{method}.yaml")
    argv = arguments(config, there, tmp_path / "run", data=data, model=model)
    assert run(argv) == 0
    assert len(Records(tmp_path / "run").read("metrics")) == 3


def test_gym_tasks_by_flags_alone(there: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("reasoning_gym")
    config = CONFIGS[0].with_name("qwen3-1.7b-grpo-equal.yaml")
    gym = ["--data.path", "gym:leg_counting", "--data.limit", "16", "--verifier.name", "gym"]
    argv = [*arguments(config, there, tmp_path / "run", data="plain"), *gym]
    assert run([*argv, "--dry-run"]) == 0
    assert "16 of 16 readable" in capsys.readouterr().out
    assert run(argv) == 0
    assert len(Records(tmp_path / "run").read("metrics")) == 3
    assert run([*argv[:-1], "math"]) == 2
    assert "gym grades gym tasks" in capsys.readouterr().err


# ── The dry run ────────────────────────────────────────────────────────────────────────────────────────────────────

SGSD = CONFIGS[0].with_name("qwen3-1.7b-sgsd.yaml")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model.path", "/no/such"], "there is no folder /no/such"),
        (["--prompts.max-tokens", "40"], "more than prompts.max_tokens 40"),
        (["--sampling.max-tokens", "50000"], "are more than the model's 40,960 positions"),
        (["--bank.path", "/no/bank.json"], "/no/bank.json"),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_what_would_stop_a_run_is_one_line(
    flags: list[str], expected: str, there: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments(SGSD, there, tmp_path / "run", data="dapo")
    assert run([*argv, *flags, "--dry-run"]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert expected in message
    assert not (tmp_path / "run").exists()


def test_a_method_that_insists_on_solutions(
    there: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CONFIGS[0].with_name("qwen3-1.7b-opsd-equal.yaml")
    argv = arguments(config, there, tmp_path / "run", data="dapo")
    assert run([*argv, "--method.show", "solution", "--data.layout", "dapo", "--dry-run"]) == 2
    assert "problem dapo-0: it has no solution (8 of 8 have none)" in capsys.readouterr().err
    assert run([*argv, "--method.show", "solution_or_answer", "--dry-run"]) == 0
    assert "0; the others' teachers see the answer" in capsys.readouterr().out


def test_unreadable_references_are_counted_and_named(
    there: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [standins.plain_row("a?", "4"), standins.plain_row("b?", "\\frac{")]
    for name, table in (("two", rows), ("none", rows[1:])):
        there = {**there, name: standins.write_jsonl(tmp_path / f"{name}.jsonl", table)}
    assert run([*arguments(SGSD, there, tmp_path / "run", data="two"), "--dry-run"]) == 0
    shown = " ".join(re.sub(r"[│\s]+", " ", capsys.readouterr().out).split())
    assert "1 of 2 readable (50.0%) 1 unparsed: their rollouts teach nothing; first: problem two-1" in shown
    assert run([*arguments(SGSD, there, tmp_path / "run", data="none"), "--dry-run"]) == 2
    assert "it reads none of the 1 reference answers; the first is" in capsys.readouterr().err


def test_a_name_that_may_move_is_said_aloud(caplog: pytest.LogCaptureFixture) -> None:
    from sgsd.train.setup import warn_of_moving_names

    changes = {"model.path": "/a/folder", "data.revision": "main"}
    warn_of_moving_names(load_config(SGSD, changes))
    warn_of_moving_names(load_config(SGSD, {"model.revision": "a" * 40, "data.path": "mine.parquet"}))
    assert [record.getMessage() for record in caplog.records] == [
        "WARNING data BytedTsinghua-SIA/DAPO-Math-17k: main can move: results may change; add data.revision: <commit>"
    ]
    caplog.clear()
    warn_of_moving_names(load_config(SGSD))
    assert [record.getMessage().split(": results")[0] for record in caplog.records] == [
        "WARNING model Qwen/Qwen3-1.7B: not pinned",
        "WARNING data BytedTsinghua-SIA/DAPO-Math-17k: not pinned",
    ]


@pytest.mark.prove
@pytest.mark.parametrize(("flags", "said"), [([], "Report:"), (["--dry-run"], "Nothing was trained")])
def test_two_processes_speak_once(flags: list[str], said: str, there: dict[str, str], tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "sgsd.cli"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    argv = [*arguments(SGSD, there, tmp_path / "run", data="turns", model="llama"), *flags]
    done = subprocess.run(
        [sys.executable, *launch, *argv], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [done.stdout.count(said), done.stdout.count("read as openthoughts")] == [1, 1]
    assert (tmp_path / "run").exists() == (not flags)
    assert len(Records(tmp_path / "run").read("metrics")) == (0 if flags else 3)


def test_a_published_config_ends_with_the_figures_of_before_and_after(
    there: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The held-out set is named on the command line, as the config's own comment shows."""
    words = arguments(CONFIGS[0].with_name("qwen3-1.7b-sgsd.yaml"), there, tmp_path / "run", data="dapo")
    held_out = ["--evaluation.data.path", there["plain"], "--evaluation.problems", "6", "--evaluation.samples", "2"]
    assert run([*words, *held_out, "--evaluation.sampling.max-tokens", "6"]) == 0
    said = capsys.readouterr().out
    assert "On 6 held-out problems, 95 % intervals:" in said
    for name in ("one sample (mean of 2)", "greedy"):
        assert re.search(rf"{re.escape(name)} +\S+% \(\S+% to \S+%\)  →  \S+% \(\S+% to \S+%\)", said)
