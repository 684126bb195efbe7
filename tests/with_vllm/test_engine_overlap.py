"""vLLM beside the trainer samples the next step's rollouts while this step trains; a stop in between loses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_engine_server import RANK

from resumable import lines, steps_done, stop_in
from runs import run_small
from sgsd.checkpoint.pending import read_shards
from sgsd.checkpoint.saving import checkpoints

pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")

SETTINGS: dict[str, Any] = {
    "lora": RANK,
    "steps": 4,
    "optimizer": {"lr": 1e-2, "max_grad_norm": 1.0},
    "rollout": {
        "engine": "vllm",
        "prefetch": True,
        "importance_cap": 2.0,
        "options": {"enforce_eager": True, "max_num_seqs": 32},
        "start_timeout": 240.0,
        "timeout": 60.0,
    },
}


def test_the_next_step_s_rollouts_come_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_in(patch, "score_teachers", 2)
        run_small(folder, **SETTINGS)
    assert steps_done(folder) == [1, 2]
    (saved,) = checkpoints(folder / "checkpoints")
    kept = read_shards(saved)
    assert kept is not None
    assert (saved.name, kept.staleness) == ("step-000002-pending", 1)
    run_small(folder, resume=True, **SETTINGS)
    found = lines(folder, "metrics")
    assert [record["staleness"] for record in found] == [0, 1, 1, 1]
    assert found[0]["sampler_mismatch"] < 1e-5
    assert all(record["sampler_mismatch"] > 1e-3 for record in found[1:])  # a step of this rate, and it is known
    assert not list(folder.glob("engine/*"))
