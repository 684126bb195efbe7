"""Answers in words: which phrases mean the same, and numbers that are written out."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from sgsd.verify.algebra import rational
from sgsd.verify.expressions import evaluate, literal
from sgsd.verify.forms import Form, Group, Infinite, Number, Span, Tokens, Words
from sgsd.verify.lexer import Token
from sgsd.verify.ranges import REALS
from sgsd.verify.units import CLOCK, NUMERALS, PARTS, SCALES, TENS

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


def with_digits(tokens: Tokens) -> Tokens:
    """Tokens whose leading number words are digits: twenty-one dollars → 21 dollars, two thirds → 2/3."""
    end = 0
    while end < len(tokens) and _is_numeral(tokens, end):
        end += 1
    found = ((length, _number(tokens[:length])) for length in range(end, 0, -1))
    length, value = next(((length, value) for length, value in found if value is not None), (0, Fraction(0)))
    if not length:
        return tokens
    top, bottom = Token("num", str(abs(value.numerator))), Token("num", str(value.denominator))
    sign = (Token("op", "-"),) if value < 0 else ()
    fraction = (Token("op", "/"), bottom) if value.denominator > 1 else ()
    return (*sign, top, *fraction, *tokens[length:])


def _is_numeral(tokens: Tokens, at: int) -> bool:
    token = tokens[at]
    if token.kind == "op":
        return 0 < at < len(tokens) - 1 and token.text in {"-", "and"}
    if token.kind != "word":
        return False
    word = token.text.lower()
    return word in NUMERALS or word in TENS or word in SCALES or word in PARTS or (at == 0 and word in _SIGNS)


def _number(tokens: Tokens) -> Fraction | None:
    """The value of number words, by the grammar of English numerals; None where they do not fit together."""
    said = [token.text.lower() for token in tokens]
    if said[0] in _SIGNS:
        value = _number(tokens[1:]) if len(tokens) > 1 else None
        return None if value is None else -value
    if said[-1] in {"and", "-"}:
        return None
    if said[-1] in PARTS:
        if len(said) == 1:  # "third" alone is an ordinal
            return Fraction(1, PARTS[said[0]]) if said[0] in {"half", "quarter"} else None
        count = _number(tokens[: -2 if said[-2] == "-" else -1])
        return None if count is None or count.denominator > 1 else count / PARTS[said[-1]]
    return _whole([word for word in said if word not in {"and", "-"}])


def _whole(said: list[str]) -> Fraction | None:
    total = group = 0
    room = 1_000  # what may still be added to this group of three digits
    scale_room = 10**15
    for word in said:
        if word in NUMERALS and NUMERALS[word] < room:
            group += NUMERALS[word]
            room = 0
        elif word in TENS and TENS[word] < room:
            group += TENS[word]
            room = 10
        elif word == "hundred" and 0 < group < 100:
            group *= 100
            room = 100
        elif word in SCALES and word != "hundred" and group and SCALES[word] < scale_room:
            total += group * SCALES[word]
            group, room, scale_room = 0, 1_000, SCALES[word]
        else:
            return None
    return Fraction(total + group)


_SIGNS = frozenset({"minus", "negative"})
