"""Finds a problem's answer in a text: numbers by value, expressions by tokens.

An answer counts where it stands as a whole: 24 is not in 124, 24.5, 24x, x^24 or 24/7, nor in "divide by 24". How
much more is asked depends on how common it is. An uncommon one (372, -17, 5/2, a long expression) counts wherever it
stands whole. A common number of two digits or more (a power of ten, an angle, a number of the clock or the calendar,
a plain fraction) counts where words arrive at it ("which gives 24"). One digit, a lone letter or word, and short
expressions such as n + 1 count only where they are announced ("the answer is 2"): else every "divide by 2" would fall.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from functools import lru_cache

_COMMON = {
    *(Fraction(10**n) for n in range(1, 13)),
    *map(Fraction, (12, 24, 30, 45, 52, 60, 90, 120, 135, 150, 180, 270, 360, 365, 366)),
    *(Fraction(n, d) for d in (2, 3, 4) for n in range(1, d)),
}
_NOT_PARTS = frozenset({"by", "mod", "modulo", "base"})  # words that make a parameter of the number behind them
_OPERATORS = frozenset("+-*/^_!√π")
REACH = 80  # characters around a number that are looked at
MAX_DIGITS = 300  # a longer number is compared as text

_ANNOUNCED = re.compile(
    r"(?:\b(?:answer|final (?:result|value|number)|correct (?:option|choice|value|result))\b"
    r"[^.;!?\n]{0,30}?(?:\b(?:is|are|was|be|equals?)\b|[=:])"
    r"(?: (?:simply|just|exactly|always|therefore|thus|only))?|\bboxed)\s*[(\"']?\s*$"
)
_CONDITION = re.compile(r"\b(?:if|whether|when|unless|until)\b[^.;,\n]*$")
_ARRIVED = re.compile(
    r"\b(?:gives?|giving|gets?|getting|makes?|making|obtains?|obtaining|leaves?|leaving|yields?|yielding|reach(?:es)?"
    r"|arrives? at|comes? to|results? in|totals?|total of|equals?)"
    r"(?: (?:exactly|just|simply|a|the|total|of))*\s*[(]?\s*$"
)

_LATEX = [
    (re.compile(r"\\(?:left|right|displaystyle|quad|qquad)(?![a-z])|\\[,;:! ()\[\]]|\\?[{}]|[$~]|\^?\\circ|\^?°"), ""),
    (re.compile(r"\\(?:cdot|times)(?![a-z])|[·×∗]"), "*"),
    (re.compile(r"\\pi(?![a-z])"), "π"),
    (re.compile(r"\\sqrt(?![a-z])|\bsqrt\b"), "√"),
    (re.compile(r"\\%|\bper ?cent\b"), "%"),
    (re.compile(r"[\u2212\u2013\u2010\u2011]"), "-"),
    (re.compile(r"\\([a-z]+)"), r" \1 "),
]
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|operatorname)\{([^{}]*)\}")
_UNIT_AS_TEXT = re.compile(r"^(.*\d\}*)\s*\\(?:text|mathrm)\{[^{}]*\}(?:\^\{?\d\}?)?\$?$", re.DOTALL)
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}|\\[dt]?frac(\d)(\d)")
_GROUPED = re.compile(r"(?<![\d.])\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?![\d.]*\d)")  # 1,231,200
_TOKEN = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+|\S")
_VALUE = re.compile(r"(-?)(\d+(?:\.\d+)?)(?:/(\d+))?(%?)")
_VALUE_BEFORE = re.compile(r"(?:\d|\)|(?<![^\W\d_])[^\W\d_]) ?$")  # a number, a bracket or a single letter
_UNITS = re.compile(r"(?: ?[^\W\d_]{2,}(?:\^\d)?| ?/ ?[^\W\d_]+)*")

_BELOW_TWENTY = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORTH = {w: n for n, w in enumerate(_BELOW_TWENTY)} | {w: 10 * n for n, w in enumerate(_TENS, start=2)}
_SMALL = rf"(?:(?:{'|'.join(_TENS)})(?:[- ](?:{'|'.join(_BELOW_TWENTY[1:10])}))?|{'|'.join(reversed(_BELOW_TWENTY))})"
_SPELT = re.compile(rf"\b(?!one of\b)({_SMALL})(?: (hundred)(?: (?:and )?({_SMALL}))?)?\b")


class Rarity(IntEnum):
    """How rare an answer is: the commoner, the more a text must say for it to be a leak."""

    UNCOMMON = 0  # nothing more
    COMMON = 1  # it must arrive at it
    EVERYDAY = 2  # it must announce it


@lru_cache(maxsize=256)  # one text is compared with the answers of all the problems it was learned from
def plain(text: str) -> str:
    """The text for comparing: compatibility forms and case folded, LaTeX and spelt-out numbers made plain."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = _FRACTION.sub(_slashed, _TEXT.sub(r" \1 ", text))
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    text = _GROUPED.sub(lambda m: re.sub(r"\D", "", m[0]), text)
    text = re.sub(r"√ ?\((\d+|[a-z])\)", r"√\1", text)
    return _SPELT.sub(_in_digits, text)


