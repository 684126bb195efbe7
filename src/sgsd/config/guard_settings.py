"""The settings of the guards: when each fires, and what happens then; docs/guards.md says what each means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sgsd.config.sections import Section

#: Guards that earlier versions called otherwise.
OLD_NAMES = {"sampler_gap": "sampler_mismatch"}


class GuardConfig(Section):
    """When a guard fires and what happens then; a key that is left out keeps the guard's own default."""

    bound: float = Field(gt=0, allow_inf_nan=False)
    """In the unit of the guard's figure."""
    window: int = Field(ge=2)
    """Steps it looks back; it is silent before there are as many."""
    action: Literal["off", "warn", "stop"] = "warn"
    """stop: save a checkpoint and end the run; --resume goes on."""

    @field_validator("action", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false


class GuardsConfig(Section):
    """The guards and their bounds; docs/guards.md says what each means."""

    entropy_collapse: GuardConfig = GuardConfig(bound=0.01, window=10)
    """Nats a token, below."""
    entropy_explosion: GuardConfig = GuardConfig(bound=2.0, window=10)
    """Times that of the first steps."""
    length: GuardConfig = GuardConfig(bound=2.0, window=10)
    """Factor by which rollouts became longer or shorter than in the first steps."""
    truncation: GuardConfig = GuardConfig(bound=0.5, window=10)
    """Share of rollouts that are cut off."""
    accuracy: GuardConfig = GuardConfig(bound=0.3, window=10)
    """Share of the best window's accuracy that is lost, beyond chance."""
    style: GuardConfig = GuardConfig(bound=0.3, window=10)
    """Style's share of the advantages less its share of the text."""
    support_auc: GuardConfig = GuardConfig(bound=0.45, window=20)
    """Upper end of the interval of the AUC of support against outcome, below."""
    chase: GuardConfig = GuardConfig(bound=1.5, window=10)
    """Growth of |Δ| within the window while all supports are negative."""
    teacher_equals_student: GuardConfig = GuardConfig(bound=5e-3, window=5)
    """Mean |Δ|, nats a token, below."""
    teacher_uniform: GuardConfig = GuardConfig(bound=0.9, window=5)
    """The teachers' NLL by that of a uniform guess."""
    polarity: GuardConfig = GuardConfig(bound=0.9, window=10)
    """Share of teachers reversed, or of neutral polarity."""
    sampler_mismatch: GuardConfig = GuardConfig(bound=0.015, window=5)
    """Mean |log-prob difference| between sampler and trainer, nats a token."""

    @model_validator(mode="before")
    @classmethod
    def _keep_the_rest(cls, value: Any) -> Any:
        """A guard of which one key is given keeps its defaults for the others; earlier names are read."""
        if not isinstance(value, Mapping):
            return value
        own = {name: field.default.model_dump() for name, field in cls.model_fields.items()}
        return {
            name: {**own[name], **given} if name in own and isinstance(given, Mapping) else given
            for name, given in ((OLD_NAMES.get(name, name), given) for name, given in value.items())
        }
