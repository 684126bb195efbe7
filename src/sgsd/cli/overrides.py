"""`--key.part value`: the changes that a command line makes to a config, read by the types of its keys."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from sgsd.config.loading import load_config, make_config, read_mapping
from sgsd.config.migrate import current_key
from sgsd.config.run_config import RunConfig
from sgsd.config.schema import keys, parts
from sgsd.config.yaml_text import dump_yaml, parse_yaml
from sgsd.types import UserError

NONE = ("none", "null", "None")
SHORT = {"track": "track.to"}  # as `track: wandb` is in a file


def read_config(path: Path, args: Sequence[str], prog: str) -> RunConfig:
    """The config file with the flags of a command line laid over it; with --help, show the keys and leave.

    Raises UserError: see `load_config` and `read_flags`.
    """
    if {"--help", "-h"} & set(args):
        show_keys(make_config(read_mapping(path), str(path)), prog)
        raise SystemExit(0)
    return load_config(path, read_flags(args))


def read_flags(args: Sequence[str]) -> dict[str, Any]:
    """Values by dotted key.

    A switch may stand alone (`--data.strip-instruction`, or `--data.no-strip-instruction`), a list takes several words,
    and `none` takes out a section or a value that may be absent. All else is read as a config file would read it.

    Raises:
        UserError: a word that belongs to no flag, a flag without a value, or a value that is not readable as YAML.

    >>> read_flags(["--optimizer.lr", "1e-5", "--lora", "none", "--optimizer.betas", "0.9", "0.95"])
    {'optimizer.lr': 1e-05, 'lora': None, 'optimizer.betas': [0.9, 0.95]}
    """
    words = deque(word for argument in args for word in _split(argument))
    values: dict[str, Any] = {}
    while words:
        flag = words.popleft()
        if not flag.startswith("--"):
            raise UserError(f"{flag}: belongs to no flag; keys of the config are given as --key.part value")
        key = flag.removeprefix("--").replace("-", "_")
        key = SHORT.get(key, key)
        if (positive := _denied(key)) is not None:
            values[positive] = False
            continue
        given = _value_words(words, key)
        values[key] = _value(given, key, flag)
    return values


def _split(argument: str) -> list[str]:
    """--key=value as two words."""
    return argument.split("=", 1) if argument.startswith("--") else [argument]


def _denied(key: str) -> str | None:
    """The switch that `section.no_key` turns off."""
    section, _, last = key.rpartition(".")
    positive = f"{section}.{last.removeprefix('no_')}"
    return positive if last.startswith("no_") and _kinds(positive) == ("boolean",) else None


def _value_words(words: deque[str], key: str) -> list[str]:
    """The words that belong to the flag, taken off."""
    found: list[str] = []
    several = "array" in _kinds(key)
    while words and not words[0].startswith("--") and (several or not found):
        found.append(words.popleft())
    return found


def _value(given: Sequence[str], key: str, flag: str) -> Any:
    kinds = _kinds(key)
    if not given:
        if kinds in ((), ("boolean",)):
            return True  # where it is no switch after all, its owner refuses it
        raise UserError(f"{flag}: say what, for instance {flag} {_example(key)}")
    if given[0] in NONE and ("null" in kinds or _is_optional_section(key)):
        return None
    if "array" in kinds and not given[0].startswith("["):
        return given[0] if len(given) == 1 and "string" in kinds else [_read(word, flag) for word in given]
    if kinds[:1] == ("string",) and not keys()[current_key(key)].choices and not given[0].startswith("["):
        return given[0]
    return _read(given[0], flag)


def _read(word: str, flag: str) -> Any:
    return None if word == "None" else parse_yaml(word, flag)


def _kinds(key: str) -> tuple[str, ...]:
    """The JSON types that a key may have; none for a key that the schema does not know, such as a method's option."""
    known = keys().get(current_key(key))
    return () if known is None else known.kinds


def _is_optional_section(key: str) -> bool:
    part = parts().get(current_key(key))
    return part is not None and part.optional


def _example(key: str) -> str:
    known = keys()[current_key(key)]
    return str(known.choices[0] if known.choices else known.default if known.default is not None else "VALUE")


def show_keys(config: RunConfig, prog: str) -> None:
    """Print every key with its value in this config, its type and its meaning."""
    console, values = Console(highlight=False, soft_wrap=True), config.model_dump(mode="json")
    console.print(Text(f"{prog} [--key.part value …]\n\nKeys, each with its value in this file:"))
    for part in parts().values():
        if part.name.startswith("guards."):
            continue
        console.print(Text(f"\n{part.name or 'at the top'}: {part.meaning}", style="bold"))
        for key in part.keys:
            shown = dump_yaml(_look_up(values, key.name)).removesuffix("...\n").strip().replace("\n", " ")
            console.print(Text(f"  --{key.name} {shown}  ({key.type}) {key.meaning}"))
    console.print(Text("\nguards.NAME: bound, window, action; docs/guards.md. method.OPTION: docs/configuration.md."))


def _look_up(values: Mapping[str, Any], dotted: str) -> Any:
    here: Any = values
    for part in dotted.split("."):
        here = here.get(part) if isinstance(here, Mapping) else None
    return here