def leak(text: str, gold: str) -> str | None:
    """Return the words with which `text` gives away the answer `gold`; None where it does not."""
    if re.fullmatch(r"\W*(?:\\text\{)?\W*[A-Za-z]\W*", gold):
        return _letter_leak(text, re.sub(r"[^A-Za-z]", "", gold.replace("\\text", "")))
    wanted = re.sub(r"^[a-z] ?= ?", "", plain(_UNIT_AS_TEXT.sub(r"\1", gold)).strip().rstrip("."))
    words = plain(text)
    value = _value_of(wanted)
    spans = _values(words) if value is not None else _runs(words, wanted)
    for span in spans:
        if value is not None and value not in span.readings:
            continue
        rarity = _rarity(value) if value is not None else _rarity_of_tokens(wanted)
        if value is not None and len(span.readings) > 1 and "%" not in wanted:
            rarity = max(rarity, Rarity.COMMON)  # "50 %" for the answer 50 may be another fifty
        before, after = words[max(0, span.start - REACH) : span.start], words[span.end : span.end + REACH]
        if _stands_whole(before, after) and _said_enough(before, rarity):
            return f"{before[-25:]}{words[span.start : span.end]}{after[:10]}".strip()
    return None


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    end: int
    readings: tuple[Fraction, ...] = ()


def _value_of(answer: str) -> Fraction | None:
    """The number an answer is, a unit behind it left out; None where it is something else."""
    answer = answer.strip("()€£ ")
    match = _VALUE.match(answer)
    if match is None or len(match[0]) > MAX_DIGITS or not _UNITS.fullmatch(answer[match.end() :].strip()):
        return None
    return _reading(match)[0]


def _reading(match: re.Match[str]) -> tuple[Fraction, ...]:
    """The values a number in a text may have: 25 % is 1/4, and it is 25 where per cents are asked for."""
    sign, number, below, percent = match.groups()
    value = Fraction(number) * (-1 if sign else 1)
    if below and int(below):
        value /= int(below)
    return (value / 100, value) if percent else (value,)


def _values(words: str) -> Iterator[_Span]:
    for match in re.finditer(r"(?<![\w.])-?\d+(?:\.\d+)?(?:/\d+)?(?: ?%)?|\d+(?:\.\d+)?", words):
        start = match.start()
        text = match[0].replace(" ", "")
        if text.startswith("-") and _VALUE_BEFORE.search(words[max(0, start - 3) : start]):
            start, text = start + 1, text[1:]  # a difference, not a negative number
        parsed = _VALUE.fullmatch(text)
        if parsed and len(text) <= MAX_DIGITS:
            yield _Span(start, match.end(), _reading(parsed))


def _runs(words: str, wanted: str) -> Iterator[_Span]:
    """Yield the places where the tokens of `wanted` stand in a row; multiplication signs are left out on both sides."""
    sought = [token for token in _TOKEN.findall(wanted) if token != "*"]
    found = [match for match in _TOKEN.finditer(words) if match[0] != "*"]
    texts = [match[0] for match in found]
    for i in range(len(found) - len(sought) + 1 if sought else 0):
        if texts[i : i + len(sought)] == sought:
            yield _Span(found[i].start(), found[i + len(sought) - 1].end())


def _stands_whole(before: str, after: str) -> bool:
    """Tell whether the text between is no part of a larger expression, and no parameter."""
    left, right = before.rstrip(), after.lstrip()
    if left[-1:] in _OPERATORS or (before and before[-1].isalnum()) or re.search(r"\w\($", before):
        return False
    if right[:1] in _OPERATORS - {"-"} or re.match(r"-\s*[\d(]|-\s+\w", right) or re.match(r"\(|[^\W\d_]\b", after):
        return False
    last_word = re.search(r"[^\W\d_]+$", left)
    return last_word is None or last_word[0] not in _NOT_PARTS


def _said_enough(before: str, rarity: Rarity) -> bool:
    if rarity is Rarity.UNCOMMON or (_ANNOUNCED.search(before) and not _CONDITION.search(before)):
        return True
    return rarity is Rarity.COMMON and _ARRIVED.search(before) is not None


def _rarity(value: Fraction) -> Rarity:
    if abs(value) < 10 and value.denominator == 1:
        return Rarity.EVERYDAY
    return Rarity.COMMON if value in _COMMON else Rarity.UNCOMMON


def _rarity_of_tokens(wanted: str) -> Rarity:
    tokens = _TOKEN.findall(wanted)
    numbers = [Fraction(token) for token in tokens if token[0].isdigit()]
    words = [token for token in tokens if len(token) > 1 and token[0].isalpha()]
    if any(_rarity(number) is Rarity.UNCOMMON for number in numbers) or len(words) > 1:
        return Rarity.UNCOMMON
    if len(tokens) > 2 and ("√" in tokens or (len(tokens) > 4 and any(token.isalpha() for token in tokens))):
        return Rarity.UNCOMMON
    return Rarity.COMMON if len(numbers) > 1 and not any(token.isalpha() for token in tokens) else Rarity.EVERYDAY


def _letter_leak(text: str, letter: str) -> str | None:
    """A chosen option, or an answer that is one letter; case matters, for "choose a point" chooses no option."""
    announced = r"\b(?:(?:answer|option|choice|choose|select|pick)s?\b(?: is|:| =)?)"
    match = re.search(rf"{announced}\s*\$?\(?{letter}\)?\$?(?=[.,;:!?\n]|$)", text)
    return match[0] if match else None


def _slashed(match: re.Match[str]) -> str:
    above, below = (match[1], match[2]) if match[1] is not None else (match[3], match[4])
    return "/".join(part if re.fullmatch(r"\w+", part) else f"({part})" for part in (above.strip(), below.strip()))


def _in_digits(match: re.Match[str]) -> str:
    """A number in words as digits: "seventy-two" is 72, "three hundred and five" 305."""
    first, hundred, rest = match.groups()
    return str(_worth_of(first) * 100 + _worth_of(rest or "zero") if hundred else _worth_of(first))


def _worth_of(words: str) -> int:
    return sum(_WORTH[word] for word in re.split(r"[- ]", words))
