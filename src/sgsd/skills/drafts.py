"""Forms of a writer's answers: one pydantic model for the JSON schema of the request and for reading the reply."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from functools import cache
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

from sgsd.bank import with_content_id
from sgsd.types import BankItem, Mistake, Skill


def _strict(schema: dict[str, Any]) -> None:
    """Make a schema fit for strict decoding: all properties required, no defaults, whatever a reader forgives."""
    schema["required"] = list(schema["properties"])
    for entry in schema["properties"].values():
        entry.pop("default", None)
    schema.pop("description", None)  # a docstring is written for programmers, and is no part of what is asked


class Draft(BaseModel, ABC):
    """An item as a writer writes it, before it has an id.

    The schema holds only what strict decoding knows: that a text is not empty, and fits a bank, `to_item` finds out.
    """

    # Extra keys are dropped by the reader before this model sees them, and forbidden in the schema a server decodes by.
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True, frozen=True, json_schema_extra=_strict)

    @abstractmethod
    def to_item(self) -> BankItem:
        """The item, under the id that its words decide. Raises UserError where it could not stand in a bank."""


class SkillDraft(Draft):
    """A general skill."""

    title: str
    principle: str
    when_to_apply: str

    def to_item(self) -> Skill:
        return with_content_id(Skill("", self.title, self.principle, self.when_to_apply))


class MistakeDraft(Draft):
    """A common mistake."""

    description: str
    why_it_happens: str
    how_to_avoid: str

    def to_item(self) -> Mistake:
        return with_content_id(Mistake("", self.description, self.why_it_happens, self.how_to_avoid))


def _whole_numbers(value: Any) -> list[int]:
    """The numbers in whatever was given ("2", "1, 2", "item 3"): no item is lost for a source that is written oddly."""
    entries = value if isinstance(value, list) else [value]
    texts = [str(entry) for entry in entries if type(entry) in (str, int)]
    return [int(number) for text in texts for number in re.findall(r"(?<![\w.-])\d{1,6}(?!\w|\.\d)", text)]


Sources = Annotated[list[int], BeforeValidator(_whole_numbers)]


class MergedSkill(SkillDraft):
    """A skill that stands for several, and the numbers of those."""

    sources: Sources = []


class MergedMistake(MistakeDraft):
    """A mistake that stands for several, and the numbers of those."""

    sources: Sources = []


class Answer(BaseModel):
    """A whole reply: one list under one key. `draft` is what the list holds."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_strict)
    key: ClassVar[str]
    draft: ClassVar[type[Draft]]


class ExtractedSkills(Answer):
    """Asked for after a success."""

    key: ClassVar[str] = "general_skills"
    draft: ClassVar[type[Draft]] = SkillDraft
    general_skills: list[SkillDraft]


class ExtractedMistakes(Answer):
    """Asked for after a failure."""

    key: ClassVar[str] = "common_mistakes"
    draft: ClassVar[type[Draft]] = MistakeDraft
    common_mistakes: list[MistakeDraft]


class MergedSkills(Answer):
    """Asked for when skills are merged."""

    key: ClassVar[str] = "general_skills"
    draft: ClassVar[type[Draft]] = MergedSkill
    general_skills: list[MergedSkill]


class MergedMistakes(Answer):
    """Asked for when mistakes are merged."""

    key: ClassVar[str] = "common_mistakes"
    draft: ClassVar[type[Draft]] = MergedMistake
    common_mistakes: list[MergedMistake]


AnswerType = type[ExtractedSkills] | type[ExtractedMistakes] | type[MergedSkills] | type[MergedMistakes]


@cache
def schema_of(answer: AnswerType) -> dict[str, Any]:
    """The JSON schema that a server decodes by. It is shared: not to be changed."""
    return answer.model_json_schema()
