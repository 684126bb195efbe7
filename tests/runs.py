"""Small runs for the tests: the lab's policy, a few rollouts, seconds."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from sgsd.train import RunConfig, make_config, run_training

SMALL: dict[str, Any] = {
    "steps": 3,
    "rollouts": 8,
    "method": {"name": "sgsd", "k": 2, "confidence": 0.01},
    "model": {"path": "lab", "dtype": "float32"},
    "lora": None,
    "data": {"path": "lab:train", "limit": 256},
    "prompts": {
        "folder": "lab",
        "student_thinking": False,
        "teacher_thinking": False,
        "evaluation_thinking": False,
        "max_tokens": 512,
    },
    "sampling": {"max_tokens": 96},
    "bank": {"path": "lab"},
    "optimizer": {"lr": 1e-4, "max_grad_norm": 1.0},
    "compute": {"threads": 1},
}
LORA = {"rank": 4, "alpha": 8}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(out.get(key), dict) and key != "method"
        out[key] = merged(out[key], value) if nested else value
    return out


def small_config(folder: Path, **changes: Any) -> RunConfig:
    return make_config(merged(SMALL, {"output": str(folder), **changes}))


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def run_small(folder: Path, *, resume: bool = False, **changes: Any) -> Path:
    return run_training(small_config(folder, **changes), quiet(), resume=resume).folder
