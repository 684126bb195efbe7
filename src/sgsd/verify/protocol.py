"""The interface of a verifier, for the rest of the package and for users."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from sgsd.types import Verdict


@runtime_checkable
class Verifier(AbstractContextManager["Verifier"], Protocol):
    """Grades completions against references; a context manager, because it may own processes.

    Example:
        >>> from sgsd.verify import load_verifier
        >>> with load_verifier("math") as verifier:
        ...     verifier.grade([r"so \\boxed{4}"], ["4"])[0].status.value
        'correct'
    """

    def grade(self, completions: Sequence[Any], golds: Sequence[Any]) -> list[Verdict]:
        """Grade each completion against its gold.

        Args:
            completions: any Python values.
            golds: as many references, any Python values.

        Returns:
            One verdict a row, in order: a completion without an answer is incorrect, a gold that cannot be read is
            unparsed (outcome 0), and a grader that had to be stopped is a time-out (outcome 0).

        Raises:
            ValueError: the lengths differ.
        """
        ...


def check_lengths(completions: Sequence[Any], golds: Sequence[Any]) -> None:
    """Raise ValueError if two columns of a batch differ in length: a shifted column would be graded in silence."""
    if len(completions) != len(golds):
        raise ValueError(
            f"grade: {len(completions)} completions but {len(golds)} golds; pass one gold for each completion"
        )
