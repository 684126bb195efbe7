"""A verifier of one's own: how its arguments are found, and code that fails where nobody expects it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sgsd.types import Problem, Status, UserError, Verdict
from sgsd.verify import Contract, FunctionVerifier, grade_problems, load_verifier

PROBLEMS = [
    Problem("p0", "2+2", gold="4", columns={"problem": "2+2", "right": "4", "level": 1}),
    Problem("p1", "3+3", gold="6", columns={"problem": "3+3", "right": "6", "level": 2}),
]


def graded(function: Any, completions: tuple[str, str] = ("4", "7"), **contract: Any) -> list[str]:
    verifier = FunctionVerifier(function, "mine:f", contract=Contract(**contract))
    tokens = [[ord(letter) for letter in completion] for completion in completions]
    return [verdict.status.value for verdict in grade_problems(verifier, completions, PROBLEMS, tokens)]


class WithColumns:
    def grade(self, completions: list[str], answers: list[str], level: list[int]) -> list[bool]:
        assert answers == ["4", "6"]
        return [value == 1 for value in level]


async def later(right: bool) -> bool:
    return right


class Slow:
    async def __call__(self, completion: str, answer: str) -> bool:
        return completion == answer


def by_name(*, completion: str, answer: str) -> bool:
    return completion == answer


def turned(answer: str, completion: str) -> bool:
    return completion == "4" and answer == "4"


def of_tokens(completion_ids: list[list[int]], **kwargs: Any) -> list[bool]:
    return [ids == [ord("4")] for ids in completion_ids]


FORMS = [
    WithColumns(),
    Slow(),
    by_name,
    turned,
    of_tokens,
    lambda completions, answer: [c == a for c, a in zip(completions, answer)],  # the reference, whatever its column
    lambda completions, right: [c == r for c, r in zip(completions, right)],
    lambda completion, level: level == 1,  # a column in the second place
    lambda answer, right: answer == "4" and right == "4",  # the model's answer, and a column
    lambda text, gold: text == gold,
    lambda completion, answer: later(completion == answer),
    lambda completions, **kwargs: [later(c == "4") for c in completions],
    lambda *both, **columns: both == ("4", "4") and columns["level"] == 1,
]


@pytest.mark.parametrize("function", FORMS)
def test_a_form_finds_its_arguments(function: Any) -> None:
    assert graded(function) == ["correct", "incorrect"]


@pytest.mark.parametrize("missing", ["trainer_state", "log_metric"])
def test_what_only_another_trainer_has_is_named(missing: str) -> None:
    function = eval(f"lambda completions, {missing}, **kwargs: [1.0] * len(completions)")  # noqa: S307
    with pytest.raises(UserError, match=f"'mine:f': it needs the column '{missing}'"):
        graded(function)


@pytest.mark.parametrize("answers", [{0: "a", 1: "b"}, {"p0": 1.0, "p1": 0.0}, {0.0, 1.0}, frozenset([True, False])])
def test_what_has_no_order_of_rows_is_refused(answers: Any) -> None:
    with pytest.raises(UserError, match=r"it returned .* for 2 completions; return a list"):
        graded(lambda completions, **kwargs: answers)


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(Status.CORRECT, reward=7.0),
        Verdict(Status.CORRECT, reward=-0.5),
        Verdict(Status.INCORRECT, reward=float("nan")),
        Verdict(Status.CORRECT, reward="1"),  # type: ignore[arg-type]
        Verdict("right"),  # type: ignore[arg-type]
        Verdict(True),  # type: ignore[arg-type]
    ],
)
def test_a_verdict_that_cannot_be_is_named(verdict: Verdict) -> None:
    with pytest.raises(UserError, match=r"'mine:f': it returned Verdict\(.* on problem p0: a Verdict has one of"):
        graded(lambda completion, answer: verdict)


def test_a_verdict_of_its_own_is_taken_as_it_is() -> None:
    verdicts = iter([Verdict(Status.CORRECT, "4", 1.0, 0.75), Verdict("incorrect")])  # type: ignore[arg-type]
    verifier = FunctionVerifier(lambda completion, answer: next(verdicts), "mine:f")
    first, second = grade_problems(verifier, ["4", "7"], PROBLEMS)
    assert (first.outcome, first.answer, first.reward) == (1, "4", 0.75)
    assert (second.status, second.outcome) == (Status.INCORRECT, -1)


# ── Failing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def only_alone(completions: list[str], **kwargs: Any) -> list[float]:
    if len(completions) > 1:
        raise ValueError("one at a time")
    return [1.0]


def late_together(completions: list[str], **kwargs: Any) -> list[float]:
    while len(completions) > 1:
        pass
    return [1.0]


@pytest.mark.parametrize(
    ("function", "said"), [(only_alone, "raised ValueError"), (late_together, r"verifier.timeout (0.1 s; raise it)")]
)
def test_a_call_of_several_that_fails_where_none_fails_alone_is_told(
    function: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert graded(function, timeout=0.1) == ["correct", "correct"]
    assert f"{said}, asked about several at once, on problem p0 and 1 more" in caplog.text
    assert "no verdict there" not in caplog.text


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


def test_an_object_that_cannot_be_shown_is_called_by_its_type() -> None:
    def fails(completion: str, answer: str) -> bool:
        raise Speechless

    with pytest.raises(UserError, match=r"raised Speechless \(<a Speechless without words>\) on problem p0"):
        graded(fails)
    with pytest.raises(UserError, match=r"it returned <a Speechless without words> on problem p0"):
        graded(lambda completion, answer: Speechless())


# ── By name ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit(0)", "called sys.exit"),
        ("raise SystemExit('bye')", "called sys.exit"),
        ("1 / 0", r"raised ZeroDivisionError \(division by zero\)"),
        ("x = undefined", "raised NameError"),
        ("raise GeneratorExit", "raised GeneratorExit"),
        ("class Own(BaseException): pass\nraise Own('no')", r"raised Own \(no\)"),
        ("{}['key']", "raised KeyError"),
        ("def f(:", "raised SyntaxError"),
        ("assert False, 'set a key'", r"raised AssertionError \(set a key\)"),
    ],
)
@pytest.mark.parametrize("form", ["{}.py:f", "{}:f"])
def test_a_module_that_raises_while_it_is_imported(code: str, said: str, form: str, here: Path) -> None:
    name = f"own_{abs(hash((code, form)))}"
    (here / f"{name}.py").write_text(code)
    with pytest.raises(UserError, match=rf"verifier '{name}.*cannot be imported, its code {said}") as caught:
        load_verifier(form.format(name))
    assert "\n" not in str(caught.value)
    (here / f"{name}.py").write_text("def f(completion, answer):\n    return True\n\n")
    assert load_verifier(f"{name}.py:f").grade(["a"], ["b"])[0].outcome == 1, "mended, it is read anew"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise KeyError('API_KEY')", r"raised KeyError \('API_KEY'\) when made"),
        ("raise SystemExit(0)", "called sys.exit when made"),
        ("raise OSError('no server')", r"raised OSError \(no server\) when made"),
    ],
)
def test_a_class_that_raises_while_it_is_made(body: str, said: str, here: Path) -> None:
    (here / "made.py").write_text(
        f"class Judge:\n    def __init__(self):\n        {body}\n    def __call__(self, completion, answer): ...\n"
    )
    with pytest.raises(UserError, match=rf"verifier 'made.py:Judge': it {said}"):
        load_verifier("made.py:Judge")


def test_a_class_that_is_called_is_made_with_the_options(here: Path) -> None:
    (here / "called.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Is:\n"
        "    word: str\n    def __call__(self, completions, **kwargs):\n"
        "        return [c == self.word for c in completions]\n"
    )
    verifier = load_verifier("called.py:Is", word="yes")
    assert [v.outcome for v in verifier.grade(["yes", "no"], ["", ""])] == [1, -1]
    with pytest.raises(UserError, match="its options do not fit"):
        load_verifier("called.py:Is")
