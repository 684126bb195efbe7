"""Options of a command line besides keys of the config: `sgsd plan CONFIG --steps 8 --optimizer.lr 1e-5`.

The config file comes first. A command's own options are taken out of the words behind it; the rest belongs to the
config.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sgsd.types import UserError


def config_first(args: Sequence[str], command: str, usage: str, console: Console) -> tuple[Path, list[str]]:
    """The config file and the words behind it; leaves where the usage was asked for, and shown.

    Raises UserError: an option comes before the file.
    """
    if not args or args[0] in ("-h", "--help"):
        console.print(usage, markup=False)
        raise SystemExit(0)
    if args[0].startswith("-"):
        raise UserError(f"the config file comes before {args[0]}: sgsd {command} CONFIG {args[0]} …")
    return Path(args[0]), list(args[1:])


def take_switch(rest: list[str], flag: str) -> bool:
    """Whether the flag is there; it is taken out of `rest`."""
    found = flag in rest
    while flag in rest:
        rest.remove(flag)
    return found


def take_word(rest: list[str], flag: str, example: str | int) -> str | None:
    """The word of `--flag word` or `--flag=word`, taken out of `rest`; none where the flag is not there.

    Raises UserError: it is there twice, or says nothing.
    """
    places = [place for place, word in enumerate(rest) if word == flag or word.startswith(f"{flag}=")]
    if not places:
        return None
    if len(places) > 1:
        raise UserError(f"{flag}: it is there twice; leave one out")
    start = places[0]
    _, joined, word = rest[start].partition("=")
    end = start + (1 if joined else 2)
    if not joined:
        word = next((word for word in rest[start + 1 : end] if not word.startswith("--")), "")
    if not word:
        raise UserError(f"{flag}: say what, for instance {flag} {example}")
    del rest[start:end]
    return word


def as_whole(flag: str, word: str) -> int:
    """Raises UserError unless the word is a whole number from 1 on."""
    if not word.isdecimal() or int(word) < 1:
        raise UserError(f"{flag}: {word!r} is not a whole number from 1 on")
    return int(word)
