"""Names that a configuration gives: misspelt ones, and `module:name` of a user's own code."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from sgsd.types import UserError


def nearest(word: str, known: Sequence[str]) -> str:
    """A hint for a misspelt word: the nearest known one, or all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"


def load_attribute(path: str, key: str) -> Any:
    """The object of `module:name`; the working folder is searched as well, after all else.

    Raises:
        UserError: it cannot be imported; the message begins with `key`.
    """
    module_name, _, attribute = path.partition(":")
    if (folder := os.getcwd()) not in sys.path:
        sys.path.append(folder)
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, SyntaxError, ValueError) as error:
        raise UserError(f"{key}: {path} cannot be imported ({error}); is its folder on PYTHONPATH?") from error
