"""`--key.part value`: what a command line changes in a config."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from sgsd.config.run_config import parse_yaml
from sgsd.train import RunConfig

SECTIONS = ("lora", "evaluation.data", "bank.embedding")  # may be absent; `none` takes them out
#: Keys that a parser made from the config's types cannot know: sections that may be absent, and the options of whatever
#: is named, a method for instance. Those of the bank are checked against one another, so that they must come together.
#: The values of all these are read as the config file would read them.
OPEN = tuple(f"{section}." for section in (*SECTIONS, "bank", "method", "verifier.options", "writer.options"))
NONE = ("none", "null", "None")
SHORT = {"--track": "--track.to"}  # as `track: wandb` is in a file


def taken_out(args: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The values, by key, that a parser by types cannot read, and the arguments that are left for it.

    Raises:
        UserError: a value is not readable as YAML.
    """
    words = deque(word for argument in args for word in _split(argument))
    values: dict[str, Any] = {}
    rest: list[str] = []
    while words:
        flag = words.popleft()
        flag = SHORT.get(flag, flag)
        key = flag.removeprefix("--").replace("-", "_")
        follows = words[0] if words and not words[0].startswith("--") else None
        if not flag.startswith("--"):
            rest.append(flag)
        elif key in SECTIONS and follows in NONE:
            values[key] = None
            words.popleft()
        elif key.startswith(OPEN):
            # Alone it is a switch; whoever owns the key refuses that where it is none.
            values[key] = True if follows is None else _value(words.popleft(), flag)
        elif follows is not None and _is_switch(key) and isinstance(said := _value(follows, flag), bool):
            values[key] = said
            words.popleft()
        else:
            rest.append(flag)
    return values, rest


def _value(word: str, flag: str) -> Any:
    return None if word == "None" else parse_yaml(word, flag)


def _split(argument: str) -> list[str]:
    """--key=value as two words."""
    return argument.split("=", 1) if argument.startswith("--") else [argument]


def _is_switch(key: str) -> bool:
    """Whether the key is true or false; such keys may also stand alone: --growth.quarantine."""
    value: Any = RunConfig().model_dump()
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return isinstance(value, bool)
