"""The final answer of a completion: the last box after the last </think>."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgsd.verify import extract_answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"\boxed{5}", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed 5", "5"),
        (r"it is $\boxed 34$.", "34"),
        (r"\boxed  {5}", "5"),
        (r"\boxed{3} but no: \boxed{4}", "4"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\boxed{a\\}", r"a\\"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{1 + \fbox{2}}", r"1 + \fbox{2}"),
        (r"a stray { and \boxed{5}", "5"),
        (r"a stray } and \boxed{5}", "5"),
        (r"\boxed{3 and then \boxed{5}", "5"),
        (r"<think>\boxed{1}</think>\boxed{2}", "2"),
        (r"\boxed{1}</think>\boxed{2}", "2"),
        (r"<think>a</think> b <think>c</think>\boxed{2}", "2"),
        (r"\boxed{5}" + " and more prose" * 100, "5"),
    ],
)
def test_the_last_box_after_the_last_think_block(completion: str, answer: str) -> None:
    assert extract_answer(completion) == answer


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "the answer is 5",
        r"\boxed{}",
        r"\boxed{ ~ }",
        r"\boxed{5",
        r"\boxed{\frac{1}{2}",
        r"\boxed{5} and finally \boxed{",
        r"\boxed",
        r"\boxedanswer{5}",
        r"<think>\boxed{5}",
        r"<think>\boxed{5}</think>",
        r"<think>a</think>\boxed{5}<think>",
        None,
        5,
        b"\\boxed{5}",
        [r"\boxed{5}"],
        object(),
    ],
)
def test_no_answer(completion: object) -> None:
    assert extract_answer(completion) is None


@given(st.text(alphabet="ab1 \\{}$<>/", max_size=60))
def test_a_closed_box_at_the_end_is_always_found(prose: str) -> None:
    prose = prose.rstrip("\\").replace("<think>", "")
    assert extract_answer(prose + " </think> " + r"\boxed{42}") == "42"


@given(st.text())
def test_any_text_is_answered(text: str) -> None:
    answer = extract_answer("\\boxed{" + text)
    assert answer is None or isinstance(answer, str)


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed" + "{" * 100_000,
        "\\boxed" + "{" * 100_000 + "5" + "}" * 100_000,
        "\\boxed{" * 20_000 + "5" + "}" * 20_000,
        "\\boxed " * 100_000,
        "<think>" * 100_000,
        "\\boxed{" + "\\" * 500_000 + "}",
        "\\boxed" + "\n" * 500_000,
    ],
    ids=["open", "nested", "boxes", "bare", "think", "backslashes", "newlines"],
)
def test_time_is_linear_in_the_text(text: str) -> None:
    start = time.perf_counter()
    extract_answer(text)
    assert time.perf_counter() - start < 1.0  # a quadratic scan would take minutes
