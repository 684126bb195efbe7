"""Keys of configurations that were renamed or shed: the one table behind old files, flags and run folders.

A renamed key keeps its section. An entry stays here until `UNTIL`; docs/configuration.md shows the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FORMAT = 2  # of config files; format 1 is a file without the key
SINCE, UNTIL = "0.1.0", "0.4.0"  # the version of the new names, and the one that no longer reads the old


@dataclass(frozen=True)
class Renamed:
    """A key, by its dotted name, that has another name now; `old` is spelt with the old name of its last part only."""

    old: str
    new: str
    reason: str
    since: str = SINCE
    until: str = UNTIL


@dataclass(frozen=True)
class Shed:
    """A key whose feature is gone; with the value `off` it asked for nothing and is passed over in silence."""

    key: str
    off: Any
    reason: str
    since: str = SINCE
    until: str = UNTIL


RENAMED = (
    Renamed("method.force", "method.coefficient", "it is the factor of a teacher's stance"),
    Renamed("growth", "skills", "the section about making skills"),
    Renamed("rollout.overlap", "rollout.prefetch", "it samples the next step's rollouts ahead"),
    Renamed("rollout.gap_alarm", "rollout.mismatch_warning", "the gap is the sampler's mismatch with the trainer"),
    Renamed("rollout.context", "rollout.max_model_len", "vLLM's name; a context is what a teacher is shown"),
    Renamed("rollout.memory", "rollout.gpu_memory_utilization", "vLLM's name"),
    Renamed("rollout.key_variable", "rollout.api_key_env", "it names an environment variable"),
    Renamed("writer.key_variable", "writer.api_key_env", "it names an environment variable"),
    Renamed("writer.context", "writer.max_model_len", "vLLM's name; a context is what a teacher is shown"),
    Renamed("guards.sampler_gap", "guards.sampler_mismatch", "the name of the metric that it watches"),
    Renamed("lora.targets", "lora.target_modules", "PEFT's name"),
    Renamed("optimizer.grad_clip", "optimizer.max_grad_norm", "the name in transformers and TRL"),
)

SHED = (
    Shed(
        "skills.quarantine",
        False,
        "pruning by evidence alone keeps the same items; set skills.prune: evidence",
    ),
)
