"""The keys of a configuration as data: for the documentation, the help of the command line, and reading flags."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from sgsd.config.run_config import RunConfig

WORDS = {
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "object": "mapping",
    "null": "null",
}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


@dataclass(frozen=True)
class Key:
    """One key of the configuration."""

    name: str  # dotted
    kinds: tuple[str, ...]  # of JSON schema: boolean, integer, number, string, array, object, null
    type: str  # in words
    default: Any
    required: bool
    meaning: str
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Part:
    """A section with its keys; the one without a name holds the keys at the top."""

    name: str
    meaning: str
    optional: bool  # null takes it out
    keys: tuple[Key, ...]


@cache
def parts() -> Mapping[str, Part]:
    """All sections by their dotted names, in the order of a config file."""
    return {part.name: part for part in _parts("", RunConfig.model_json_schema(), optional=False)}


@cache
def keys() -> Mapping[str, Key]:
    """All keys by their dotted names."""
    return {key.name: key for part in parts().values() for key in part.keys}


def _parts(name: str, schema: Mapping[str, Any], *, optional: bool) -> Iterator[Part]:
    found, inner = [], []
    prefix = f"{name}." if name else ""
    for key, about in schema["properties"].items():
        section = next((one["$ref"] for one in _options(about) if "$ref" in one), None)
        if section is None:
            found.append(_key(f"{prefix}{key}", about, required=key in schema.get("required", ())))
        else:
            inner.append((f"{prefix}{key}", _defs()[section.rpartition("/")[2]], about))
    yield Part(name, " ".join(schema.get("description", "").split()), optional, tuple(found))
    for dotted, section_schema, about in inner:
        nullable = any(one.get("type") == "null" for one in _options(about))
        description = about.get("description") or section_schema.get("description", "")
        yield from _parts(dotted, {**section_schema, "description": description}, optional=nullable)


@cache
def _defs() -> Mapping[str, Any]:
    found: Mapping[str, Any] = RunConfig.model_json_schema()["$defs"]
    return found


def _options(about: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(about.get("anyOf", [about]))


def _key(name: str, about: Mapping[str, Any], *, required: bool) -> Key:
    kinds = tuple(option.get("type", "string") for option in _options(about))
    choices = tuple(choice for option in _options(about) for choice in _choices(option))
    meaning = " ".join(about.get("description", "").split())
    return Key(name, kinds, type_words(about), about.get("default"), required, meaning, choices)


def _choices(about: Mapping[str, Any]) -> list[Any]:
    return list(about.get("enum", [about["const"]] if "const" in about else []))


def type_words(about: Mapping[str, Any]) -> str:
    """A JSON schema type in words.

    >>> type_words({"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}]})
    'whole number above 0 or null'
    """
    if "anyOf" in about:
        return " or ".join(type_words(option) for option in about["anyOf"])
    if choices := _choices(about):
        return ", ".join(json.dumps(choice) for choice in choices)
    if about["type"] == "array":
        return f"list of {_plural(about['items'])}" if "items" in about else f"{about['minItems']} numbers"
    bounds = " and ".join(f"{word} {about[key]:g}" for key, word in BOUNDS.items() if key in about)
    return f"{WORDS[about['type']]} {bounds}".strip()


def _plural(items: Mapping[str, Any]) -> str:
    return type_words(items) if _choices(items) else f"{type_words(items)}s"
