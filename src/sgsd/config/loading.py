"""Reading a configuration: from a file, from a mapping, from a run folder. An unknown key names the nearest one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
from pydantic import BaseModel, ConfigDict

from sgsd.config.conflicts import check_together
from sgsd.config.migrate import current_key, migrate
from sgsd.config.other_words import OTHER_WORDS
from sgsd.config.renamed import UNTIL
from sgsd.config.run_config import RunConfig
from sgsd.config.schema import keys
from sgsd.config.yaml_text import parse_yaml
from sgsd.lookup import nearest
from sgsd.methods.registry import defaults, idle_options, parameters, recipe
from sgsd.notices import warn
from sgsd.types import UserError

#: Pydantic's complaints about a call's arguments that are not about the value of one.
NOT_ITS_TYPE = ("unexpected_keyword_argument", "missing_argument")


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a config file, with overrides laid over it.

    Args:
        path: a YAML file; docs/configuration.md lists its keys.
        overrides: values by dotted key, for instance {"optimizer.lr": 1e-5}.

    Returns:
        The configuration, with every default filled in.

    Raises:
        UserError: no such file, an unknown key, a wrong type, or choices that do not go together.
    """
    return make_config(lay_over(read_mapping(Path(path)), overrides or {}, str(path)), str(path))


def make_config(raw: Mapping[str, Any], where: str = "config") -> RunConfig:
    """Check a mapping and fill in what it leaves open, the method's own options included.

    Args:
        raw: keys and values as in a config file.
        where: what errors call it.

    Returns:
        The configuration.

    Raises:
        UserError: an unknown key, a wrong type, or choices that do not go together.

    >>> make_config({"method": {"name": "grpo", "group": 4}, "lora": {"rank": 8}}).method["epsilon"]
    0.2
    """
    config = parse_config(_noted(raw, where), where)
    check_together(config, where)
    if idle := idle_options(config.method):
        said = "belongs to the context" if len(idle) == 1 else "belong to the context"
        warn(f"method: {', '.join(idle)} {said} that method.context takes the place of, and does nothing; leave it out")
    return config


def read_mapping(path: Path) -> dict[str, Any]:
    """A config file as a mapping, unchecked. Raises UserError where there is none."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such config file")
    raw = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a config is a mapping of keys to values")
    return raw


def read_saved(path: Path) -> dict[str, Any]:
    """The config.yaml of a run folder with the keys of today, whatever version wrote it. Raises UserError."""
    return _noted(read_mapping(path), str(path), saved=True)


def lay_over(raw: Mapping[str, Any], overrides: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The mapping with values changed by dotted keys; old names of keys meet new ones.

    Raises:
        UserError: a key is part of a single value.
    """
    if not overrides:
        return dict(raw)
    found = _noted(_spelt_out(raw), where)
    if "method.name" in overrides:
        found["method"] = _options_of(overrides["method.name"], found.get("method") or {})
    for dotted, value in overrides.items():
        key = current_key(dotted, (found.get("method") or {}).get("name"))
        if key != dotted:
            warn(f"--{dotted}: an old name, read until sgsd {UNTIL}; the key is {key} now")
        *parents, last = key.split(".")
        here = found
        for parent in parents:
            inner = here.get(parent)
            if inner is not None and not isinstance(inner, Mapping):
                raise UserError(f"--{dotted}: {parent} is a single value and has no parts")
            here[parent] = dict(inner or {})  # absent, or left out by name: `lora: null`
            here = here[parent]
        here[last] = value
    return found


def _options_of(name: Any, method: Mapping[str, Any]) -> dict[str, Any]:
    """A file's options for its method, without those that the method of that name does not have; says which."""
    if name == method.get("name") or not isinstance(name, str):
        return dict(method)
    known = {"name", "context", *parameters(name)}
    if dropped := [key for key in method if key not in known]:
        warn(f"--method.name {name}: it has no {', '.join(dropped)}; left out, as they stand in the file for another")
    return {key: value for key, value in method.items() if key in known}


def _noted(raw: Mapping[str, Any], where: str, *, saved: bool = False) -> dict[str, Any]:
    current, notes = migrate(raw, where, saved=saved)
    for note in notes:
        warn(note)
    return current


def parse_config(raw: Mapping[str, Any], where: str) -> RunConfig:
    """Check keys and types only. Raises UserError."""
    try:
        config = RunConfig.model_validate(_spelt_out(raw))
    except pydantic.ValidationError as error:
        raise UserError(f"{where}: {_first_problem(error)}") from error
    if not isinstance(config.method.get("name"), str):
        raise UserError(f"{where}: method.name: say which method, for instance sgsd")
    method = {"name": config.method["name"], **defaults(config.method["name"]), **config.method}
    config = config.model_copy(update={"method": method})
    _check_option_types(method, where)
    return config


def _check_option_types(method: Mapping[str, Any], where: str) -> None:
    options = {key: value for key, value in method.items() if key not in ("name", "context")}
    make = pydantic.validate_call(config=ConfigDict(strict=True))(recipe(method["name"]))
    try:
        make(**options)
    except pydantic.ValidationError as error:
        # An option that does not exist, or is not there, gets its own message from `build`, which knows them all.
        if all(problem["type"] not in NOT_ITS_TYPE for problem in error.errors()):
            raise UserError(f"{where}: method.{_first_problem(error)}") from error
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _spelt_out(raw: Mapping[str, Any]) -> dict[str, Any]:
    """YAML has no tuples, which strict types ask for in betas; and a tracker may be named in one word."""
    found, optimizer = dict(raw), raw.get("optimizer")
    if isinstance(optimizer, Mapping) and isinstance(optimizer.get("betas"), list):
        found["optimizer"] = {**optimizer, "betas": tuple(optimizer["betas"])}
    if isinstance(found.get("track"), str):
        found["track"] = {"to": found["track"]}
    return found


def _first_problem(error: pydantic.ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    place = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        return f"{'.'.join(place)}: there is no such key; {_hint(place)}"
    given = problem.get("input")
    shown = f", not {given!r}" if not isinstance(given, (dict, BaseModel)) else ""
    return f"{'.'.join(place)}: {problem['msg'][0].lower()}{problem['msg'][1:]}{shown}"


def _hint(place: Sequence[str]) -> str:
    """The key that was meant: by another library's word for it, of another section, or the nearest beside it."""
    elsewhere = [key for key in keys() if key.rpartition(".")[2] == place[-1] and not key.startswith("guards.")]
    if found := OTHER_WORDS.get(place[-1]) or " or ".join(elsewhere):
        return f"here it is {found}"
    return nearest(place[-1], _keys_beside(place))


def _keys_beside(place: Sequence[str]) -> list[str]:
    model: Any = RunConfig
    for part in place[:-1]:
        annotation = model.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
    return list(model.model_fields)
