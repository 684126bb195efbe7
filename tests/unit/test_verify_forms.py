"""The kinds of answers and how they compare: rulings of the exact part, no worker involved."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsd.types import Status
from sgsd.verify.math.equivalence import Question, compare

EQUAL, DIFFERENT, UNREADABLE = Status.CORRECT, Status.INCORRECT, Status.UNPARSED
_MATRIX = r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"


@pytest.mark.parametrize(
    ("answer", "gold", "ruling"),
    [
        ("|x|>1", r"(-\infty,-1)\cup(1,\infty)", EQUAL),
        ("|x|>1", r"(-\infty,-1]\cup[1,\infty)", DIFFERENT),
        (r"|x|\ge 0", r"\mathbb{R}", EQUAL),
        (r"|x-2|\le 3", "[-1,5]", EQUAL),
        (r"|x-2|\le 3", "(-1,5)", DIFFERENT),
        ("5>|2x+1|", "-3<x<2", EQUAL),
        ("1<|x|<2", r"(-2,-1)\cup(1,2)", EQUAL),
        ("|x|>1", "x>1", DIFFERENT),
        (r"|x|\ne 1", r"x\ne\pm 1", EQUAL),
        (r"x\neq 1,2", r"x\neq 1, x\neq 2", EQUAL),
        (r"\mathbb{R}-\{0\}", r"x\ne 0", EQUAL),
        (r"\mathbb{R}\setminus\{0,1\}", r"x\ne 0", DIFFERENT),
    ],
)
def test_sizes_and_exclusions_are_ranges(answer: str, gold: str, ruling: Status) -> None:
    assert compare(answer, gold) is ruling
    assert compare(gold, answer) is ruling


@pytest.mark.parametrize(
    ("answer", "gold", "ruling"),
    [
        (r"b\neq a", r"a\ne b", EQUAL),
        (r"a-b\ne 0", "a≠b", EQUAL),
        ("a=b", r"a\ne b", DIFFERENT),
        (r"a\ne 1", r"a\ne 0", DIFFERENT),
        ("a<b", "b>a", EQUAL),
        ("a<b", "a>b", DIFFERENT),
        ("a<b", r"a\le b", DIFFERENT),
        (r"x+y\ge 1", r"y\ge 1-x", EQUAL),
        (r"x+y\ge 1", r"y\le 1-x", DIFFERENT),
        ("x>0, y>0", "y>0, x>0", EQUAL),
        ("x>0, y>0", "x>0, y<0", DIFFERENT),
    ],
)
def test_relations_between_unknowns(answer: str, gold: str, ruling: Status) -> None:
    assert compare(answer, gold) is ruling


@pytest.mark.parametrize(
    ("answer", "gold", "ruling"),
    [
        (r"B\cup A", r"A\cup B", EQUAL),
        (r"A\cap B", r"A\cup B", DIFFERENT),
        (r"A\setminus B", r"B\setminus A", DIFFERENT),
        (r"A\cup(B\cap C)", r"(C\cap B)\cup A", EQUAL),
        (r"\{1,2\}\cup\{3\}", r"\{3,2,1\}", EQUAL),
        (r"\{a,b\}\cup\{b,c\}", r"\{a,b,c\}", EQUAL),
        (r"[0,1)\cup\{1\}", "[0,1]", EQUAL),
        ("5", r"A\cup B", DIFFERENT),
    ],
)
def test_unions_of_sets(answer: str, gold: str, ruling: Status) -> None:
    assert compare(answer, gold) is ruling


@pytest.mark.parametrize(
    ("answer", "gold", "ruling"),
    [
        ("1.5 hours", "90 minutes", EQUAL),
        ("90 minutes", "1 hour 30 minutes", UNREADABLE),
        ("1 hour 30 minutes", "90 minutes", DIFFERENT),
        ("1 hour 30 minutes", "30 minutes", DIFFERENT),
        ("1 hour and 30 minutes", "90 minutes", DIFFERENT),
        ("90 minutes", "1 hour and 30 minutes", UNREADABLE),
        (r"\$3.50", "3 dollars, 50 cents", UNREADABLE),
        ("30 minutes and 1 hour", "1 hour, 30 minutes and 5 seconds", UNREADABLE),
        ("5 cm and 3 cm", "3 cm, 5 cm", EQUAL),
        ("3 dollars and 50 cents", r"\$3", DIFFERENT),
        (r"30^\circ 15'", "30.25°", DIFFERENT),
        (r"30\text{ sec}", r"0.5\text{ min}", EQUAL),
        (r"2\operatorname{sec} x", r"\frac{2}{\cos x}", None),
        ("3 km 5 kg", "3.005 km", DIFFERENT),
        ("12:30 pm", "12:30 P.M.", EQUAL),
        ("12:30 am", "12:30 pm", DIFFERENT),
        ("3 pm", "3:00 PM", EQUAL),
        (r"7\pmod{12}", r"19\pmod{12}", EQUAL),
        (r"7\pmod{12}", r"7\pmod{13}", DIFFERENT),
    ],
)
def test_quantities_times_and_residues(answer: str, gold: str, ruling: Status | None) -> None:
    found = compare(answer, gold)
    assert found is ruling or (ruling is None and isinstance(found, Question))


@pytest.mark.parametrize(
    ("answer", "gold", "ruling"),
    [
        ("x: 34", "34", EQUAL),
        ("34", "x: 34", EQUAL),
        ("x: 35", "34", DIFFERENT),
        ("x:y", "x/y", EQUAL),
        ("3:4", "3/4", EQUAL),
        ("3:4", "4", DIFFERENT),
        ("x_1=3, x_2=-2", "-2, 3", EQUAL),
        ("x_1=3, x_2=-2", "x_1=-2, x_2=3", DIFFERENT),
        ("x=1, y=2", "2, 1", DIFFERENT),
        ("B) 42", "42", EQUAL),
        ("B)", "(B)", EQUAL),
        ("The answer is B", "B", EQUAL),
        ("(B) 42", "C", DIFFERENT),
    ],
)
def test_labels_and_options(answer: str, gold: str, ruling: Status) -> None:
    assert compare(answer, gold) is ruling


@pytest.mark.parametrize(
    ("answer", "gold", "ruling"),
    [
        ("2x-y+1=0", "y=2x+1", EQUAL),
        ("2x+y+1=0", "y=2x+1", DIFFERENT),
        ("(x-1)^2+(y+2)^2=9", "x^2+y^2-2x+4y-4=0", EQUAL),
        (r"\frac{x^2}{4}+\frac{y^2}{9}=1", "9x^2+4y^2=36", EQUAL),
        ("2x+3y=6", "2x+3y=7", DIFFERENT),
        ("x=2", "x^2=4", DIFFERENT),
        ("[[1,2],[3,4]]", _MATRIX, EQUAL),
        (r"\left[\begin{array}{c|c}1&2\\3&4\end{array}\right]", _MATRIX, EQUAL),
        (r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", _MATRIX, DIFFERENT),
        (r"\vec{v}=\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)", EQUAL),
        (r"2\hat{i}+3\hat{j}", r"2\mathbf i+3\mathbf{j}", EQUAL),
        ("|3+4i|", "5", EQUAL),
        (r"\left|\frac{1+i}{2}\right|", r"\frac{\sqrt2}{2}", EQUAL),
    ],
)
def test_curves_matrices_and_moduli(answer: str, gold: str, ruling: Status) -> None:
    assert compare(answer, gold) is ruling


@pytest.mark.parametrize(
    ("answer", "gold", "ruling"),
    [
        ("2^{4000}", "4^{2000}", EQUAL),
        ("9^{9^9}", "5", Status.UNKNOWN),
        ("5", "9^{9^9}", UNREADABLE),
        ("7^{823543}", "7^{7^7}", UNREADABLE),
        ("7^{7^7}", "7^{7^7}", EQUAL),
    ],
)
def test_a_power_beyond_the_limits_is_unknown_as_a_gold(answer: str, gold: str, ruling: Status) -> None:
    assert compare(answer, gold) is ruling


@pytest.mark.parametrize(
    ("answer", "gold", "ruling"),
    [
        ("two", "2", EQUAL),
        ("34", r"\text{thirty-four}", UNREADABLE),
        ("105", "one hundred and five", UNREADABLE),
        (r"\frac23", "two thirds", UNREADABLE),
        ("twenty-one", "21", DIFFERENT),
        ("minus five", "-5", DIFFERENT),
        ("two hours", "2", DIFFERENT),
        ("2 hours", "two hours", UNREADABLE),
        ("One-to-one", "one-to-one", EQUAL),
        ("5", "one-to-one", DIFFERENT),
        ("one-to-one", "1", DIFFERENT),
        ("about five", "5", DIFFERENT),
        ("not five", "5", DIFFERENT),
        ("third", "1/3", DIFFERENT),
        ("two or three", "3", DIFFERENT),
        ("negative infinity", r"-\infty", EQUAL),
        ("does not exist", "DNE", EQUAL),
        ("infinitely many", "infinitely many solutions", EQUAL),
        ("Increasing", "increasing", EQUAL),
        ("increasing", "decreasing", DIFFERENT),
    ],
)
def test_words(answer: str, gold: str, ruling: Status) -> None:
    assert compare(answer, gold) is ruling


@settings(max_examples=60, deadline=None)
@given(st.integers(-9, 9), st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 9))
def test_a_line_times_a_factor_is_the_same_line(a: int, b: int, c: int, factor: int) -> None:
    line = f"{a}x+({b})y=({c})"
    other = f"{-factor * a}x+({-factor * b})y+({factor * c})=0"
    if a and b:
        assert compare(line, other) is EQUAL
        assert compare(line, f"{a}x+({b})y=({c + 1})") is DIFFERENT
