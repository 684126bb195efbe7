"""Two checks that weights are what they are taken for: the sampler's, and a restored checkpoint's.

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

from sgsd.distributed.collectives import largest
from sgsd.scorer import Row, collate, plan_microbatches
from sgsd.scorer.module import Role
from sgsd.train.batch import Batch
from sgsd.train.policy import Policy
from sgsd.train.sampler_mismatch import StaleSamplerError, check_gap, mean_gap, trainer_rounding
from sgsd.train.sampling import Sampler
from sgsd.types import RolloutRequest, UserError

__all__ = ["CANARY", "StaleSamplerError", "check_canary", "check_fresh", "check_sampler", "take_canary"]

CANARY = "canary.json"
PROBES, PROBE_TOKENS = 8, 32  # rollouts, and of each so many: the mean of fewer says too little in bfloat16


@torch.no_grad()
def score_rows(policy: Policy, rows: Sequence[Row], role: Role = "student") -> Tensor:
    """Log-probs [N] of the rows' completions, in eval mode: a dropout would hide what is to be seen."""
    scorer = policy.bare_scorer
    training = scorer.model.training
    scorer.model.eval()
    policy.strategy.before_microbatch(role)
    try:
        scores = policy.scorer(collate(rows, pad_id=policy.pad_id, device=policy.device), role=role)
    finally:
        scorer.model.train(training)
    assert scores.logps_N is not None
    return scores.logps_N.cpu()


def check_sampler(policy: Policy, sampler: Sampler, batch: Batch) -> None:
    """Compare one micro-batch of the step's rollouts with the sampler's own log-probs, on all processes together.

    Once a session, before anything is scored; from then on `update` compares the passes that it makes anyway, unless a
    dropout hides in them what is to be seen.

    Raises:
        StaleSamplerError: they differ by more than rounding.
    """
    sampler_logps = batch.sampled_logps()
    if sampler_logps is None or batch.staleness:
        return
    rows = batch.student_rows()
    chosen = plan_microbatches([len(row) for row in rows], sampler.config.compute.student_tokens)[0]
    scored_N = score_rows(policy, [rows[i] for i in chosen])
    gap = mean_gap([sampler_logps[i] for i in chosen], [scored_N])
    check_gap(policy, sampler.engine, gap, alarm=sampler.config.rollout.mismatch_warning)


def check_fresh(policy: Policy, sampler: Sampler, requests: Sequence[RolloutRequest]) -> None:
    """Sample the first tokens of a few rollouts and score them at once: the engine has the weights that it was given.

    For rollouts that are trained on only after the next update, when nothing can be compared any more.

    Raises:
        StaleSamplerError: they differ by more than rounding.
    """
    config, few = sampler.config, requests[:PROBES]
    sampling = config.sampling.to_sampling()
    short = replace(sampling, max_tokens=min(PROBE_TOKENS, sampling.max_tokens))
    done = sampler.engine.sample([r.prompt_ids for r in few], [r.index for r in few], short, seed=config.seed)
    if all(completion.logps for completion in done):
        scored_N = score_rows(policy, [Row(r.prompt_ids, c.token_ids) for r, c in zip(few, done, strict=True)])
        gap = mean_gap([torch.tensor(completion.logps) for completion in done], [scored_N])
        check_gap(policy, sampler.engine, gap, alarm=config.rollout.mismatch_warning)


def take_canary(policy: Policy, batch: Batch) -> str:
    """One short rollout and what the current weights say of it, for a checkpoint to be checked against."""
    row = min(batch.student_rows(), key=len)
    log_probs = {role: score_rows(policy, [row], role).tolist() for role in roles(policy)}
    return json.dumps(
        {"prompt": row.prompt_ids, "completion": row.completion_ids, "log_probs": log_probs, "machine": machine(policy)}
    )


def check_canary(policy: Policy, folder: Path) -> list[str]:
    """Score the checkpoint's rollout again; returns in what the machine is another one than when it was saved.

    The same machine must give the same bits (on a CPU; other devices do not promise that), another one the same
    numbers but for rounding.

    Raises:
        UserError: they differ by more.
    """
    saved = json.loads((folder / CANARY).read_text(encoding="utf-8"))
    row = Row(tuple(saved["prompt"]), tuple(saved["completion"]))
    gap = 0.0
    for role in roles(policy):
        expected_N = torch.tensor(saved["log_probs"][role])
        gap = max(gap, _not_nan(float((score_rows(policy, [row], role) - expected_N).abs().mean())))
    gap, now = largest(policy.accelerator, gap), machine(policy)
    before = saved["machine"]
    keys = dict.fromkeys([*now, *before])
    changed = [f"{key} {before.get(key)} → {now.get(key)}" for key in keys if before.get(key) != now.get(key)]
    to_the_bit = not changed and policy.device.type == "cpu"
    if gap > (0.0 if to_the_bit else trainer_rounding(policy)):
        raise UserError(
            f"{folder}: its weights do not give the log-probabilities they were saved with (off by {gap:.2g} nats a"
            " token); restore it from a copy, or remove it to go on from an older one"
        )
    return changed


def roles(policy: Policy) -> list[Role]:
    """The roles whose weights a checkpoint holds."""
    own = policy.bare_scorer.teacher_weights in ("adapter", "copy")
    return ["student", "teacher"] if own else ["student"]


def machine(policy: Policy) -> dict[str, Any]:
    """Everything that is known to move the last bits of a number."""
    on_cpu = policy.device.type == "cpu"
    own = {"cpu": f"{cpu_name()} ({torch.backends.cpu.get_cpu_capability()})", "threads": torch.get_num_threads()}
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "precision": policy.accelerator.mixed_precision,
        **(own if on_cpu else {"device": torch.cuda.get_device_name(policy.device)}),
        **({"launch": policy.strategy.name} if policy.strategy.name else {}),
    }


@cache
def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _not_nan(gap: float) -> float:
    return math.inf if math.isnan(gap) else gap
