"""Two processes are one: the same gradients, bank, ledger, evaluation and checkpoints, however the weights lie.

One launch of two gloo processes makes all runs of a way to launch. Those by DeepSpeed are for `make prove`, and for
environments that have it.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from processes import LAUNCHES, arguments, run_tasks
from resumable import METHODS, final_state, lines, numbers
from runs import run_small
from sgsd.checkpoint.saving import checkpoints

#: Within 1e-3 of the threshold a rounding may turn a teacher's stance; the seeds here have no support so close.
CONFIDENCE, MARGIN = 0.01, 1e-3
SHORT: dict[str, Any] = {"steps": 2, "checkpoint": {"every": 1, "keep": 9}}
EVALUATION = {"data": {"path": "lab:held-out"}, "problems": 7, "samples": 2, "sampling": {"max_tokens": 96}}
TIGHT = {"student_tokens": 300, "teacher_tokens": 600}
RUNS: dict[str, dict[str, Any]] = {
    "sgsd": {**METHODS["sgsd-live-full"], **SHORT},
    # Two rollouts a problem: teachers' passes share prefixes, and take two turns through the model's layers.
    "ema-lora": {**METHODS["sgsd-ema-lora"], **SHORT, "group": 2},
    "trusted": {"method": {"name": "trusted", "k": 2}, **SHORT},
    # Three groups for two processes, in passes of a few rows: one of them has twice the load of the other.
    "uneven": {
        "method": {"name": "grpo", "group": 4, "scale_rewards": "batch"},
        "rollouts": 12,
        "compute": {"student_tokens": 256},
        "evaluation": EVALUATION,
        **SHORT,
    },
}
MORE = {
    name: {**METHODS[name], **SHORT}
    for name in (
        "sgsd-frozen-lora",
        "sgsd-ema-full",
        "opsd-ema-full",
        "opsd-frozen-lora",
        "opsd-live-full",
        "grpo-lora",
    )
}


@dataclass(frozen=True)
class Plan:
    """What is run under a way to launch."""

    strategy: str
    runs: tuple[str, ...]
    bursts: tuple[str, ...] = ()  # where a process of the first of them runs out of memory
    resumed: int = 1  # how many of them are resumed, both ways


PLANS = (
    Plan("ddp", ("sgsd", "trusted", "uneven"), ("backward",)),
    Plan("fsdp2", ("ema-lora", "uneven"), ("backward",)),
)
ALL = ("ema-lora", *(name for name in {**RUNS, **MORE} if name != "ema-lora"))
LONG = (
    *(Plan(name, ALL, ("forward", "backward", "teacher"), 3) for name in ("ddp", "fsdp2")),
    *(Plan(name, ALL, resumed=3) for name in ("zero2", "zero2-offload", "zero3")),
)
NO_DEEPSPEED = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


@dataclass(frozen=True)
class Made:
    plan: Plan
    one: Path
    two: Path

    def pairs(self) -> list[tuple[Path, Path]]:
        return [(self.one / name, self.two / name) for name in self.plan.runs]


def back_to_first_step(whole: Path, folder: Path) -> None:
    """A copy of a run as it stood after its first step."""
    shutil.copytree(whole, folder)
    for later in checkpoints(folder / "checkpoints")[1:]:
        shutil.rmtree(later)


def settings_of(name: str) -> dict[str, Any]:
    return {**RUNS, **MORE}[name]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a single process makes of the runs; made when first asked for."""
    return tmp_path_factory.mktemp("one")


def by_one(one: Path, name: str) -> Path:
    return one / name if (one / name).exists() else run_small(one / name, **settings_of(name))


