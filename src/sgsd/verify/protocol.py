"""What the rest of the house may ask of a verifier."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from sgsd.types import Verdict


@runtime_checkable
class Verifier(Protocol):
    """Grades completions against references; a context manager, because it may own processes.

    `grade` answers in order, one verdict a row, and accepts any Python value as completion or gold:
    a completion without an answer is incorrect, a gold that cannot be read is unparsed (outcome 0), and a
    grader that had to be stopped is a time-out (outcome 0). It raises ValueError for unequal lengths.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def grade(self, completions: Sequence[Any], golds: Sequence[Any]) -> list[Verdict]: ...


def check_lengths(completions: Sequence[Any], golds: Sequence[Any]) -> None:
    """Refuse a batch whose two columns differ in length: grading a shifted column would be silent nonsense."""
    if len(completions) != len(golds):
        raise ValueError(
            f"grade: {len(completions)} completions but {len(golds)} golds; pass one gold for each completion"
        )
