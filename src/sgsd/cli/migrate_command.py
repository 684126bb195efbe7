"""`sgsd migrate`: a config file of an older version, rewritten with today's keys."""

from __future__ import annotations

from rich.console import Console

from sgsd.cli.options import config_first, take_switch
from sgsd.config.loading import read_mapping
from sgsd.config.migrate import migrate as migrate_mapping
from sgsd.config.migrate import migrate_text
from sgsd.files import write_atomic
from sgsd.types import UserError

USAGE = """sgsd migrate CONFIG [--write]

Print a config file with today's names of keys and its format; comments and layout stay. docs/configuration.md lists
what was renamed. --write changes the file itself."""


def migrate(args: list[str], console: Console) -> None:
    """Print or rewrite a config file."""
    path, rest = config_first(args, "migrate", USAGE, console)
    write = take_switch(rest, "--write")
    if rest:
        raise UserError(f"{rest[0]}: sgsd migrate takes a config file and --write, nothing else")
    _, notes = migrate_mapping(read_mapping(path), str(path))
    before = path.read_text(encoding="utf-8")
    after = migrate_text(before, str(path))
    if not write:
        console.print(after, end="", markup=False, soft_wrap=True)
        return
    if after == before:
        console.print(f"{path}: is as it should be; nothing was written", markup=False, soft_wrap=True)
        return
    write_atomic(path, after)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    console.print(f"{path}: rewritten", markup=False, soft_wrap=True)
