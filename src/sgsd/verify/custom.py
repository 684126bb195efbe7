"""Verifiers by name: the bundled one, or a user's own function or class."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from sgsd.types import Status, UserError, Verdict
from sgsd.verify.grader import MathVerifier
from sgsd.verify.protocol import Verifier, check_lengths

_FULL_MARKS = 0.99  # graded scorers give parts of a point for wrong answers; only full marks are correct


def load_verifier(spec: str, **options: Any) -> Verifier:
    """The verifier a configuration names: "math", or "package.module:name" for a user's own.

    A name may be a function `f(completion, gold, **options) -> bool | str | float | Verdict`, a class with a `grade`
    method, which is called with the options, or an object with one, which is taken as it is. Raises UserError where
    the spec does not lead to one of these.
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


class FunctionVerifier:
    """A user's function as a verifier; whatever it raises is reported with its row, never swallowed."""

    def __init__(self, function: Callable[..., Any], name: str, options: dict[str, Any] | None = None) -> None:
        self._function, self._name, self._options = function, name, options or {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def grade(self, completions: Sequence[Any], golds: Sequence[Any]) -> list[Verdict]:
        """Call the function once a row; UserError names the function and the row that failed."""
        check_lengths(completions, golds)
        return [self._grade_row(row, *pair) for row, pair in enumerate(zip(completions, golds))]

    def _grade_row(self, row: int, completion: Any, gold: Any) -> Verdict:
        start = time.perf_counter()
        try:
            result = self._function(completion, gold, **self._options)
        except Exception as error:
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
    """What a user's return value means; None where it means nothing."""
    if isinstance(result, str):
        return Status(result) if result in set(Status) else None
    if hasattr(result, "item") and getattr(result, "ndim", None) == 0:  # a NumPy or torch scalar
        result = result.item()
    if not isinstance(result, bool | int | float) or math.isnan(result):
        return None
    return Status.CORRECT if result >= _FULL_MARKS else Status.INCORRECT


class _WithoutContext:
    """An object that grades but owns nothing to close, as a context manager."""

    def __init__(self, grader: Any) -> None:
        self.grade = grader.grade

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
