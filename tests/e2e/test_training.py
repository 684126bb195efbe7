"""Whole runs on the lab: they learn, write what they promise, and are the same however they are cut into passes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from resumable import METHODS, lines, numbers
from runs import LORA, quiet, run_small, small_config
from sgsd.train import loop, microbatch, run_training


@pytest.mark.parametrize("name", ["sgsd-live-full", "grpo-full", "opsd-frozen-lora"])
def test_idle_passes_change_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a process whose peers have more passes to make."""
    plain = run_small(tmp_path / "plain", steps=2, **METHODS[name])
    monkeypatch.setattr(microbatch, "all_max", lambda accelerator, value: value + 1 if value else 0)
    idle = run_small(tmp_path / "idle", steps=2, **METHODS[name])
    for a, b in zip(lines(plain, "metrics"), lines(idle, "metrics"), strict=True):
        assert numbers(a) == pytest.approx(numbers(b), rel=1e-5, abs=1e-9)


def test_every_layer_checkpoints_and_drops_out_in_training(tmp_path: Path) -> None:
    from accelerate import Accelerator

    from sgsd.train.setup import build_run

    for name in ("grpo-full", "sgsd-ema-lora"):
        parts = build_run(small_config(tmp_path / "never", **METHODS[name]), Accelerator())
        assert all(module.training for module in parts.policy.model.modules())


@pytest.mark.slow
def test_twenty_steps_learn(tmp_path: Path) -> None:
    """The demo in small: 16 rollouts, K=2, 20 steps; held-out avg@4 rises by far more than its interval."""
    folder = run_small(
        tmp_path / "run",
        steps=20,
        rollouts=16,
        optimizer={"lr": 6e-4},
        evaluation={
            "data": {"path": "lab:held-out"},
            "problems": 128,
            "samples": 4,
            "sampling": {"max_tokens": 96},
        },
    )
    summary = json.loads((folder / "summary.json").read_text())
    before, after = summary["before"]["avg_at_4"], summary["after"]["avg_at_4"]
    assert after["low"] > before["high"]
    assert after["accuracy"] - before["accuracy"] >= 0.2


def test_a_run_writes_what_it_promises(tmp_path: Path) -> None:
    folder = run_small(
        tmp_path / "run",
        evaluation={
            "data": {"path": "lab:held-out"},
            "problems": 16,
            "samples": 2,
            "every": 2,
            "sampling": {"max_tokens": 96},
        },
    )
    metrics = lines(folder, "metrics")
    assert [m["step"] for m in metrics] == [1, 2, 3]
    assert not {"time", "seconds", "tokens_per_s"} & metrics[0].keys()
    assert {"loss", "accuracy", "entropy", "gate_kept", "polarity/validated", "polarity/reversed"} <= metrics[0].keys()
    for m in metrics:
        assert m["stance/supports"] + m["stance/neutral"] + m["stance/suppresses"] == pytest.approx(1)
    assert [e["step"] for e in lines(folder, "evaluations")] == [0, 2, 3]
    for r in lines(folder, "rollouts"):
        assert "".join(r["tokens"]).startswith(r["completion"][:5])
        n = len(r["tokens"])
        assert len(r["mask"]) == len(r["advantages"]) == n
        assert all(len(t["delta"]) == len(t["gate"]) == n for t in r["teachers"])
        assert sum(t["weight"] for t in r["teachers"]) == pytest.approx(1, abs=1e-5)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["bank_version"]
    assert len(summary["model_sha256"]) == 64
    assert (folder / "model" / "model.safetensors").exists()


def test_the_saved_adapter_loads_with_peft(tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    from sgsd.lab.tiny_policy import POLICY_FOLDER

    folder = run_small(tmp_path / "run", lora=LORA, steps=2, optimizer={"lr": 1e-2})
    base = AutoModelForCausalLM.from_pretrained(POLICY_FOLDER, dtype=torch.float32)
    plain = base(torch.tensor([[5, 6, 7]])).logits
    tuned = peft.PeftModel.from_pretrained(base, folder / "adapter")
    assert (tuned(torch.tensor([[5, 6, 7]])).logits - plain).abs().max() > 1e-3


def test_a_number_that_is_none_stops_the_run_within_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = loop.score_teachers

    def poisoned(learner: Any, batch: Any) -> Any:
        taught = plain(learner, batch)
        if (tmp_path / "run" / "metrics.jsonl").exists():  # from step 2 on
            taught.logps[3][:] = float("nan")
        return taught

    monkeypatch.setattr(loop, "score_teachers", poisoned)
    with pytest.raises(loop.NonFiniteError, match=r"step 2: .*rollout \d+"):
        run_small(tmp_path / "run")
    assert [m["step"] for m in lines(tmp_path / "run", "metrics")] == [1]


def test_the_same_seed_gives_the_same_run_and_another_gives_another(tmp_path: Path) -> None:
    first = run_small(tmp_path / "a", steps=2)
    again = run_small(tmp_path / "b", steps=2)
    other = run_small(tmp_path / "c", steps=2, seed=1)
    assert (first / "metrics.jsonl").read_bytes() == (again / "metrics.jsonl").read_bytes()
    assert (first / "metrics.jsonl").read_bytes() != (other / "metrics.jsonl").read_bytes()


def test_micro_batches_change_nothing_but_rounding(tmp_path: Path) -> None:
    one = run_training(small_config(tmp_path / "one", steps=1), quiet())
    many = run_training(
        small_config(tmp_path / "many", steps=1, compute={"student_tokens": 1, "teacher_tokens": 64}), quiet()
    )
    a, b = one.metrics[0], many.metrics[0]
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)


@pytest.mark.prove  # tests/e2e/test_many_processes.py holds more, sooner
def test_two_processes_are_one(tmp_path: Path) -> None:
    """DDP over gloo: the same rollouts, and the same numbers but for the order of additions."""
    import yaml

    from runs import SMALL, merged

    one = run_small(tmp_path / "one")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(merged(SMALL, {"output": str(tmp_path / "two")})))
    strategy = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "sgsd.cli"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *strategy, "train", str(config)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Report:") == 1
    for a, b in zip(lines(one, "metrics"), lines(tmp_path / "two", "metrics"), strict=True):
        # The sampler's gap is rounding and nothing else, so it is bounded, not compared.
        assert (
            max(record.pop(name) for record in (a, b) for name in ("sampler_mismatch", "sampler_mismatch_max")) < 1e-4
        )
        assert numbers(a) == pytest.approx(numbers(b), rel=1e-4, abs=1e-6)
