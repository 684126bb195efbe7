"""Verifiers by name: the bundled one, a user's function, a user's class."""

from __future__ import annotations

import asyncio
import importlib
import json
import operator
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sgsd.config.sections import DataConfig
from sgsd.data.problems import load_problems
from sgsd.types import Problem, Status, UserError, Verdict
from sgsd.verify import Contract, FunctionVerifier, MathVerifier, Verifier, grade_problems, load_verifier

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
        (1.0 - 1e-9, "correct"),
        (0, "incorrect"),
        (-0.0, "incorrect"),
        (None, "unknown"),
        ("unknown", "unknown"),
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


@pytest.mark.parametrize(
    "result", ["right", float("nan"), np.float32("nan"), [], object(), -1.0, 1.5, float("inf"), {"reward": 1}, (1.0,)]
)
def test_other_returns_name_the_function_and_the_row(result: object) -> None:
    verifier = FunctionVerifier(lambda completion, gold: True if completion == "a" else result, "mine:f")
    with pytest.raises(UserError, match=r"verifier 'mine:f': it returned .* on row 1: return a bool"):
        verifier.grade(["a", "b"], ["a", "b"])


# ── Rewards between 0 and 1 ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reward", [0.7, 0.99, 0.5, 1e-3, np.float64(0.25)])
def test_a_reward_between_0_and_1_has_no_verdict_without_a_threshold(reward: float) -> None:
    said = rf"'mine' *: it returned {float(reward):g} on row 0: .*verifier\.threshold"
    with pytest.raises(UserError, match=said):
        FunctionVerifier(lambda completion, gold: reward, "mine").grade(["a"], ["b"])


@pytest.mark.parametrize(
    ("reward", "status"),
    [(0.0, "incorrect"), (0.49, "incorrect"), (0.5, "correct"), (0.7, "correct"), (True, "correct")],
)
def test_with_a_threshold_the_reward_stands_beside_the_verdict(reward: float, status: str) -> None:
    verifier = FunctionVerifier(lambda completion, gold: reward, "mine", contract=Contract(threshold=0.5))
    (verdict,) = verifier.grade(["a"], ["b"])
    assert (verdict.status.value, verdict.reward) == (status, float(reward))
    assert verdict.signed_reward == 2 * float(reward) - 1


def test_without_a_threshold_there_is_no_reward_and_an_unknown_one_is_none() -> None:
    answers = iter([True, False, None])
    verdicts = FunctionVerifier(lambda completion, gold: next(answers), "mine").grade(["a"] * 3, ["b"] * 3)
    assert [(v.outcome, v.reward, v.signed_reward) for v in verdicts] == [
        (1, None, 1.0),
        (-1, None, -1.0),
        (0, None, 0.0),
    ]


# ── Functions of several completions, as TRL's reward functions are ────────────────────────────────────────────────

PROBLEMS = [
    Problem("p0", "2+2", gold="4", columns={"problem": "2+2", "answer": "4", "level": 1}),
    Problem("p1", "3+3", gold="6", columns={"problem": "3+3", "answer": "6", "level": 2, "hint": None}),
]


def graded(function: Any, completions: Sequence[str] = ("4", "7"), **contract: Any) -> list[str]:
    verifier = FunctionVerifier(function, "mine:f", contract=Contract(**contract))
    return [verdict.status.value for verdict in grade_problems(verifier, completions, PROBLEMS)]


