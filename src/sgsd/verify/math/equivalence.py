r"""Compare an answer text with a gold text: decided exactly, or put as a question for math-verify.

`compare` never guesses: CORRECT and INCORRECT are exact statements about the forms that `parse` recognised, and a
`Question` is what is left for the computer-algebra system, within limits, rewritten from tokens, without labels and
units.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sgsd.types import Status
from sgsd.verify.math.latex import latex_of
from sgsd.verify.math.lexer import normalise
from sgsd.verify.math.limits import MAX_TEXT, is_refused
from sgsd.verify.math.matching import Unsure, compare_forms
from sgsd.verify.math.parse import parse_answer
from sgsd.verify.math.units import words


@dataclass(frozen=True, slots=True)
class Question:
    """A comparison left to the computer-algebra system: the LaTeX of both sides."""

    answer: str
    gold: str


_CONDITIONAL = words("if when where for with unless provided whenever only")
_EDGES = " \t\r\n$"
_LONG_NUMBER = re.compile(  # one way to match each text: two neighbouring stars would make a megabyte quadratic
    r"(?P<sign>[+\-−–]?)\$?(?P<digits>[0-9]{1,3}(?:(?:,|\{,\}|\\,)[0-9]{3})+|[0-9]+)(?P<decimals>\.[0-9]+)?\$?\.?"
)


def canonical_number(text: str) -> str | None:
    """Write a plain decimal number of any length in one spelling; None for other texts.

    It stays text, because Python refuses to read integers of 4,300 digits.
    """
    match = _LONG_NUMBER.fullmatch(text.strip(_EDGES))
    if match is None:
        return None
    digits = match["digits"] if match["digits"].isdigit() else re.sub(r"[^0-9]", "", match["digits"])
    whole, decimals = digits.lstrip("0"), (match["decimals"] or "").rstrip("0").rstrip(".")
    sign = "-" if match["sign"] in {"-", "−", "–"} and (whole or decimals) else ""
    return f"{sign}{whole or '0'}{decimals}"


def is_readable(gold: str) -> bool:
    """True for a gold that can be read, as far as exact reading can tell.

    Example:
        >>> is_readable("x < 2"), is_readable("3 34")
        (True, False)
    """
    if canonical_number(gold) is not None:
        return True
    if len(gold) > MAX_TEXT:
        return any(map(str.isalnum, gold[:MAX_TEXT]))
    return bool(parse_answer(gold))


def compare(answer: str, gold: str) -> Status | Question:
    r"""Compare the text of an answer with the text of a gold, in time linear in their length.

    Args:
        answer: what stood in the box.
        gold: what it must be equal to.

    Returns:
        CORRECT or INCORRECT where that is exact, UNPARSED for a gold that cannot be read, a Question otherwise.

    Example:
        >>> compare(r"\frac12", "0.5")
        <Status.CORRECT: 'correct'>
        >>> compare("2^{n+1}", r"2 \cdot 2^n")
        Question(answer='2^{n+1}', gold='2\\cdot 2^n')
    """
    numbers = canonical_number(answer), canonical_number(gold)
    if None not in numbers:
        return Status.CORRECT if numbers[0] == numbers[1] else Status.INCORRECT
    has_content = any(map(str.isalnum, gold))
    if has_content and answer.strip() == gold.strip():
        return Status.CORRECT
    if len(gold) > MAX_TEXT and numbers[1] is None:
        return Status.UNPARSED
    if max(len(answer), len(gold)) > MAX_TEXT:
        return Status.INCORRECT if is_readable(gold) else Status.UNPARSED
    if has_content and normalise(answer) == normalise(gold):
        return Status.CORRECT
    return _compare_parsed(answer, gold)


def _compare_parsed(answer: str, gold: str) -> Status | Question:
    golds = parse_answer(gold)
    if not golds:
        return Status.UNPARSED
    decisions = [compare_forms(a, g) for g in golds for a in parse_answer(answer)]
    if Status.CORRECT in decisions:
        return Status.CORRECT
    unsure = next((decision for decision in decisions if isinstance(decision, Unsure)), None)
    if unsure is None:
        return Status.UNKNOWN if Status.UNKNOWN in decisions else Status.INCORRECT
    if is_refused(unsure.gold):
        return Status.UNPARSED
    if is_refused(unsure.answer):
        return Status.UNKNOWN  # what is not computed is not wrong
    if any(token.kind == "word" and token.text.lower() in _CONDITIONAL for token in (*unsure.answer, *unsure.gold)):
        return Status.UNKNOWN  # the system would pass over "if n is even"
    return Question(latex_of(unsure.answer), latex_of(unsure.gold))
