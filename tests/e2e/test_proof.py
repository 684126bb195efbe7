"""Weights are what they are taken for: the sampler's are the trainer's, a checkpoint's those that were saved."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from resumable import METHODS, lines, stop_in
from runs import LORA, quiet, run_small, small_config
from sgsd.checkpoint.saving import MANIFEST, checkpoints
from sgsd.files import sha256
from sgsd.rollout import TransformersEngine
from sgsd.train import consistency as proof
from sgsd.train import rollout_source, run, run_training
from sgsd.train.batch import Batch, build_batch, grade
from sgsd.train.consistency import check_canary
from sgsd.train.sampler_mismatch import StaleSamplerError, check_sampler
from sgsd.train.setup import Run, build_run
from sgsd.types import UserError


def resumed(folder: Path, **changes: Any) -> str:
    console = quiet()
    run_training(small_config(folder, **changes), console, resume=True)
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


# ── The sampler ────────────────────────────────────────────────────────────────────────────────────────────────────


def sample_from_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine with weights of its own that nobody brings up to date, as a server whose sync fails unnoticed."""

    def build(*arguments: Any) -> Run:
        parts = build_run(*arguments)
        parts.engine = TransformersEngine(copy.deepcopy(parts.policy.model), parts.tokenizer)
        return parts

    monkeypatch.setattr(run, "build_run", build)


def test_every_step_says_how_far_the_sampler_is_from_the_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for record in lines(run_small(tmp_path / "same"), "metrics"):
        assert 0 < record["sampler_mismatch"] < 1e-6
        assert record["sampler_mismatch"] <= record["sampler_mismatch_max"] < 1e-4
    sample_from_a_copy(monkeypatch)
    with pytest.raises(StaleSamplerError, match=r"off by 0\.\d+ nats a token, 0\.001 is what rounding explains"):
        run_small(tmp_path / "stale", optimizer={"lr": 1e-3})
    (first,) = lines(tmp_path / "stale", "metrics")
    assert first["sampler_mismatch"] < 1e-6  # at first the copy is the model
    assert [path.name for path in checkpoints(tmp_path / "stale" / "checkpoints")] == ["step-000001"]


@pytest.mark.parametrize("name", ["sgsd-live-full", "grpo-lora"])
def test_a_sampler_with_stale_weights_is_caught_before_anything_is_touched(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**METHODS[name], "optimizer": {"lr": 2e-3}, "checkpoint": {"every": 2}}
    folder = run_small(tmp_path / "run", **settings)
    for saved in checkpoints(folder / "checkpoints")[1:]:  # as if killed in step 3
        (saved / MANIFEST).unlink()
    before = {path: path.read_bytes() for path in (folder / "checkpoints").rglob("*") if path.is_file()}
    sample_from_a_copy(monkeypatch)
    with pytest.raises(StaleSamplerError, match=r"off by 0\.\d+ nats a token, 0\.001 is what rounding explains"):
        run_small(folder, resume=True, **settings)
    assert [record["step"] for record in lines(folder, "metrics")] == [1, 2]
    assert before == {path: path.read_bytes() for path in (folder / "checkpoints").rglob("*") if path.is_file()}


def test_rollouts_kept_by_another_session_prove_nothing_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    monkeypatch.setattr(
        rollout_source, "check_sampler", lambda policy, sampler, batch: checked.append(batch.rollouts[0].group // 8 + 1)
    )
    with monkeypatch.context() as patch:
        stop_in(patch, "sample", 2)
        run_small(tmp_path / "run", steps=4)
    assert checked == [1]
    run_small(tmp_path / "run", steps=4, resume=True)
    assert checked == [1, 2, 3]  # what was kept, and the first step that this session sampled itself


def fresh_parts(tmp_path: Path, **changes: Any) -> Run:
    return build_run(small_config(tmp_path / "never", **changes), Accelerator())


def test_dropout_and_engines_that_say_nothing_raise_no_alarm(tmp_path: Path) -> None:
    parts = fresh_parts(tmp_path, lora={**LORA, "dropout": 0.5})
    for layer in lora_layers_of(parts):
        layer.lora_B["default"].weight.data.normal_(std=0.5)  # so that a dropout would be heard
    batch = first_batch(parts)
    check_sampler(parts.policy, parts.sampler, batch)
    assert all(module.training for module in parts.policy.model.modules())
    check_sampler(parts.policy, parts.sampler, saying(batch, lambda logps: ()))
    with pytest.raises(StaleSamplerError):
        check_sampler(parts.policy, parts.sampler, saying(batch, lambda logps: (float("nan"),) * len(logps)))


def first_batch(parts: Run) -> Batch:
    rollouts = parts.sampler.sample(1)
    return build_batch(parts.contexts, rollouts, grade(parts.verifier, rollouts))


def lora_layers_of(parts: Run) -> list[Any]:
    return [module for module in parts.policy.model.modules() if "default" in getattr(module, "lora_B", {})]


def saying(batch: Batch, change: Callable[[tuple[float, ...]], tuple[float, ...]]) -> Batch:
    """The batch as if the sampler had said something else of its tokens."""
    done = [replace(r, completion=replace(r.completion, logps=change(r.completion.logps))) for r in batch.rollouts]
    return replace(batch, rollouts=done)


# ── The canary ─────────────────────────────────────────────────────────────────────────────────────────────────────


def alter(folder: Path, part: str, by: float) -> None:
    """Change a weight by a little and sign the checkpoint again, as no bit rot and every mix-up of files would."""
    weights = load_file(folder / "weights.safetensors")
    name = next(name for name in weights if part in name)
    weights[name] = weights[name] + by
    save_file(weights, folder / "weights.safetensors")
    hashes = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({name: sha256(folder / name) for name in hashes}))


