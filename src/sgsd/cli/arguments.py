"""Arguments of commands by what stands in their help, and how a function becomes a command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, PositionalRequiredArgs, arg

#: What has no default value is given by place, and a switch that is off stands alone: --private.
STYLE: tuple[Any, ...] = (PositionalRequiredArgs, FlagCreatePairsOff)

Run = Annotated[Path, arg(metavar="RUN")]
RunOrNone = Annotated[Path | None, arg(metavar="RUN")]
File = Annotated[Path, arg(metavar="FILE")]
FileOrNone = Annotated[Path | None, arg(metavar="FILE")]
Folder = Annotated[Path, arg(metavar="FOLDER")]
BankPath = Annotated[Path, arg(metavar="BANK")]
BankAt = Annotated[str, arg(metavar="BANK[@EVENT]")]
Store = Annotated[Path, arg(metavar="STORE")]
Item = Annotated[str, arg(metavar="ITEM")]
ItemOrNone = Annotated[str | None, arg(metavar="ITEM")]
EventNumber = Annotated[int, arg(metavar="EVENT")]
EventNumberOrNone = Annotated[int | None, arg(metavar="EVENT")]
Name = Annotated[str, arg(metavar="NAME")]
NameOrNone = Annotated[str | None, arg(metavar="NAME")]
Words = Annotated[str, arg(metavar="TEXT")]
WordsOrNone = Annotated[str | None, arg(metavar="TEXT")]
CountOrNone = Annotated[int | None, arg(metavar="N")]


def call(function: Callable[..., Any], prog: str, args: list[str]) -> Any:
    """Call a function with the arguments of a command line; its docstring is the help."""
    return tyro.cli(function, prog=prog, args=args, config=STYLE)
