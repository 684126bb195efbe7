"""Two processes are one: the same gradients, bank, ledger, evaluation and checkpoints, however the weights lie."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch

from processes import LAUNCHES, arguments, run_tasks
from resumable import METHODS, final_state, lines, numbers
from runs import run_small
from sgsd.train.checkpoint import checkpoints

#: Within 1e-3 of the threshold a rounding may turn a teacher's stance; the seeds below have no support so close.
MARGIN = 1e-3
CONFIDENCE = 0.01
SHORT: dict[str, Any] = {"steps": 2, "checkpoint": {"every": 1, "keep": 9}}
EVALUATION = {"data": {"path": "lab:held-out"}, "problems": 7, "samples": 2, "sampling": {"max_tokens": 96}}
GRPO_BATCH = {"method": {"name": "grpo", "group": 4, "scale_rewards": "batch"}, "rollouts": 12}
TRUSTED = {"method": {"name": "trusted", "k": 2}}
#: Three groups for two processes, in passes of a few rows: twice the passes on one of them.
UNEVEN = {**GRPO_BATCH, "compute": {"student_tokens": 256, "teacher_tokens": 256}}
TIGHT = {"student_tokens": 300, "teacher_tokens": 600}

RUNS: dict[str, dict[str, Any]] = {
    "sgsd": {**METHODS["sgsd-live-full"], **SHORT},
    "ema-lora": {**METHODS["sgsd-ema-lora"], **SHORT},
    "opsd-ema": {**METHODS["opsd-ema-full"], **SHORT},
    "uneven": {**UNEVEN, **SHORT, "evaluation": EVALUATION},
    "trusted": {**TRUSTED, **SHORT},
}
BURSTS = {"ddp": {"burst-backward": "backward"}, "fsdp2": {"burst-backward": "backward", "burst-teacher": "teacher"}}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a single process makes of every run."""
    folder = tmp_path_factory.mktemp("one")
    for name, settings in RUNS.items():
        run_small(folder / name, **settings)
    return folder


