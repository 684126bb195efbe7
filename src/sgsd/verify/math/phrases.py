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

# fmt: off
_NO_VALUE = frozenset({"no solution", "no solutions", "no real solution", "no real solutions", "empty set", "empty",
                       "the empty set", "no real roots", "no roots", "null set", "no real values", "no values"})
_EVERYTHING = frozenset({"all real numbers", "all reals", "all real", "all real values", "real numbers",
                         "all real x", "the real numbers", "the set of real numbers", "any real number"})
_INFINITE = {"infinity": 1, "positive infinity": 1, "negative infinity": -1, "minus infinity": -1}
_SAME = {
    "undefined": frozenset({"undefined", "does not exist", "dne", "not defined", "the limit does not exist"}),
    "infinitely many": frozenset({"infinitely many solutions", "infinite solutions", "infinite", "infinite number",
                                  "infinite number of solutions", "an infinite number of solutions",
                                  "an infinite number", "there are infinitely many", "infinitely many"}),
}
# fmt: on
_SAME_PHRASE = {phrase: meaning for meaning, phrases in _SAME.items() for phrase in phrases}


def read_words(tokens: Tokens) -> Form | None:
    """A form of an answer that is words alone; None where it is not."""
    if len(tokens) == 1 and tokens[0] == Token("cmd", "emptyset"):
        return Group(tokens, (), "{}")
    if len(tokens) == 1 and tokens[0] == Token("cmd", "reals"):
        return Span(tokens, REALS)
    spoken = tuple(token for token in tokens if token != Token("op", "-"))  # two-digit, non-negative
    if any(token.kind not in {"word", "var"} for token in spoken) or all(token.kind == "var" for token in spoken):
        return None
    text = " ".join(token.text.lower() for token in spoken)
    if len(text) == 1:
        return Number(tokens, evaluate((Token("var", spoken[0].text),)))
    if text in _NO_VALUE:
        return Group(tokens, (), "{}")
    if text in _EVERYTHING:
        return Span(tokens, REALS)
    if text in _INFINITE:
        return Infinite(tokens, _INFINITE[text])
    if text in NUMERALS:
        return Number(tokens, rational(NUMERALS[text]))
    if _is_number_in_words(text.split()):
        raise Unreadable("a number in words")  # as a gold it is unknown, not another phrase than its digits
    return Words(tokens, _SAME_PHRASE.get(text, text))


def read_clock(tokens: Tokens) -> Form | None:
    """A time of day, 3 pm or 12:30 a.m.: hours, minutes and seconds, the half of the day as the unit of the last."""
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


def _is_number_in_words(said: Sequence[str]) -> bool:
    """Whether a phrase is a written-out number, with a unit or without: two thirds, twenty-one dollars."""
    return said[0] in NUMBER_WORDS and all(word in NUMBER_WORDS or known_unit((word,)) for word in said)
