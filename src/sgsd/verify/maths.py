r"""Whether an answer text and a gold text say the same: decided exactly, or put as a question for math-verify.

`judge` never guesses: EQUAL and DIFFERENT are exact statements about the forms that `reading` recognised, and `Ask`
is what is left for the computer-algebra system, guarded, rewritten from tokens, without labels and units.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sgsd.verify.guards import MAX_TEXT, latex_of, refusal
from sgsd.verify.lexer import normalise
from sgsd.verify.matching import Ruling, Unsure, decide
from sgsd.verify.reading import readings

__all__ = ["Ask", "Ruling", "canonical_number", "judge", "normalise", "readable"]


@dataclass(frozen=True, slots=True)
class Ask:
    """Not decided here: the LaTeX of both sides for the computer-algebra system."""

    answer: str
    gold: str


_EDGES = " \t\r\n$"
_LONG_NUMBER = re.compile(  # one way to match each text: two neighbouring stars would make a megabyte quadratic
    r"(?P<sign>[+\-−–]?)\$?(?P<digits>[0-9]{1,3}(?:(?:,|\{,\}|\\,)[0-9]{3})+|[0-9]+)(?P<decimals>\.[0-9]+)?\$?\.?"
)


def canonical_number(text: str) -> str | None:
    """A plain decimal number of any length in one spelling, as text: Python refuses integers of 4,300 digits."""
    match = _LONG_NUMBER.fullmatch(text.strip(_EDGES))
    if match is None:
        return None
    digits = match["digits"] if match["digits"].isdigit() else re.sub(r"[^0-9]", "", match["digits"])
    whole, decimals = digits.lstrip("0"), (match["decimals"] or "").rstrip("0").rstrip(".")
    sign = "-" if match["sign"] in {"-", "−", "–"} and (whole or decimals) else ""
    return f"{sign}{whole or '0'}{decimals}"


def readable(gold: str) -> bool:
    """Whether a gold can be read at all, as far as this module can tell."""
    if canonical_number(gold) is not None:
        return True
    if not any(map(str.isalnum, gold[:MAX_TEXT])):
        return bool(len(gold) <= MAX_TEXT and readings(gold))
    return len(gold) > MAX_TEXT or bool(readings(gold))


def judge(answer: str, gold: str) -> Ruling | Ask:
    """Compare the text of an answer with the text of a gold. Linear in their length; never raises."""
    numbers = canonical_number(answer), canonical_number(gold)
    if None not in numbers:
        return Ruling.EQUAL if numbers[0] == numbers[1] else Ruling.DIFFERENT
    if answer.strip() == gold.strip() and any(map(str.isalnum, gold)):
        return Ruling.EQUAL
    if len(gold) > MAX_TEXT and numbers[1] is None:
        return Ruling.GOLD_UNREADABLE
    if max(len(answer), len(gold)) > MAX_TEXT:
        return Ruling.DIFFERENT if readable(gold) else Ruling.GOLD_UNREADABLE
    return _judge_forms(answer, gold)


def _judge_forms(answer: str, gold: str) -> Ruling | Ask:
    if normalise(answer) == normalise(gold) and any(map(str.isalnum, gold)):
        return Ruling.EQUAL
    golds = readings(gold)
    if not golds:
        return Ruling.GOLD_UNREADABLE
    decisions = [decide(a, g) for g in golds for a in readings(answer)]
    if Ruling.EQUAL in decisions:
        return Ruling.EQUAL
    unsure = next((decision for decision in decisions if isinstance(decision, Unsure)), None)
    if unsure is None:
        return Ruling.DIFFERENT
    if refusal(unsure.gold):
        return Ruling.GOLD_UNREADABLE
    if refusal(unsure.answer):
        return Ruling.DIFFERENT
    return Ask(latex_of(unsure.answer), latex_of(unsure.gold))