def exact(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    return [1.0 if completion == expected else 0.0 for completion, expected in zip(completions, answer)]


def by_prompt(prompts: list[str], completions: list[str]) -> list[float]:
    return [float(eval(prompt) == int(completion)) for prompt, completion in zip(prompts, completions)]  # noqa: S307


def chat(prompts: list[Any], completions: list[Any], answer: list[str], **kwargs: Any) -> list[float]:
    assert [prompt[-1]["role"] for prompt in prompts] == ["user", "user"]
    contents = [completion[0]["content"] for completion in completions]
    return [float(content == expected) for content, expected in zip(contents, answer)]


async def slowly(completions: list[str], answer: list[str], **kwargs: Any) -> list[bool]:
    await asyncio.sleep(0.001)
    return [completion == expected for completion, expected in zip(completions, answer)]


def levels(completions: list[str], level: list[int], **kwargs: Any) -> list[float]:
    assert level == [1, 2]
    return [float(value == 1) for value in level]


def everything(completions: list[str], **kwargs: Any) -> list[float]:
    assert kwargs["level"] == [1, 2]
    assert kwargs["hint"] == [None, None]
    assert kwargs["prompts"] == ["2+2", "3+3"]
    return [1.0, 0.0]


def one_by_one(completions: list[str], **kwargs: Any) -> Any:
    yield from (completion == "4" for completion in completions)


def as_array(completions: list[str], **kwargs: Any) -> Any:
    return np.array([completion == "4" for completion in completions], dtype=np.float32)


def as_tensor(completions: list[str], **kwargs: Any) -> Any:
    return torch.tensor([completion == "4" for completion in completions])


@pytest.mark.parametrize("function", [exact, by_prompt, slowly, levels, everything, one_by_one, as_array, as_tensor])
def test_a_reward_function_of_several_completions(function: Any) -> None:
    assert graded(function) == ["correct", "incorrect"]


def test_conversational_completions_where_the_function_wants_them() -> None:
    verifier = FunctionVerifier(chat, "mine:f", contract=Contract(completions="messages"))
    assert [verdict.outcome for verdict in grade_problems(verifier, ["4", "7"], PROBLEMS)] == [1, -1]


class Scorer:
    def __call__(self, completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
        return exact(completions, answer)


async def one_slowly(completion: str, answer: str) -> bool:
    await asyncio.sleep(0.001)
    return completion == answer


def of_level(completion: str, answer: str, level: int, strict: bool = True) -> bool:
    return level == 1 and strict


def alone(completion: str) -> bool:
    return completion == "4"


def named(completion: str, answer: str, *, level: int) -> bool:
    return level == 1


@pytest.mark.parametrize("function", [Scorer(), one_slowly, of_level, alone, named, lambda c, a: c == a, operator.eq])
def test_other_forms(function: Any) -> None:
    assert graded(function) == ["correct", "incorrect"]


def test_a_function_is_awaited_where_a_loop_runs_already() -> None:
    async def in_a_notebook() -> list[str]:
        return graded(slowly)

    assert asyncio.run(in_a_notebook()) == ["correct", "incorrect"]


@pytest.mark.parametrize(
    "function",
    [
        lambda completions, difficulty, **kwargs: [1.0] * len(completions),
        lambda completion, answer, difficulty: True,
        lambda completion, answer, *, difficulty: True,
    ],
)
def test_a_column_that_is_not_there_is_named_with_those_that_are(function: Any) -> None:
    with pytest.raises(UserError, match=r"'mine:f': it needs the column 'difficulty'; .* problem, answer, level"):
        graded(function)
    options = FunctionVerifier(function, "mine:f", {"difficulty": 3})
    assert [v.outcome for v in grade_problems(options, ["4", "7"], PROBLEMS)] == [1, 1], "or an option fills it"


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ([1.0], "returned 1 answers for 2 completions"),
        ([1.0, 0.0, 1.0], "returned 3 answers for 2 completions"),
        (1.0, "returned 1.0 for 2 completions; return a list"),
        ("no", "returned 'no' for 2 completions; return a list"),
        (None, "returned None for 2 completions; return a list"),
        ([1.0, "right"], "returned 'right' on problem p1"),
        ([0.0, float("nan")], "returned nan on problem p1"),
        ([0.5, 1.0], "returned 0.5 on problem p0: .*verifier.threshold"),
    ],
)
def test_a_wrong_list_says_what_is_wrong(result: Any, said: str) -> None:
    with pytest.raises(UserError, match=rf"verifier 'mine:f': it {said}"):
        graded(lambda completions, **kwargs: result)


