"""One line of rollouts.jsonl, for the trainer that writes it and the report that reads it."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import field_serializer, model_validator
from pydantic_core import PydanticCustomError

from sgsd.records.lenient import (
    IsTrue,
    Line,
    Mask,
    NumberOrNan,
    Numbers,
    Objects,
    Text,
    TextOrNone,
    Texts,
    Whole,
    WholeOrNone,
)


class TeacherRecord(Line):
    """One teacher's view of one rollout; a field that the method does not have is not written."""

    source: Text = ""
    """The kind of context."""
    items: Texts = ()
    """Ids of the bank's items in its prompt."""
    weight: NumberOrNan = math.nan
    skipped: IsTrue = False
    """Left out because its prompt did not fit; then nothing below is there."""
    delta: Numbers = ()
    """Δ_t, nats; one value a token."""
    gate: Numbers = ()
    """The gate's slope; one value a token."""
    support: NumberOrNan = math.nan
    """Nats a token."""
    stance: WholeOrNone = None
    """1, 0 or −1; None where the method judges no teacher."""
    polarity: WholeOrNone = None

    @model_validator(mode="before")
    @classmethod
    def _skipped_has_no_numbers(cls, fields: Any) -> Any:
        """Runs of 0.1 wrote zeros beside `skipped`."""
        if isinstance(fields, dict) and fields.get("skipped") is True:
            return {key: fields[key] for key in ("source", "items", "weight", "skipped") if key in fields}
        return fields


class RolloutRecord(Line):
    """One rollout with every token's numbers; a field that the method does not have is not written."""

    step: Whole
    index: Whole
    problem_id: Text = ""
    problem: Text = ""
    gold: TextOrNone = None
    completion: Text = ""
    tokens: Texts = ()
    status: Text = "unparsed"
    answer: TextOrNone = None
    outcome: Whole = 0
    reward: NumberOrNan = math.nan
    """Share of full marks, 0 to 1, where the verifier gives one."""
    mask: Mask = ()
    """1 for a token of the loss; a line without a mask counts every token."""
    advantages: Numbers = ()
    """One value a token."""
    teachers: Annotated[tuple[TeacherRecord, ...], Objects] = ()

    @field_serializer("mask")
    def _as_digits(self, mask: tuple[bool, ...]) -> list[int]:
        return [int(used) for used in mask]

    @field_serializer("advantages")
    def _null_where_there_are_none(self, advantages: tuple[float, ...]) -> list[float] | None:
        return list(advantages) or None

    @model_validator(mode="after")
    def _one_value_a_token(self) -> RolloutRecord:
        tokens = len(self.tokens)
        lists = {"mask": self.mask, "advantages": self.advantages}
        lists |= {f"teachers[{k}].{name}": getattr(t, name) for k, t in enumerate(self.teachers) for name in PER_TOKEN}
        for path, values in lists.items():
            if values and len(values) != tokens:
                *inside, name = path.split(".")
                raise PydanticCustomError(
                    "length",
                    "{inside}field '{name}' has {count} values for {tokens} tokens; delete the line or rewrite it",
                    {
                        "inside": f"{inside[0]}: " if inside else "",
                        "name": name,
                        "count": len(values),
                        "tokens": tokens,
                    },
                )
        return self


PER_TOKEN = ("delta", "gate")
