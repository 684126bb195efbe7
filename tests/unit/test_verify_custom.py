"""Verifiers by name: the bundled one, a user's function, a user's class."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sgsd.types import Status, UserError, Verdict
from sgsd.verify import FunctionVerifier, MathVerifier, Verifier, load_verifier

_SOURCE = """
from sgsd.types import Status, Verdict

CONSTANT = 5

def same(completion, gold, strip=False):
    return completion.strip() == gold if strip else completion == gold

def failing(completion, gold):
    raise KeyError("no such thing")

class Judge:
    def __init__(self, answer="yes"):
        self.answer = answer

    def grade(self, completions, golds):
        return [Verdict(Status.CORRECT if c == self.answer else Status.INCORRECT) for c in completions]

judge = Judge()

class Tools:
    same = staticmethod(same)
"""


@pytest.fixture(autouse=True)
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_verifiers.py").write_text(_SOURCE)
    (tmp_path / "users_broken.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "users_typo.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()


def _statuses(verifier: Verifier, completions: Sequence[Any], golds: Sequence[Any]) -> list[str]:
    with verifier as entered:
        return [verdict.status.value for verdict in entered.grade(completions, golds)]


def test_math_is_the_bundled_verifier() -> None:
    with load_verifier("math", timeout=3.0) as verifier:
        assert isinstance(verifier, MathVerifier)


def test_a_function_is_a_verifier() -> None:
    verifier = load_verifier("users_verifiers:same")
    assert isinstance(verifier, Verifier)
    assert _statuses(verifier, ["a", "b"], ["a", "a"]) == ["correct", "incorrect"]


def test_a_function_takes_options_and_may_be_nested() -> None:
    assert _statuses(load_verifier("users_verifiers:Tools.same", strip=True), [" a "], ["a"]) == ["correct"]


@pytest.mark.parametrize(
    ("result", "status"),
    [
        (True, "correct"),
        (False, "incorrect"),
        (1.0, "correct"),
        (1, "correct"),
        (0.99, "correct"),
        (0.98, "incorrect"),
        (0, "incorrect"),
        (-1.0, "incorrect"),
        ("correct", "correct"),
        ("unparsed", "unparsed"),
        ("timeout", "timeout"),
        (Status.INCORRECT, "incorrect"),
        (Verdict(Status.TIMEOUT), "timeout"),
        (np.bool_(True), "correct"),
        (np.float32(1.0), "correct"),
    ],
)
def test_what_a_function_may_return(result: object, status: str) -> None:
    assert _statuses(FunctionVerifier(lambda completion, gold: result, "mine"), ["a"], ["b"]) == [status]


@pytest.mark.parametrize("result", [None, "right", float("nan"), [], object()])
def test_other_returns_name_the_function_and_the_row(result: object) -> None:
    verifier = FunctionVerifier(lambda completion, gold: True if completion == "a" else result, "mine:f")
    with pytest.raises(UserError, match=r"verifier 'mine:f': it returned .* on row 1: return a bool"):
        verifier.grade(["a", "b"], ["a", "b"])


def test_a_class_and_an_object_with_grade_are_verifiers() -> None:
    made = load_verifier("users_verifiers:Judge", answer="no")
    assert _statuses(made, ["no", "yes"], ["", ""]) == ["correct", "incorrect"]
    assert _statuses(load_verifier("users_verifiers:judge"), ["yes"], [""]) == ["correct"]


def test_a_function_that_raises_is_reported_with_its_row() -> None:
    with pytest.raises(UserError, match=r"'users_verifiers:failing': it raised KeyError .* on row 0") as caught:
        load_verifier("users_verifiers:failing").grade(["a"], ["b"])
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("maths", "not a known name"),
        ("users_verifiers:", "not a known name"),
        (":same", "not a known name"),
        ("no_such_package.module:f", "cannot import 'no_such_package.module'"),
        ("users_broken:f", "a_module_that_is_not_there"),
        ("users_typo:f", "cannot import 'users_typo'"),
        ("users_verifiers:nothing", "has no 'nothing'"),
        ("users_verifiers:CONSTANT", "it is a int, not a function"),
        ("users_verifiers:judge", "takes no options: drop strict"),
        ("users_verifiers:Judge", "its options do not fit"),
        ("math", "its options do not fit"),
    ],
)
def test_a_wrong_spec_says_what_to_mend(spec: str, message: str) -> None:
    options = {"strict": True} if spec in {"users_verifiers:judge", "users_verifiers:Judge", "math"} else {}
    with pytest.raises(UserError) as caught:
        load_verifier(spec, **options)
    assert message in str(caught.value)
    assert spec in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="1 completions but 0 golds"):
        load_verifier("users_verifiers:same").grade(["a"], [])