def back_to_first_step(whole: Path, folder: Path) -> dict[str, Any]:
    """A copy of a run as it stood after its first step."""
    shutil.copytree(whole, folder)
    for later in checkpoints(folder / "checkpoints")[1:]:
        shutil.rmtree(later)
    return {"folder": str(folder), "resume": True}


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def two(request: pytest.FixtureRequest, one: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes make of them, in one launch; and of runs that one process began, or that lack memory."""
    folder = tmp_path_factory.mktemp(request.param)
    tasks = [{"folder": str(folder / name), "settings": settings} for name, settings in RUNS.items()]
    for name in ("sgsd", "ema-lora"):
        tasks += [{**back_to_first_step(one / name, folder / f"{name}-resumed"), "settings": RUNS[name]}]
    for name, where in BURSTS[request.param].items():
        settings = {**RUNS["ema-lora"], "compute": TIGHT}
        tasks += [{"folder": str(folder / name), "settings": settings, "burst": [1, where]}]
    said = run_tasks(request.param, tasks, folder)
    assert said.count("out of memory; passes hold") == len(BURSTS[request.param])
    return folder


def gradients(folder: Path) -> torch.Tensor:
    """Of the first step: AdamW's first moment is (1 − β₁) times it, clipped; all entries of all weights in a row."""
    first = torch.load(checkpoints(folder / "checkpoints")[0] / "optimizer.pt", weights_only=True)
    return torch.cat([state["exp_avg"].reshape(-1) for state in first["state"].values()])


def assert_same_run(left: Path, right: Path, rel: float = 1e-4) -> None:
    for a, b in zip(lines(left, "metrics"), lines(right, "metrics"), strict=True):
        for name in ("sampler_gap", "sampler_gap_max"):  # rounding and nothing else, so bounded, not compared
            assert max(a.pop(name), b.pop(name)) < 1e-4
        assert numbers(a) == pytest.approx(numbers(b), rel=rel, abs=1e-6)


def assert_same_state(left: Path, right: Path) -> None:
    (weights, optimizer), (weights2, optimizer2) = final_state(left), final_state(right)
    assert weights.keys() == weights2.keys()
    for name, tensor in weights.items():
        assert tensor.dtype == weights2[name].dtype
        # A factor of a product may turn where its singular value is nothing; nothing else moves by so much.
        torch.testing.assert_close(tensor, weights2[name], rtol=0, atol=3e-4 if ".teacher." in name else 1e-5)
    assert optimizer["param_groups"] == optimizer2["param_groups"]
    for key, state in optimizer["state"].items():
        assert state.keys() == optimizer2["state"][key].keys()
        assert state["step"] == optimizer2["state"][key]["step"]


@pytest.mark.parametrize("name", RUNS)
def test_loss_and_gradient_are_one_process_s(one: Path, two: Path, name: str) -> None:
    """To 1e-6 of the largest entry of the whole gradient, given the same rollouts; the loss to 1e-6 of 1 nat."""
    supports = [row[3] for line in lines(one / name, "sightings")[:1] for row in line["teachers"]]
    assert all(abs(abs(support) - CONFIDENCE) > MARGIN for support in supports)
    a, b = gradients(one / name), gradients(two / name)
    assert a.shape == b.shape
    assert float((a - b).abs().max() / a.abs().max()) <= 1e-6
    assert lines(one / name, "metrics")[0]["loss"] == pytest.approx(lines(two / name, "metrics")[0]["loss"], abs=1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_the_whole_run_is_one_process_s(one: Path, two: Path, name: str) -> None:
    assert_same_run(one / name, two / name)
    assert_same_state(one / name, two / name)


def test_bank_and_ledger_are_equal(one: Path, two: Path) -> None:
    """The bank to the last byte of its content; a ledger's supports are sums of log-probabilities, so they may round."""
    dumps = []
    for run in (one / "sgsd", two / "sgsd"):
        with sqlite3.connect(run / "bank.sqlite") as store:
            dumps.append(list(store.iterdump()))
    assert dumps[0] == dumps[1]
    a, b = (json.loads((run / "sgsd" / "ledger.json").read_text()) for run in (one, two))
    assert flat(a) == pytest.approx(flat(b), rel=1e-4, abs=1e-6)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for key, part in pairs for name, leaf in flat(part, f"{prefix}.{key}").items()}
    return {prefix: value}


def test_the_evaluation_is_the_same_record(one: Path, two: Path) -> None:
    first = lines(one / "uneven", "evaluations")
    assert first[0] == lines(two / "uneven", "evaluations")[0]
    assert len(first) == 2


@pytest.mark.parametrize("name", ["sgsd", "ema-lora"])
def test_two_go_on_with_what_one_began(one: Path, two: Path, name: str) -> None:
    assert_same_run(one / name, two / f"{name}-resumed")
    assert_same_state(one / name, two / f"{name}-resumed")


@pytest.mark.parametrize("name", ["sgsd", "ema-lora"])
def test_one_goes_on_with_what_two_began(one: Path, two: Path, name: str, tmp_path: Path) -> None:
    back_to_first_step(two / name, tmp_path / "run")
    run_small(tmp_path / "run", resume=True, **RUNS[name])
    assert_same_run(one / name, tmp_path / "run")
    assert_same_state(one / name, tmp_path / "run")


def test_out_of_memory_on_one_of_two_changes_nothing(one: Path, two: Path) -> None:
    for name in BURSTS["fsdp2" if "fsdp2" in two.name else "ddp"]:
        assert_same_run(one / "ema-lora", two / name)
        assert_same_state(one / "ema-lora", two / name)


def test_what_was_trained_is_saved_whole(one: Path, two: Path) -> None:
    from safetensors.torch import load_file

    for name, file in (("sgsd", "model/model.safetensors"), ("ema-lora", "adapter/adapter_model.safetensors")):
        a, b = load_file(one / name / file), load_file(two / name / file)
        assert a.keys() == b.keys()
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", sorted(file.stem for file in LAUNCHES.glob("*.yaml")))
def test_every_launch_file_is_read_by_accelerate(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(LAUNCHES / f"{name}.yaml"))
    assert config.num_machines == 1
    given = arguments(name)
    assert {"ddp": given.multi_gpu, "fsdp2": given.use_fsdp}.get(name, given.use_deepspeed)