@pytest.fixture(
    scope="module",
    params=[
        *(pytest.param(plan, id=plan.strategy) for plan in PLANS),
        *(
            pytest.param(plan, id=f"long-{plan.strategy}", marks=[pytest.mark.prove, *zero])
            for plan in LONG
            for zero in [[NO_DEEPSPEED] if plan.strategy.startswith("zero") else []]
        ),
    ],
)
def made(request: pytest.FixtureRequest, one: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What one and two processes make of the runs, of runs that one process began, and of too little memory."""
    plan: Plan = request.param
    folder = tmp_path_factory.mktemp(plan.strategy)
    tasks = []
    for name in plan.runs:
        by_one(one, name)
        tasks.append({"folder": str(folder / name), "settings": settings_of(name)})
    for name in plan.runs[: plan.resumed]:
        back_to_first_step(one / name, folder / f"{name}-resumed")
        tasks.append({"folder": str(folder / f"{name}-resumed"), "settings": settings_of(name), "resume": True})
    for where in plan.bursts:
        settings = {**settings_of(plan.runs[0]), "compute": TIGHT}
        tasks.append({"folder": str(folder / f"burst-{where}"), "settings": settings, "burst": [1, where]})
    said = run_tasks(plan.strategy, tasks, folder, timeout=900)
    assert said.count("out of memory; passes hold") == len(plan.bursts)
    return Made(plan, one, folder)


def gradient(folder: Path) -> torch.Tensor:
    """Of the first step: AdamW's first moment is (1 − β₁) times it, clipped; all entries of all weights in a row."""
    first = torch.load(checkpoints(folder / "checkpoints")[0] / "optimizer.pt", weights_only=True)
    return torch.cat([state["exp_avg"].reshape(-1) for state in first["state"].values()])


def assert_same_run(left: Path, right: Path) -> None:
    for a, b in zip(lines(left, "metrics"), lines(right, "metrics"), strict=True):
        for name in ("sampler_mismatch", "sampler_mismatch_max"):  # rounding and nothing else, so bounded, not compared
            assert max(a.pop(name), b.pop(name)) < 1e-4
        assert numbers(a) == pytest.approx(numbers(b), rel=1e-4, abs=1e-6)
    (weights, optimizer), (weights2, optimizer2) = final_state(left), final_state(right)
    assert weights.keys() == weights2.keys()
    for name, tensor in weights.items():
        assert tensor.dtype == weights2[name].dtype
        if ".teacher." not in name:  # factors of a product: one may turn where its singular value is next to nothing
            torch.testing.assert_close(tensor, weights2[name], rtol=0, atol=1e-5)
    for name in (name for name in weights if ".lora_A.teacher." in name):
        other = name.replace("lora_A", "lora_B")
        torch.testing.assert_close(weights[other] @ weights[name], weights2[other] @ weights2[name], rtol=0, atol=1e-6)
    assert optimizer["param_groups"] == optimizer2["param_groups"]
    for key, state in optimizer["state"].items():
        assert state.keys() == optimizer2["state"][key].keys()
        assert state["step"] == optimizer2["state"][key]["step"]


def test_loss_and_gradient_are_one_process_s(made: Made) -> None:
    """Given the same rollouts, to 1e-6 of the largest entry of the whole gradient; the loss to 1e-6."""
    for one, two in made.pairs():
        supports = [row[3] for line in lines(one, "sightings")[:1] for row in line["teachers"]]
        assert all(abs(abs(support) - CONFIDENCE) > MARGIN for support in supports) or one.name == "trusted"
        a, b = gradient(one), gradient(two)
        assert a.shape == b.shape
        assert float((a - b).abs().max() / a.abs().max()) <= 1e-6, one.name
        assert lines(one, "metrics")[0]["loss"] == pytest.approx(lines(two, "metrics")[0]["loss"], abs=1e-6)


def test_the_whole_run_is_one_process_s(made: Made) -> None:
    for one, two in made.pairs():
        assert_same_run(one, two)


def test_bank_ledger_and_evaluation_are_equal(made: Made) -> None:
    """Bank and evaluation to the last byte; a ledger's supports are sums of log-probabilities, so they may round."""
    for one, two in made.pairs():
        if (one / "bank.sqlite").exists():
            assert dump(one / "bank.sqlite") == dump(two / "bank.sqlite")
            a, b = (json.loads((run / "ledger.json").read_text()) for run in (one, two))
            left, right = flat(a), flat(b)
            words = {name for name, value in left.items() if isinstance(value, str | None)}
            assert {name: left[name] for name in words} == {name: right[name] for name in words}
            for half in (left, right):
                for name in words:
                    del half[name]
            assert left == pytest.approx(right, rel=1e-4, abs=1e-6)
        assert lines(one, "evaluations")[:1] == lines(two, "evaluations")[:1]


def dump(path: Path) -> list[str]:
    with sqlite3.connect(path) as store:
        return list(store.iterdump())


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for key, part in pairs for name, leaf in flat(part, f"{prefix}.{key}").items()}
    return {prefix: value}


def test_two_go_on_with_what_one_began(made: Made) -> None:
    for name in made.plan.runs[: made.plan.resumed]:
        assert_same_run(made.one / name, made.two / f"{name}-resumed")


def test_one_goes_on_with_what_two_began(made: Made, tmp_path: Path) -> None:
    for name in made.plan.runs[: made.plan.resumed]:
        back_to_first_step(made.two / name, tmp_path / name)
        run_small(tmp_path / name, resume=True, **settings_of(name))
        assert_same_run(made.one / name, tmp_path / name)


def test_out_of_memory_on_one_of_two_changes_nothing(made: Made) -> None:
    for where in made.plan.bursts:
        assert_same_run(made.one / made.plan.runs[0], made.two / f"burst-{where}")


def test_what_was_trained_is_saved_whole(made: Made) -> None:
    for one, two in made.pairs():
        (file,) = (path.relative_to(one) for path in one.glob("*/*model.safetensors"))
        a, b = load_file(one / file), load_file(two / file)
        assert a.keys() == b.keys()
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", sorted(file.stem for file in LAUNCHES.glob("*.yaml")))
def test_every_launch_file_is_read_by_accelerate(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    assert load_config_from_file(str(LAUNCHES / f"{name}.yaml")).num_machines == 1
    given = arguments(name)
    assert {"ddp": given.multi_gpu, "fsdp2": given.use_fsdp}.get(name, given.use_deepspeed)
