"""Shows `Example:` in the docstrings of the site as the examples that they are."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """The parser of docstrings knows the section by its plural only."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
