"""Answers in words: which phrases mean the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sgsd.verify.errors import Unreadable
from sgsd.verify.math.algebra import rational
from sgsd.verify.math.expressions import evaluate, literal
from sgsd.verify.math.forms import Form, Group, Infinite, Number, Span, Words
from sgsd.verify.math.lexer import Token, Tokens
from sgsd.verify.math.ranges import REALS
from sgsd.verify.math.units import CLOCK, NUMBER_WORDS, NUMERALS, known_unit

_PHRASES = {
    "∅": "no solution, no solutions, no real solution, no real solutions, no real roots, no roots, no real values, "
    "no values, empty, empty set, the empty set, null set",
    "ℝ": "all real numbers, all reals, all real, all real values, all real x, real numbers, the real numbers, "
    "the set of real numbers, any real number",
    "∞": "infinity, positive infinity",
    "-∞": "negative infinity, minus infinity",
    "undefined": "does not exist, dne, not defined, the limit does not exist",
    "infinitely many": "infinite, infinitely many solutions, infinite solutions, there are infinitely many, "
    "infinite number, an infinite number, infinite number of solutions, an infinite number of solutions",
}
_SYMBOLS = {"emptyset": "∅", "reals": "ℝ"}
_MEANING = {phrase: meaning for meaning, phrases in _PHRASES.items() for phrase in phrases.split(", ")}


def read_words(tokens: Tokens) -> Form | None:
    """Read an answer of words alone; None for any other. Raises Unreadable for a number in words."""
    if len(tokens) == 1 and tokens[0].kind == "cmd" and tokens[0].text in _SYMBOLS:
        return _form(tokens, _SYMBOLS[tokens[0].text])
    spoken = tuple(token for token in tokens if token != Token("op", "-"))  # two-digit, non-negative
    if any(token.kind not in {"word", "var"} for token in spoken) or all(token.kind == "var" for token in spoken):
        return None
    text = " ".join(token.text.lower() for token in spoken)
    if len(text) == 1:
        return Number(tokens, evaluate((Token("var", spoken[0].text),)))
    if text in NUMERALS:
        return Number(tokens, rational(NUMERALS[text]))
    if _is_number_in_words(text.split()):
        raise Unreadable("a number in words")  # as a gold it is unknown, not another phrase than its digits
    return _form(tokens, _MEANING.get(text, text))


def _form(tokens: Tokens, meaning: str) -> Form:
    match meaning:
        case "∅":
            return Group(tokens, (), "{}")
        case "ℝ":
            return Span(tokens, REALS)
        case "∞" | "-∞":
            return Infinite(tokens, 1 if meaning == "∞" else -1)
    return Words(tokens, meaning)


def _is_number_in_words(phrase: Sequence[str]) -> bool:
    """True for a written-out number, with a unit or without: two thirds, twenty-one dollars."""
    return phrase[0] in NUMBER_WORDS and all(word in NUMBER_WORDS or known_unit((word,)) for word in phrase)


def read_clock(tokens: Tokens) -> Form | None:
    """Read a time of day, 3 pm or 12:30 a.m.; None for anything else.

    It is a ratio of hours, minutes and seconds, with the half of the day as the unit of the last.
    """
    *digits, half = tokens
    unit = half.text.lower()
    if half.kind != "word" or unit not in CLOCK or len(digits) not in {1, 3, 5}:
        return None
    numbers, colons = digits[::2], digits[1::2]
    if any(token.kind != "num" for token in numbers) or any(token.text != ":" for token in colons):
        return None
    values = [Number((token,), rational(literal(token.text))) for token in numbers]
    if len(values) == 1:
        values.append(Number((Token("num", "0"),), rational(0)))
    values[-1] = replace(values[-1], unit=(unit,))
    return Group(tokens, tuple(values), ":")