@pytest.mark.parametrize(
    ("name", "part", "by"),
    [
        ("sgsd-live-full", "down_proj", 1e-2),
        ("sgsd-live-full", "down_proj", 1e-6),
        ("sgsd-ema-lora", "lora_A.default", 1e-2),
        ("sgsd-ema-lora", "lora_A.teacher", 1e-2),
        ("opsd-ema-full", "teacher_copy.model.layers.0.mlp.down_proj", 1e-3),
    ],
)
def test_altered_weights_that_pass_their_manifest_are_caught(name: str, part: str, by: float, tmp_path: Path) -> None:
    settings = {**METHODS[name], "optimizer": {"lr": 2e-3}, "steps": 2}
    folder = run_small(tmp_path / "run", **settings)
    (saved,) = checkpoints(folder / "checkpoints")
    before = (folder / "metrics.jsonl").read_bytes()
    resumed(folder, **settings)
    alter(saved, part, by)
    with pytest.raises(UserError, match=r"step-000002: its weights do not give the log-probabilities"):
        run_small(folder, resume=True, **settings)
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_another_machine_may_round_differently_but_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_small(tmp_path / "run", steps=1)
    plain_machine, plain_scores = proof.machine, proof.score_rows
    monkeypatch.setattr(proof, "machine", lambda parts: {**plain_machine(parts), "torch": "9.9"})
    monkeypatch.setattr(proof, "score_rows", lambda *arguments: plain_scores(*arguments) + 1e-5)
    said = resumed(folder, steps=1)
    assert f"something else does: torch {torch.__version__} → 9.9." in said
    monkeypatch.setattr(proof, "machine", plain_machine)
    with pytest.raises(UserError, match="do not give the log-prob"):
        resumed(folder, steps=1)
    monkeypatch.setattr(proof, "machine", lambda parts: {**plain_machine(parts), "torch": "9.9"})
    monkeypatch.setattr(proof, "score_rows", lambda *arguments: plain_scores(*arguments) * float("nan"))
    with pytest.raises(UserError, match="do not give the log-prob"):
        resumed(folder, steps=1)


def test_the_canary_disturbs_nothing(tmp_path: Path) -> None:
    parts = fresh_parts(tmp_path, lora={**LORA, "dropout": 0.5})
    batch = first_batch(parts)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    (tmp_path / proof.CANARY).write_text(proof.take_canary(parts.policy, batch))
    assert check_canary(parts.policy, tmp_path) == []
    assert torch.equal(torch.rand(3), expected)
    assert all(module.training for module in parts.policy.model.modules())
    assert not any(p.grad is not None for p in parts.policy.bare_scorer.parameters())


def test_a_run_that_ran_out_of_memory_goes_on_with_smaller_passes(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"checkpoint": {"every": 1, "keep": 5}}
    whole = run_small(tmp_path / "whole", **settings)
    folder = run_small(tmp_path / "run", **settings)
    for saved in checkpoints(folder / "checkpoints")[1:]:
        (saved / MANIFEST).unlink()
    said = resumed(folder, **settings, compute={"student_tokens": 200, "threads": 1})
    assert "last bits may differ from an uninterrupted run's, for something else does: compute.student_tokens" in said
    for one, other in zip(lines(whole, "metrics"), lines(folder, "metrics"), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4, abs=1e-7)
