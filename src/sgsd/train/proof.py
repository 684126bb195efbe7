"""Two proofs that weights are what they are taken for: the sampler's, and a restored checkpoint's.

Both compare log-probabilities of the same tokens, computed twice.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from sgsd.scorer import Row, collate, plan_passes
from sgsd.scorer.module import Role
from sgsd.train.setup import Parts
from sgsd.train.step import Batch
from sgsd.types import UserError

CANARY = "canary.json"

#: Mean |difference| of log-probabilities, nats a token, that two ways of computing may put between the same weights.
#: Measured on the lab, where sampling goes through a cache and scoring does not: 1.5e-7 and 8e-4. Another engine with
#: kernels of its own is ten times further off in bfloat16; weights one epoch of training away are off by more.
ROUNDING = {"float32": 1e-3, "bfloat16": 3e-2}


class StaleSamplerError(RuntimeError):
    """The engine samples from other weights than those that are trained; nothing has been changed by it."""


def rounding(parts: Parts) -> float:
    exact = parts.config.model.dtype == "float32" and parts.accelerator.mixed_precision == "no"
    return ROUNDING["float32" if exact else "bfloat16"]


@torch.no_grad()
def score_rows(parts: Parts, rows: Sequence[Row], role: Role = "student") -> Tensor:
    """Log-probs [N] of the rows' completions, in eval mode: a dropout would hide what is to be seen."""
    scorer = parts.bare_scorer
    training = scorer.model.training
    scorer.model.eval()
    try:
        scores = scorer(collate(rows, pad_id=parts.pad_id, device=parts.accelerator.device), role=role)
    finally:
        scorer.model.train(training)
    assert scores.logps_N is not None
    return scores.logps_N.cpu()


def prove_sampler(parts: Parts, batch: Batch) -> None:
    """Compare one pass of the step's rollouts with what the sampler said of them, on all processes together.

    Raises:
        StaleSamplerError: they differ by more than rounding.
    """
    said = batch.sampled_logps()
    if said is None:
        return
    rows = batch.student_rows()
    chosen = plan_passes([len(row) for row in rows], parts.config.compute.student_tokens)[0]
    differences_N = score_rows(parts, [rows[i] for i in chosen]) - torch.cat([said[i] for i in chosen])
    gap, bound = parts.largest(float(differences_N.abs().mean())), rounding(parts)
    if not gap <= bound:
        raise StaleSamplerError(
            f"the engine samples from other weights than the trainer's: its log-probabilities are off by {gap:.2g} nats"
            f" a token, {bound:g} is what rounding explains; no weight and no checkpoint has been touched"
        )


def take_canary(parts: Parts, batch: Batch) -> str:
    """One short rollout and what the current weights say of it, for a checkpoint to be checked against."""
    row = min(batch.student_rows(), key=len)
    log_probs = {role: score_rows(parts, [row], role).tolist() for role in roles(parts)}
    return json.dumps(
        {"prompt": row.prompt_ids, "completion": row.completion_ids, "log_probs": log_probs, "machine": machine(parts)}
    )


def check_canary(parts: Parts, folder: Path) -> list[str]:
    """Score the checkpoint's rollout again; returns in what the machine is another one than when it was saved.

    The same machine must give the same bits (on a CPU; other devices do not promise that), another one the same
    numbers but for rounding.

    Raises:
        UserError: they differ by more.
    """
    saved = json.loads((folder / CANARY).read_text(encoding="utf-8"))
    row = Row(tuple(saved["prompt"]), tuple(saved["completion"]))
    gap = 0.0
    for role in roles(parts):
        expected_N = torch.tensor(saved["log_probs"][role])
        gap = max(gap, _not_nan(float((score_rows(parts, [row], role) - expected_N).abs().mean())))
    gap, now = parts.largest(gap), machine(parts)
    before = saved["machine"]
    changed = [f"{key} {before.get(key)} → {value}" for key, value in now.items() if before.get(key) != value]
    to_the_bit = not changed and parts.accelerator.device.type == "cpu"
    if gap > (0.0 if to_the_bit else rounding(parts)):
        raise UserError(
            f"{folder}: its weights do not give the log-probabilities they were saved with (off by {gap:.2g} nats a"
            " token); restore it from a copy, or remove it to go on from an older one"
        )
    return changed


def roles(parts: Parts) -> list[Role]:
    """Whose weights a checkpoint holds."""
    own = parts.bare_scorer.teacher_weights in ("adapter", "copy")
    return ["student", "teacher"] if own else ["student"]


def machine(parts: Parts) -> dict[str, Any]:
    """All that is known to move the last bits of a number."""
    on_cpu = parts.accelerator.device.type == "cpu"
    own = {"cpu": f"{cpu_name()} ({torch.backends.cpu.get_cpu_capability()})", "threads": torch.get_num_threads()}
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "precision": parts.accelerator.mixed_precision,
        **(own if on_cpu else {"device": torch.cuda.get_device_name(parts.accelerator.device)}),
    }


@cache
def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _not_nan(gap: float) -> float:
    return math.inf if math.isnan(gap) else gap
