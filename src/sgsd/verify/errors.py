"""The two ways in which exact reading gives up."""

from __future__ import annotations


class Undecided(Exception):
    """The value is outside what exact arithmetic settles here: computer algebra may know."""


class Unreadable(Exception):
    """The text is not one well-formed value: 3 34, 1/0, a stray bracket."""