@pytest.mark.parametrize("answer", [["4"], {"value": 4}, 4, 4.5, True, False, "4"], ids=repr)
def test_an_answer_of_any_json_type_reaches_the_function(answer: Any, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(json.dumps({"problem": "2+2", "answer": answer, "n": 7, "none": None}) + "\n")
    (problem,) = load_problems(DataConfig(path=str(tmp_path / "data.jsonl")))
    seen: list[Any] = []

    def check(completion: str, reference: Any, n: int, none: None) -> bool:
        seen.extend([reference, n, none])
        return True

    grade_problems(FunctionVerifier(check, "mine"), ["4"], [problem])
    assert seen == [answer, 7, None]
    assert type(seen[0]) is type(answer)


# ── Failing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def third_fails(completions: list[str], **kwargs: Any) -> list[float]:
    if "bad" in completions:
        raise KeyError("no such thing")
    return [1.0] * len(completions)


def test_a_row_on_which_it_raises_stops_with_its_problem_or_goes_on_without_a_verdict(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(
        UserError, match=r"KeyError .* on problem p1, whose completion ends 'bad': .*in third_fails: raise"
    ):
        graded(third_fails, ["4", "bad"])
    assert graded(third_fails, ["4", "bad"], on_error="unknown") == ["correct", "unknown"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "raised KeyError on problem p1" in line
    assert "in third_fails: raise KeyError" in line


def test_failures_are_counted_and_said_seldom(caplog: pytest.LogCaptureFixture) -> None:
    verifier = FunctionVerifier(lambda completion, answer: 1 / 0, "mine:f", contract=Contract(on_error="unknown"))
    verdicts = [verdict for _ in range(60) for verdict in grade_problems(verifier, ["a", "b"], PROBLEMS)]
    assert {verdict.status for verdict in verdicts} == {Status.UNKNOWN}
    assert verifier.failures == {"raised ZeroDivisionError": 120}
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert "on 100 completions so far" in lines[-1]


def busy(completion: str, answer: str) -> bool:
    while completion == "7":
        pass
    return True


def asleep(completion: str, answer: str) -> bool:
    time.sleep(60 if completion == "7" else 0)
    return True


def stubborn(completion: str, answer: str) -> bool:
    try:
        return busy(completion, answer)
    except Exception:  # noqa: BLE001  # what users write
        return False


def backtracks(completion: str, answer: str) -> bool:
    return completion == "4" or re.match(r"(a+)+$", "a" * 60 + "b") is None


def all_at_once(completions: list[str], **kwargs: Any) -> list[bool]:
    return [busy(completion, "") for completion in completions]


async def waits(completions: list[str], **kwargs: Any) -> list[bool]:
    await asyncio.sleep(60 if "7" in completions else 0)
    return [True] * len(completions)


@pytest.mark.parametrize("function", [busy, asleep, stubborn, backtracks, all_at_once, waits])
def test_a_row_on_which_it_hangs_times_out_and_the_others_have_their_verdicts(
    function: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert graded(function, timeout=0.1) == ["correct", "timeout"]
    assert "on problem p1, whose completion ends '7'" in caplog.text
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


class Leaves(BaseException):
    pass


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit("bye"), Leaves("out"), GeneratorExit()])
@pytest.mark.parametrize("on_error", ["stop", "unknown"])
def test_what_is_no_exception_always_stops_with_one_line(error: BaseException, on_error: str) -> None:
    def leave(completion: str, answer: str) -> bool:
        raise error

    with pytest.raises(UserError, match=r"verifier 'mine:f': it (called sys.exit|raised) .*on problem p0") as caught:
        graded(leave, on_error=on_error)
    assert "\n" not in str(caught.value)


def test_ctrl_c_is_the_users_own() -> None:
    def interrupted(completion: str, answer: str) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        graded(interrupted, on_error="unknown")


def test_an_object_with_grade_is_held_to_the_same(tmp_path: Path) -> None:
    class Short:
        def grade(self, completions: Sequence[str], golds: Sequence[str]) -> list[Verdict]:
            return [Verdict(Status.CORRECT)]

    class Fails:
        def grade(self, completions: Sequence[str], golds: Sequence[str]) -> list[Verdict]:
            return [Verdict(Status.CORRECT) for gold in golds if gold == "4" or 1 / 0]

    with pytest.raises(UserError, match="returned 1 answers for 2 completions"):
        graded(Short())
    assert graded(Fails(), on_error="unknown") == ["correct", "unknown"]


# ── By name ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_and_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "beside_it.py").write_text("WORD = 'yes'\n")
    (folder / "own_check.py").write_text(
        "from beside_it import WORD\ndef f(completion, answer):\n    return completion == WORD\n"
    )
    monkeypatch.chdir(folder)
    for spec in ("own_check.py:f", "./own_check.py:f", f"{folder}/own_check.py:f", "own_check:f"):
        assert _statuses(load_verifier(spec), ["yes", "no"], ["", ""]) == ["correct", "incorrect"]
    with pytest.raises(UserError, match=r"there is no file missing\.py"):
        load_verifier("missing.py:f")


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
        ("no_such_package.module:f", "No module named 'no_such_package'"),
        ("users_broken:f", "a_module_that_is_not_there"),
        ("users_typo:f", "cannot be imported"),
        ("users_verifiers:nothing", "has no attribute 'nothing'"),
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
