"""Labelled rows by kind, from what people complain of in graders: each kind with siblings, right and wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sgsd.verify import MathVerifier

RIGHT, WRONG, UNKNOWN, NOT_RIGHT = "correct", "incorrect", "unknown", "not correct"

KINDS: dict[str, list[tuple[str, str, str]]] = {
    "before a membership sign": [
        (r"2k\pi, k \in \mathbb{Z}", r"k\pi, k \in \mathbb{Z}", WRONG),
        (r"\mathbb{Z}", r"\frac{\pi}{6}+2k\pi, k \in \mathbb{Z}", NOT_RIGHT),
        (r"y=2x, x\in[0,1]", r"y=3x, x\in[0,1]", WRONG),
        (r"\{2k\pi \mid k\in\mathbb{Z}\}", r"\{k\pi \mid k\in\mathbb{Z}\}", WRONG),
        (r"f(x)=ax^2, a \in \mathbb{R}", r"f(x)=ax, a \in \mathbb{R}", WRONG),
        (r"x = k\pi, k \in \mathbb{Z}", r"k\pi, k \in \mathbb{Z}", RIGHT),
        (r"\frac{\pi}{6} + 2\pi k, k \in \mathbb{Z}", r"2k\pi + \frac{\pi}{6}, k \in \mathbb{Z}", RIGHT),
        (r"k\pi", r"k\pi, k \in \mathbb{Z}", RIGHT),
        (r"k\pi + \pi, k \in \mathbb{Z}", r"k\pi, k \in \mathbb{Z}", UNKNOWN),
        (r"2n\pi, n \in \mathbb{Z}", r"2k\pi, k \in \mathbb{Z}", UNKNOWN),
        (r"k\pi, k \in \mathbb{N}", r"k\pi, k \in \mathbb{Z}", UNKNOWN),
        (r"y=2x, x\in[0,2]", r"y=2x, x\in[0,1]", UNKNOWN),
        (r"y=2x", r"y=2x, x\in[0,1]", WRONG),
        (r"x \in [1,2]", "[1,2]", RIGHT),
        (r"x \in (1,2)", "[1,2]", WRONG),
        (r"\{x \mid x \in [1,2]\}", "[1,2]", RIGHT),
        (r"\{2k \mid k\in\mathbb{Z}\}", r"\{2k \mid k \in \mathbb{Z}\}", RIGHT),
    ],
    "times of day": [
        ("1:00", "12:00", WRONG),
        ("5:00", "10:00", WRONG),
        ("0:30", "0:45", WRONG),
        ("1:05", "2:10", WRONG),
        ("10:00:00", "5:00:00", WRONG),
        ("5:30", "5:30", RIGHT),
        ("8:00 AM", "8:00", RIGHT),
        ("3:00", "12:00", WRONG),
        ("1:20", "2:40", UNKNOWN),
        ("2:3", "4:6", RIGHT),
        ("1:2:3", "2:4:6", RIGHT),
        ("3:4", "4:3", WRONG),
        ("100:200", "1:2", RIGHT),
    ],
    "what is not computed": [
        (r"\frac{2025!}{2023!}", r"2025 \cdot 2024", UNKNOWN),
        (r"\binom{2025}{2}", "2049300", UNKNOWN),
        (r"\frac{2025!}{2024!}", "2025", UNKNOWN),
        (r"\log_{10} 10^{1000000}", "1000000", UNKNOWN),
        (r"7^{7^7}", "7", NOT_RIGHT),
        (r"2^{100000}", "3", NOT_RIGHT),
        (r"\frac{5!}{3!}", "20", RIGHT),
        (r"\binom{10}{2}", "45", RIGHT),
        (r"\binom{10}{2}", "44", WRONG),
    ],
    "words behind a value": [
        ("f(x)=x", r"f(x) = x \text{ for all } x \in \mathbb{R}", RIGHT),
        ("f(x)=x+1", r"f(x)=x+1 \text{ for all real } x", RIGHT),
        ("f(x) = cx", r"f(x)=cx \text{ for any } c", RIGHT),
        (r"f(x) = x \text{ for every } x", "f(x) = x", RIGHT),
        (r"a_n = 2^n, n\ge 1", "a_n = 2^n", RIGHT),
        (r"a_n = 2^n, n > 0", r"a_n = 2^n, n \ge 1", RIGHT),
        ("f(x)=2x", r"f(x)=3x \text{ for all } x", WRONG),
        (r"a_n = 3^n, n\ge 1", "a_n = 2^n", WRONG),
        (r"f(x) = x, x > 5", "f(x) = x", WRONG),
        ("n, 2n", "n, 2n", RIGHT),
    ],
    "systems": [
        (r"\begin{cases}x=1\\y=2\end{cases}", "x=1, y=2", RIGHT),
        (r"\begin{aligned}x&=1\\y&=2\end{aligned}", "(1,2)", RIGHT),
        (r"\begin{aligned} x &= 1, \\ y &= 2. \end{aligned}", "x=1, y=2", RIGHT),
        (r"\begin{cases}x=2\\y=1\end{cases}", "x=1, y=2", WRONG),
        (r"\begin{cases}x=1\\y=3\end{cases}", "(1,2)", WRONG),
        (r"\begin{cases}x=\frac{1}{2}\\y=2\end{cases}", r"x=0.5, y=2", RIGHT),
    ],
    "orders of letters": [
        ("ABC", r"\text{ABC}", RIGHT),
        (r"\text{SOS}", "SOS", RIGHT),
        ("BDAC", "BDAC", RIGHT),
        ("ACB", "ABC", WRONG),
        ("BA", "AB", WRONG),
        (r"\mathrm{BCA}", "BCA", RIGHT),
        ("ab", "ba", RIGHT),
        ("XYZ", r"X \cdot Y \cdot Z", RIGHT),
        ("A", "B", WRONG),
    ],
    "spellings of an ellipsis": [
        (r"1, 2, \dots, n", r"1, 2, \ldots, n", RIGHT),
        ("1, 2, ..., n", r"1, 2, \ldots, n", RIGHT),
        (r"\{1,\dots,n\}", r"\{1,\ldots,n\}", RIGHT),
        (r"1, 2, \dotsc, n", "1, 2, …, n", RIGHT),
        (r"1+2+\cdots+n", r"1+2+\dots+n", RIGHT),
        (r"1, 3, \ldots, 2n-1", r"1, 2, \ldots, n", NOT_RIGHT),
    ],
    "currencies": [
        (r"\$5", "5", RIGHT),
        (r"5 \text{ dollars}", r"\$5", RIGHT),
        (r"\$5.00", "5", RIGHT),
        (r"\$1,250", "1250", RIGHT),
        ("5 cents", r"\$5", WRONG),
        ("€5", "5", RIGHT),
        ("£5", r"\$5", WRONG),
        ("€5", r"\$5", WRONG),
        ("5 euros", "€5", RIGHT),
        (r"\pounds 5", "£5", RIGHT),
        (r"\$6", r"\$5", WRONG),
    ],
    "no numbers": [
        ("nan", "5", WRONG),
        (r"\infty", "5", WRONG),
        ("inf", "5", WRONG),
    ],
}


def rows() -> Iterator[tuple[str, str, str, str]]:
    for kind, found in KINDS.items():
        yield from ((kind, *row) for row in found)


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    with MathVerifier(timeout=5.0) as made:
        yield made


@pytest.mark.parametrize(("kind", "answer", "gold", "expected"), rows())
def test_the_right_verdict(kind: str, answer: str, gold: str, expected: str, verifier: MathVerifier) -> None:
    (verdict,) = verifier.grade([rf"So \boxed{{{answer}}}."], [gold])
    if expected == NOT_RIGHT:
        assert verdict.status.value != RIGHT
    else:
        assert verdict.status.value == expected


def test_there_are_enough_of_them() -> None:
    assert sum(1 for _ in rows()) >= 60
    for found in KINDS.values():
        assert len({expected for *_, expected in found}) > 1 or found[0][2] == WRONG
