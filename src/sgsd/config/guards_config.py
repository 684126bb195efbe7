"""The section of a configuration about guards: when each fires, and what happens then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sgsd.config.base import Section


class GuardConfig(Section):
    """The bound of one guard and what happens beyond it; a key that is left out keeps that guard's own value."""

    bound: float = Field(gt=0, allow_inf_nan=False)
    """Value at which the guard fires, in the unit of the figure it looks at."""
    window: int = Field(ge=2)
    """Steps it looks back on; it is silent until there are as many."""
    action: Literal["off", "warn", "stop"] = "warn"
    """stop saves a checkpoint and ends the run, which can go on with --resume."""

    @field_validator("action", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false


class GuardsConfig(Section):
    """Bounds on the figures of training; docs/guards.md explains each. All take bound, window and action."""

    entropy_collapse: GuardConfig = GuardConfig(bound=0.01, window=10)
    """Least mean entropy, nats a token."""
    entropy_explosion: GuardConfig = GuardConfig(bound=2.0, window=10)
    """Largest mean entropy, as a multiple of that of the first steps."""
    length: GuardConfig = GuardConfig(bound=2.0, window=10)
    """Largest factor by which rollouts became longer or shorter than in the first steps."""
    truncation: GuardConfig = GuardConfig(bound=0.5, window=10)
    """Largest share of rollouts that are truncated."""
    accuracy: GuardConfig = GuardConfig(bound=0.3, window=10)
    """Largest share of the best window's accuracy that may be lost, beyond chance."""
    nothing_right: GuardConfig = GuardConfig(bound=1e-3, window=8)
    """Least share of graded rollouts that are right."""
    nothing_wrong: GuardConfig = GuardConfig(bound=1e-3, window=8)
    """Least share of graded rollouts that are wrong."""
    nothing_known: GuardConfig = GuardConfig(bound=0.9, window=5)
    """Largest share of rollouts that the verifier cannot grade."""
    no_spread: GuardConfig = GuardConfig(bound=0.99, window=8)
    """Largest share of groups whose rollouts all have the same reward, for methods that compare them."""
    style: GuardConfig = GuardConfig(bound=0.3, window=10)
    """Largest excess of style's share of the advantages over its share of the text."""
    support_auc: GuardConfig = GuardConfig(bound=0.45, window=20)
    """Least upper end of the confidence interval of the AUC of support against outcome."""
    chase: GuardConfig = GuardConfig(bound=1.5, window=10)
    """Largest growth of |Δ| within the window while all supports are negative, as a factor."""
    teacher_equals_student: GuardConfig = GuardConfig(bound=5e-3, window=5)
    """Least mean |Δ|, nats a token."""
    teacher_uniform: GuardConfig = GuardConfig(bound=0.9, window=5)
    """Largest mean NLL of the teachers, as a share of a uniform guess's."""
    polarity: GuardConfig = GuardConfig(bound=0.9, window=10)
    """Largest share of reversed teachers, or of neutral ones."""
    sampler_mismatch: GuardConfig = GuardConfig(bound=0.015, window=5)
    """Largest mean |log-prob difference| between sampler and trainer, nats a token."""

    @model_validator(mode="before")
    @classmethod
    def _keep_the_rest(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        own = {name: field.default.model_dump() for name, field in cls.model_fields.items()}
        return {
            name: {**own[name], **given} if name in own and isinstance(given, Mapping) else given
            for name, given in value.items()
        }
