"""Verifiers by name: the bundled one, or a user's own function or class."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sgsd.types import Status, UserError, Verdict
from sgsd.verify.grader import MathVerifier
from sgsd.verify.protocol import Verifier, check_lengths

_FULL_MARKS = 0.99  # graded scorers give parts of a point for wrong answers; only full marks are correct


def load_verifier(spec: str, **options: Any) -> Verifier:
    r"""Load the verifier that a configuration names.

    Args:
        spec: "math" for the bundled verifier, or "package.module:name" for a user's own: a function
            `f(completion, gold, **options) -> bool | str | float | Verdict`, a class with a `grade` method, which is
            called with the options, or an object with one, which is taken as it is.
        options: options by name; `timeout` and `workers` for "math".

    Returns:
        A verifier, to be used as a context manager.

    Raises:
        UserError: the spec does not lead to one of these, or the options do not fit it.

    Example:
        >>> with load_verifier("operator:eq") as verifier:
        ...     [verdict.status.value for verdict in verifier.grade(["4", "5"], ["4", "4"])]
        ['correct', 'incorrect']
    """
    if spec == "math":
        return _constructed(MathVerifier, spec, options)
    found = _lookup(spec)
    if isinstance(found, type) and hasattr(found, "grade"):
        found, options = _constructed(found, spec, options), {}
    if hasattr(found, "grade"):
        if options:
            raise UserError(f"verifier {spec!r}: an object takes no options: drop {', '.join(sorted(options))}")
        return found if isinstance(found, Verifier) else _WithoutContext(found)
    if not callable(found):
        kind = type(found).__name__
        raise UserError(f"verifier {spec!r}: it is a {kind}, not a function: name a function f(completion, gold)")
    return FunctionVerifier(found, spec, options)


def _lookup(spec: str) -> Any:
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise UserError(f'verifier {spec!r}: not a known name: write "math" or "package.module:function"')
    try:
        found: Any = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise UserError(
            f"verifier {spec!r}: cannot import {module_name!r} ({error}): mend it, or put its folder on PYTHONPATH"
        ) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise UserError(f"verifier {spec!r}: {module_name!r} has no {attribute!r}: mend the name after the colon")
        found = getattr(found, name)
    return found


def _constructed(kind: Callable[..., Any], spec: str, options: dict[str, Any]) -> Any:
    try:
        return kind(**options)
    except TypeError as error:
        raise UserError(f"verifier {spec!r}: its options do not fit ({error}): mend the verifier's options") from error


class _OwnsNothing(AbstractContextManager[Any]):
    """A context manager with nothing to close."""

    def __exit__(self, *error: object) -> None:
        return None


class FunctionVerifier(_OwnsNothing):
    """A user's function as a verifier; whatever it raises is reported with its row, never swallowed.

    Args:
        function: takes a completion and a gold, and returns a bool, a score (0.99 and more is correct), a status by
            name or a Verdict.
        name: how messages call it.
        options: handed to the function by name.

    Example:
        >>> verifier = FunctionVerifier(lambda completion, gold: gold in completion, "mine")
        >>> verifier.grade(["it is 4"], ["4"])[0].outcome
        1
    """

    def __init__(self, function: Callable[..., Any], name: str, options: dict[str, Any] | None = None) -> None:
        self._function, self._name, self._options = function, name, options or {}

    def grade(self, completions: Sequence[Any], golds: Sequence[Any]) -> list[Verdict]:
        """Call the function once a row.

        Returns:
            One verdict a row, in order.

        Raises:
            ValueError: the lengths differ.
            UserError: the function raised, or returned something else; names the function and the row.
        """
        check_lengths(completions, golds)
        return [self._grade_row(row, *pair) for row, pair in enumerate(zip(completions, golds))]

    def _grade_row(self, row: int, completion: Any, gold: Any) -> Verdict:
        start = time.perf_counter()
        try:
            result = self._function(completion, gold, **self._options)
        except Exception as error:  # of any kind, because it is a user's code; nothing is swallowed
            raise UserError(
                f"verifier {self._name!r}: it raised {type(error).__name__} ({error}) on row {row}: mend the function"
            ) from error
        if isinstance(result, Verdict):
            return result
        status = _status_of(result)
        if status is None:
            raise UserError(
                f"verifier {self._name!r}: it returned {result!r} on row {row}: return a bool, a score from 0 to 1, "
                f"a Verdict or one of {', '.join(Status)}"
            )
        return Verdict(status, None, time.perf_counter() - start)


def _status_of(result: Any) -> Status | None:
    """The status that a user's return value stands for; None if it stands for none."""
    if isinstance(result, str):
        return Status(result) if result in set(Status) else None
    if hasattr(result, "item") and getattr(result, "ndim", None) == 0:  # a NumPy or torch scalar
        result = result.item()
    if not isinstance(result, bool | int | float) or math.isnan(result):
        return None
    return Status.CORRECT if result >= _FULL_MARKS else Status.INCORRECT


class _WithoutContext(_OwnsNothing):
    """An object that grades but owns nothing to close, as a context manager."""

    def __init__(self, grader: Any) -> None:
        self.grade = grader.grade
