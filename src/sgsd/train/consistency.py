"""A restored checkpoint has the weights it was saved with: log-probs of the same tokens, computed then and now."""

from __future__ import annotations

import json
import math
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

from sgsd.distributed.processes import largest
from sgsd.scorer import Role, Row
from sgsd.train.batch import Batch
from sgsd.train.policy import Policy
from sgsd.train.sampler_mismatch import score_rows, trainer_rounding
from sgsd.types import UserError

CANARY = "canary.json"


def take_canary(policy: Policy, batch: Batch) -> str:
    """One short rollout and what the current weights say of it, for a checkpoint to be checked against."""
    row = min(batch.student_rows(), key=len)
    log_probs = {role: score_rows(policy, [row], role).tolist() for role in roles(policy)}
    return json.dumps(
        {"prompt": row.prompt_ids, "completion": row.completion_ids, "log_probs": log_probs, "machine": machine(policy)}
    )


def check_canary(policy: Policy, folder: Path) -> list[str]:
    """Score the checkpoint's rollout again; returns in what the machine is another one than when it was saved.

    The same machine must give the same bits (on a CPU; other devices do not promise that), another one the same numbers
    but for rounding. Raises UserError: they differ by more.
    """
    saved = json.loads((folder / CANARY).read_text(encoding="utf-8"))
    row = Row(tuple(saved["prompt"]), tuple(saved["completion"]))
    expected = {role: torch.tensor(saved["log_probs"][role]) for role in roles(policy)}
    gaps = [float((score_rows(policy, [row], role) - logps_N).abs().mean()) for role, logps_N in expected.items()]
    gap = largest(policy.accelerator, math.inf if any(map(math.isnan, gaps)) else max(gaps))
    now = machine(policy)
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
