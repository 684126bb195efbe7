"""The base class of every part of a configuration."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the configuration: no unknown keys, no silent conversions, no changes after reading.

    The docstring below a field is the key's meaning in docs/configuration.md and in `sgsd train CONFIG --help`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Keys of this section that do not go together, each with the reason and the way out."""
        yield from ()
