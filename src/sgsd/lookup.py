"""Names that a configuration gives: misspelt ones, and `module:name` of a user's own code."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from sgsd.types import UserError


@dataclass
class Caught(AbstractContextManager["Caught"]):
    """Keeps what a user's code raises, of whatever kind; Ctrl-C passes."""

    error: BaseException | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.error = error
        return not isinstance(error, KeyboardInterrupt)


def nearest(word: str, known: Sequence[str]) -> str:
    """A hint for a misspelt word: the nearest known one, or all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"


def load_attribute(path: str, key: str) -> Any:
    """The object of `module:name` or `file.py:name`; the working folder is searched as well, after all else.

    Raises:
        UserError: it cannot be imported; the message begins with `key`.
    """
    module_name, _, attribute = path.rpartition(":")
    if (folder := os.getcwd()) not in sys.path:
        sys.path.append(folder)
    caught, found = Caught(), None
    with caught:  # a module runs as it is imported: it may raise anything, and leave by sys.exit
        module = _of_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
        found = attrgetter(attribute)(module)
    if caught.error is None:
        return found
    if isinstance(caught.error, ImportError | AttributeError | OSError):
        raise UserError(
            f"{key}: {path} cannot be imported ({caught.error}); is its folder on PYTHONPATH?"
        ) from caught.error
    raise UserError(
        f"{key}: {path} cannot be imported, its code {did(caught.error)}; last lines: {last_lines(caught.error)}"
    ) from caught.error


def _of_file(path: Path) -> ModuleType:
    """The module of a file, loaded once; modules beside it can be imported by it. Raises ImportError."""
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"{path.stem}_{digest}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise ImportError(f"there is no file {path}")
        if (folder := str(path.resolve().parent)) not in sys.path:
            sys.path.append(folder)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # before its code runs: dataclasses look up their own module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def did(error: BaseException) -> str:
    """The act of a user's code, for messages: it raised, or it left."""
    return "called sys.exit" if isinstance(error, SystemExit) else f"raised {type(error).__name__} ({worded(error)})"


def last_lines(error: BaseException) -> str:
    """The places in a user's code that raised it, innermost last, on one line."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    return " | ".join(f"{f.filename}:{f.lineno} in {f.name}: {(f.line or '').strip()}" for f in frames[-3:])


def worded(value: object, words: Callable[[Any], str] = str, longest: int = 300) -> str:
    """A text of a user's object on one line; its type where the object cannot say."""
    caught, text = Caught(), f"<a {type(value).__name__} without words>"
    with caught:
        text = " ".join(words(value).split())
    return text[:longest]
