"""What the tests of stopping and resuming share: methods, stops at a chosen moment, comparison to the last bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from runs import LORA
from sgsd.bank import BankStore
from sgsd.checkpoint.saving import checkpoints
from sgsd.records.run_files import Records
from sgsd.train import loop
from sgsd.train.rollout_source import RolloutSource


def sgsd(teacher: str) -> dict[str, Any]:
    return {"method": {"name": "sgsd", "k": 2, "confidence": 0.01, "teacher": teacher}}


def opsd(teacher: str) -> dict[str, Any]:
    return {"method": {"name": "opsd", "teacher": teacher}, "data": {"solution": "solution"}}


GRPO: dict[str, Any] = {"method": {"name": "grpo", "group": 4}}
TEACHERS = ("live", "frozen", "ema")

#: Every method with every kind of teacher it can have, trained by an adapter and whole.
METHODS: dict[str, dict[str, Any]] = {
    f"{name}-{'lora' if lora else 'full'}": {**method, "lora": lora}
    for lora in (None, LORA)
    for name, method in {
        **{f"sgsd-{teacher}": sgsd(teacher) for teacher in TEACHERS},
        **{f"opsd-{teacher}": opsd(teacher) for teacher in TEACHERS},
        "grpo": GRPO,
    }.items()
}


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return Records(folder).read(name)


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    """What of a step's metrics is the same but for rounding; counts in bins may jump at an edge."""
    return {key: value for key, value in record.items() if not isinstance(value, list)}


def steps_done(folder: Path) -> list[int]:
    return [record["step"] for record in lines(folder, "metrics")]


def final_state(folder: Path) -> tuple[dict[str, torch.Tensor], Any]:
    """Weights, a teacher's own included, and optimizer of the last checkpoint."""
    newest = checkpoints(folder / "checkpoints")[-1]
    return load_file(newest / "weights.safetensors"), torch.load(newest / "optimizer.pt", weights_only=True)


def assert_same_bits(left: Path, right: Path) -> None:
    for name in ("metrics", "evaluations", "rollouts"):
        assert Records(left).path(name).exists() == Records(right).path(name).exists()
        if Records(left).path(name).exists():
            assert Records(left).path(name).read_bytes() == Records(right).path(name).read_bytes(), name
    (weights, optimizer), (weights2, optimizer2) = final_state(left), final_state(right)
    assert weights.keys() == weights2.keys()
    assert all(torch.equal(weights[name], weights2[name]) for name in weights)
    assert optimizer["param_groups"] == optimizer2["param_groups"]
    assert optimizer["state"].keys() == optimizer2["state"].keys()
    for key, state in optimizer["state"].items():
        assert all(torch.equal(value, optimizer2["state"][key][name]) for name, value in state.items())


def bank_history(folder: Path) -> Any:
    if not (folder / "bank.sqlite").exists():
        return None
    with BankStore(folder / "bank.sqlite", read_only=True) as store:
        return store.events()


def leftovers(folder: Path) -> list[str]:
    """Files that a write leaves behind when it is killed: none may outlive a run that came to its end."""
    names = [path.name for path in folder.rglob("*")]
    return [name for name in names if name.startswith(".") or name.endswith(("-journal", ".tmp", ".partial"))]


def stop_in(monkeypatch: pytest.MonkeyPatch, phase: str, step: int) -> None:
    """Send SIGTERM to ourselves in a phase of a step, as a scheduler would: "sample", "grade" or "score_teachers"."""
    owner: Any = loop if phase == "score_teachers" else RolloutSource
    plain, steps = getattr(owner, phase), {"now": 0}
    plain_seed = loop.seed_dropout

    def seed_dropout(seed: int, now: int, process: int) -> None:  # the first thing that each step does
        steps["now"] = now
        plain_seed(seed, now, process)

    def stopping(*arguments: Any) -> Any:
        if steps["now"] == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments)

    monkeypatch.setattr(loop, "seed_dropout", seed_dropout)
    monkeypatch.setattr(owner, phase, stopping)


def only(methods: Mapping[str, dict[str, Any]], *names: str) -> dict[str, dict[str, Any]]:
    return {name: methods[name] for name in names}
