"""Verifiers by name: the bundled one, or a user's own function or class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sgsd.lookup import load_attribute
from sgsd.types import UserError
from sgsd.verify.contract import Contract, FunctionVerifier
from sgsd.verify.grader import MathVerifier
from sgsd.verify.protocol import Verifier


def load_verifier(spec: str, *, contract: Contract | None = None, **options: Any) -> Verifier:
    r"""Load the verifier that a configuration names.

    Args:
        spec: "math" for the bundled verifier, or `module:name` or `file.py:name` for a user's own: a function of one
            completion, `f(completion, answer, **columns)`, or of several, `f(completions, **columns)`; a class with a
            method `grade(completions, answers)`, which is called with the options, or an object with one.
        contract: how one of a user's own is asked, and what its answers mean; None for the defaults.
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
    if not all(spec.partition(":")):
        raise UserError(f'verifier {spec!r}: not a known name: write "math", "module:function" or "file.py:function"')
    found = load_attribute(spec, f"verifier {spec!r}")
    if isinstance(found, type) and hasattr(found, "grade"):
        found, options = _constructed(found, spec, options), {}
    if isinstance(found, Verifier) and getattr(type(found), "__module__", "").startswith("sgsd."):
        return found
    if hasattr(found, "grade") and options:
        raise UserError(f"verifier {spec!r}: an object takes no options: drop {', '.join(sorted(options))}")
    if not hasattr(found, "grade") and not callable(found):
        kind = type(found).__name__
        raise UserError(f"verifier {spec!r}: it is a {kind}, not a function: name a function f(completion, answer)")
    return FunctionVerifier(found, spec, options, contract)


def _constructed(kind: Callable[..., Any], spec: str, options: dict[str, Any]) -> Any:
    try:
        return kind(**options)
    except TypeError as error:
        raise UserError(f"verifier {spec!r}: its options do not fit ({error}): mend the verifier's options") from error
