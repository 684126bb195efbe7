"""Names that a configuration gives: misspelt ones, and `module:name` of a user's own code."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from sgsd.types import UserError


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
    try:
        module = _of_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
        return attrgetter(attribute)(module)
    except (ImportError, AttributeError, SyntaxError, ValueError, OSError) as error:
        raise UserError(f"{key}: {path} cannot be imported ({error}); is its folder on PYTHONPATH?") from error


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
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]
