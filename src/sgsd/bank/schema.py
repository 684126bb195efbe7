"""The published JSON layout of a bank and its rules: strict in what it takes, lossless in what it gives back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from sgsd.bank.text import NotJson, check_id, check_meta, check_metadata, check_prose, json_type, quoted
from sgsd.types import BankItem, Mistake, Skill, UserError

MAX_ITEMS = 100_000
MAX_HEADLINE_CHARS = 500
MAX_BODY_CHARS = 4_000


def _check_tasks(value: Any) -> dict[str, Any]:
    if value != {}:
        raise ValueError("must be {}: skills of one task are not supported; move them to general_skills")
    return {}


Identifier = Annotated[str, AfterValidator(check_id)]
Headline = Annotated[str, AfterValidator(partial(check_prose, limit=MAX_HEADLINE_CHARS))]
Body = Annotated[str, AfterValidator(partial(check_prose, limit=MAX_BODY_CHARS))]
Meta = Annotated[dict[str, Any], PlainValidator(check_meta)]


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class SkillRecord(_Record):
    """A general skill as the file writes it."""

    skill_id: Identifier
    title: Headline
    principle: Body
    when_to_apply: Body
    meta: Meta = Field(default_factory=dict)


class MistakeRecord(_Record):
    """A common mistake as the file writes it."""

    mistake_id: Identifier
    description: Headline
    why_it_happens: Body
    how_to_avoid: Body
    meta: Meta = Field(default_factory=dict)


class BankRecord(_Record):
    """A whole bank file. The two lists are required, the two objects may be left out when empty."""

    general_skills: list[SkillRecord]
    task_specific_skills: Annotated[dict[str, Any], PlainValidator(_check_tasks)] = Field(default_factory=dict)
    common_mistakes: list[MistakeRecord]
    metadata: Annotated[dict[str, Any], PlainValidator(check_metadata)] = Field(default_factory=dict)


_FIELDS = {kind: tuple(f.name for f in fields(kind) if f.name not in ("id", "meta")) for kind in (Skill, Mistake)}


def item_fields(item: BankItem) -> dict[str, str]:
    """Return all that an item says, by field, in the order of the published layout."""
    return {name: getattr(item, name) for name in _FIELDS[type(item)]}


def item_texts(item: BankItem) -> tuple[str, ...]:
    """Return all that an item says, without the fields' names."""
    return tuple(item_fields(item).values())


def item_record(item: BankItem) -> dict[str, Any]:
    """Return the item as the published JSON writes it; `meta` appears only where there is some."""
    record: dict[str, Any] = {"skill_id" if isinstance(item, Skill) else "mistake_id": item.id, **item_fields(item)}
    return record | ({"meta": dict(item.meta)} if item.meta else {})


def check_item(item: BankItem) -> None:
    """Raise `UserError` unless the item could stand in a bank, however it was made."""
    model = SkillRecord if isinstance(item, Skill) else MistakeRecord
    _checked(model, item_record(item), f"item {quoted(str(item.id))}")


def canonical_json(value: Any) -> str:
    """The one text that stands for a JSON value: sorted keys, no spaces, no escapes that UTF-8 can do without."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_of(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def content_hash(item: BankItem) -> str:
    """SHA-256 of the item's canonical JSON: its id, its fields and its meta."""
    return hash_of(canonical_json(item_record(item)))


def version_of(skill_hashes: Sequence[str], mistake_hashes: Sequence[str]) -> str:
    """A bank's version from the hashes of its items, in order: what `Bank.version` is, without the bank."""
    return hash_of(canonical_json({"general_skills": list(skill_hashes), "common_mistakes": list(mistake_hashes)}))


RecordT = TypeVar("RecordT", bound=_Record)


def _checked(model: type[RecordT], record: Any, source: str) -> RecordT:
    try:
        return model.model_validate(record)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        more = f" (the first of {len(problems):,} problems)" if len(problems) > 1 else ""
        first = problems[0]
        raise UserError(f"{source}: {_place(first['loc'], record)}{_reason(first)}{more}") from None


def checked_bank(record: Any, source: str) -> BankRecord:
    """Check a bank's record: the rules of one item are the models', those that need the whole bank are here."""
    bank = _checked(BankRecord, record, source)
    if (count := len(bank.general_skills) + len(bank.common_mistakes)) > MAX_ITEMS:
        raise UserError(f"{source}: has {count:,} items, at most {MAX_ITEMS:,} are allowed; split the bank")
    first_seen: dict[str, str] = {}
    places = [("general_skills", i, "skill_id", skill.skill_id) for i, skill in enumerate(bank.general_skills)]
    places += [("common_mistakes", i, "mistake_id", m.mistake_id) for i, m in enumerate(bank.common_mistakes)]
    for section, position, name, item_id in places:
        if item_id in first_seen:
            where = _place((section, position, name), record)
            raise UserError(f"{source}: {where}repeats the id of {first_seen[item_id]}; give each item its own")
        first_seen[item_id] = f"{section}[{position}]"
    return bank


def _place(loc: tuple[int | str, ...], record: Any) -> str:
    """The place in the file: position, id if it can be read, and field."""
    match loc:
        case (str(section), int(position), *rest):
            name = _readable_id(record[section][position])
            item = f"{section}[{position}]" + (f" ({name})" if name else "")
            return f"{item}, field {quoted(str(rest[0]))} " if rest else f"{item} "
        case (name, *_):
            return f"field {quoted(str(name))} "
    return ""


def _readable_id(item: Any) -> str:
    if not isinstance(item, dict):
        return ""
    name = item.get("skill_id", item.get("mistake_id"))
    return quoted(name) if isinstance(name, str) and name.strip() else ""


def _reason(problem: Any) -> str:
    """Pydantic's finding as the end of the sentence "field …"."""
    given = problem["input"]
    match problem["type"]:
        case "missing":
            return "is missing; add it"
        case "extra_forbidden":
            return "is not part of the format; remove it, or keep it in the item's `meta`"
        case "value_error":
            return str(problem["ctx"]["error"])
        case _ if isinstance(given, NotJson):
            return given.reason
        case "string_type":
            return f"must be a string, not {json_type(given)}"
        case "list_type":
            return f"must be a list of items, not {json_type(given)}"
        case "model_type":
            return f"must be an object, not {json_type(given)}"
    return f"is refused: {problem['msg']}"
