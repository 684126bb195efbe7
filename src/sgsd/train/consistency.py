"""Two proofs that weights are what they are taken for: the sampler's, and a restored checkpoint's.

Both compare log-probabilities of the same tokens, computed twice.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from sgsd.scorer import Row, collate, plan_microbatches
from sgsd.scorer.module import Role
from sgsd.train.batch import Batch, Question
from sgsd.train.sampler_mismatch import StaleSamplerError, check_gap, mean_gap, trainer_rounding
from sgsd.train.setup import Parts
from sgsd.types import UserError

__all__ = ["CANARY", "StaleSamplerError", "check_canary", "check_fresh", "check_sampler", "take_canary"]

CANARY = "canary.json"
PROBES, PROBE_TOKENS = 8, 32  # rollouts, and of each so many: the mean of fewer says too little in bfloat16


@torch.no_grad()
def score_rows(parts: Parts, rows: Sequence[Row], role: Role = "student") -> Tensor:
    """Log-probs [N] of the rows' completions, in eval mode: a dropout would hide what is to be seen."""
    scorer = parts.bare_scorer
    training = scorer.model.training
    scorer.model.eval()
    parts.strategy.before_microbatch(role)
    try:
        scores = parts.scorer(collate(rows, pad_id=parts.pad_id, device=parts.accelerator.device), role=role)
    finally:
        scorer.model.train(training)
    assert scores.logps_N is not None
    return scores.logps_N.cpu()


def check_sampler(parts: Parts, batch: Batch) -> None:
    """Compare one pass of the step's rollouts with what the sampler said of them, on all processes together.

    Once a session, before anything is scored; from then on `update` compares the passes that it makes anyway, unless a
    dropout hides in them what is to be seen.

    Raises:
        StaleSamplerError: they differ by more than rounding.
    """
    said = batch.sampled_logps()
    if said is None or batch.staleness:
        return
    rows = batch.student_rows()
    chosen = plan_microbatches([len(row) for row in rows], parts.config.compute.student_tokens)[0]
    scored_N = score_rows(parts, [rows[i] for i in chosen])
    check_gap(parts, mean_gap([said[i] for i in chosen], [scored_N]))


def check_fresh(parts: Parts, asked: Sequence[Question]) -> None:
    """Sample the first tokens of a few rollouts and score them at once: the engine has the weights that it was given.

    For rollouts that are trained on only after the next update, when nothing can be compared any more.

    Raises:
        StaleSamplerError: they differ by more than rounding.
    """
    sampling, few = parts.config.sampling.to_sampling(), asked[:PROBES]
    short = replace(sampling, max_tokens=min(PROBE_TOKENS, sampling.max_tokens))
    done = parts.engine.sample([q.prompt_ids for q in few], [q.index for q in few], short, seed=parts.config.seed)
    if all(completion.logps for completion in done):
        scored_N = score_rows(parts, [Row(q.prompt_ids, c.token_ids) for q, c in zip(few, done, strict=True)])
        check_gap(parts, mean_gap([torch.tensor(completion.logps) for completion in done], [scored_N]))


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
    keys = dict.fromkeys([*now, *before])
    changed = [f"{key} {before.get(key)} → {now.get(key)}" for key in keys if before.get(key) != now.get(key)]
    to_the_bit = not changed and parts.accelerator.device.type == "cpu"
    if gap > (0.0 if to_the_bit else trainer_rounding(parts)):
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
        **({"launch": parts.strategy.name} if parts.strategy.name else {}),
    }


@cache
def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _not_nan(gap: float) -> float:
    return math.inf if math.isnan(gap) else gap
