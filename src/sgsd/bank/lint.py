"""Hygiene of a bank: items that give an answer away, speak to the model, point to one problem, or repeat each other.

The checks are rules over words and numbers, not a judge. They find what is written plainly and in English; a leak in a
paraphrase, an attack in another language or spelt with gaps goes through. Only what an item says is read, not its
`meta`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from sgsd.bank.dedup import near_duplicates
from sgsd.bank.leaks import leak
from sgsd.bank.retrieval.base import item_text
from sgsd.bank.schema import item_fields
from sgsd.bank.skill_bank import Bank
from sgsd.bank.text import check_prose, quoted
from sgsd.types import BankItem


class Severity(StrEnum):
    """Severity of a finding: an item with REFUSE may not stand in a bank."""

    REFUSE = "refuse"
    WARN = "warn"


class Flaw(StrEnum):
    """Kinds of flaws; each value completes the sentence "the item …"."""

    ANSWER = "gives away the reference answer"
    STATED = "states an answer"
    INJECTION = "speaks to the model"
    CONTROL = "holds characters that are no prose"
    LONG_NUMBER = "holds a long number"
    POINTING = "points to one problem or its reference"
    REPETITION = "repeats another item"

    @property
    def severity(self) -> Severity:
        refused = self in (Flaw.ANSWER, Flaw.STATED, Flaw.INJECTION, Flaw.CONTROL)
        return Severity.REFUSE if refused else Severity.WARN


@dataclass(frozen=True, slots=True)
class Finding:
    """One flaw of one item: the field it is in (all of them: "item") and the words that show it."""

    item: str
    field: str
    kind: Flaw
    excerpt: str

    @property
    def severity(self) -> Severity:
        return self.kind.severity


_INJECTION = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\b[^.;!?\n]{0,40}?\b(?:instruction|prompt|guideline)s?\b"
    r"|\b(?:ignore|disregard|forget|override)\b[^.;!?\n]{0,20}?\b(?:previous|prior|preceding|system|your)"
    r" (?:rule|direction|message|command|context)s?\b"
    r"|\bforget (?:everything|all) (?:you|above|before)\b"
    r"|\byou are now (?:an? (?!step|few|little)|no longer\b|called\b|the (?:user|assistant|system|model)\b)"
    r"|\bfrom now on,? you (?:must|will|shall|are|always|only)\b"
    r"|\b(?:as|you are) an? (?:ai|artificial intelligence|large language model|language model|chatbot|assistant)\b"
    r"|\bpretend (?:that )?you(?:'re| are)\b|\bact as (?:if you|an? (?:ai|assistant|expert))\b"
    r"|\b(?:system|developer|hidden|initial|your) (?:prompt|instructions|guidelines)\b|\bsystem message\b"
    r"|\b(?:developer|debug|god) mode\b|\bjailbreak\b"
    r"|\b(?:output|respond|reply|print|say)(?: with)? (?:only|nothing but)(?: with)? (?:the|a|one|\"|')(?! values?)"
    r"|\banswer only with\b|\balways (?:respond|reply)\b|\balways (?:answer|output|print|say) (?:with\b|\d|[\"'(])"
    r"|(?<!to )\breveal (?:the |your |all |any )*(?:hidden |secret |reference |gold )*"
    r"(?:prompt|instructions?|answers?|password|api key|credentials)\b"
    r"|\b(?:do not|don't) (?:show|give|write|include) (?:any|your) (?:reasoning|work|steps|explanation)\b"
    r"|^[\s#*>-]*(?:system|user|assistant|developer)\s*\**:"
    r"|^\s*#+\s*(?:instruction|response|system|human|assistant|user)s?\b"
    r"|https?://|\bwww\.\w|\b(?:mailto|javascript):\w|\b[\w.+-]+@[\w-]+\.[a-z]{2,}\b",
    re.MULTILINE,
)
_STATED = re.compile(
    r"\b(?:answer|final (?:result|value|number)|correct (?:option|choice|value))\s*(?:here |is|was|=|:|equals|must be"
    r"|should be|will be|comes to)\s*(?:simply |just |exactly |always |therefore )?\$?"
    r"(?:\\?\(?[a-e]\)|(?:-?\d+(?:[.,/]\d+)*|\\d?frac\{\d+\}\{\d+\})(?=\s*(?:[.,;:!?)$\n]|$)))"
    r"|\\boxed\s*\{[^{}]*\d"
)
_CONDITION = re.compile(r"\b(?:if|whether|when|unless)\b[^.;,\n]*$")
_POINTING = re.compile(
    r"\b(?:reference|gold|ground[- ]truth|official|model) (?:answer|solution)s?\b|\banswer key\b"
    r"|\b(?:in|for|of) this (?:problem|question|exercise)\b"
    r"|\bthis (?:problem|question|exercise) (?:asks|wants|gives|is|was)\b"
)
_LONG_NUMBER = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?![\d,])|\d{5,}")
_POWER_OF_TEN = re.compile(r"10*")


def lint_item(item: BankItem, *, gold: str | None = None) -> list[Finding]:
    """List one item's flaws, the gravest first; leaks of the answer `gold` are seen where it is known."""
    found = [
        Finding(item.id, field, kind, quoted(" ".join(excerpt.split())))
        for field, text in item_fields(item).items()
        for kind, excerpt in _flaws(text, gold)
    ]
    return sorted(found, key=lambda finding: finding.severity is Severity.WARN)


def lint_bank(bank: Bank) -> list[Finding]:
    """List the flaws of a bank's items in their order, and which of them repeat an earlier one."""
    repeats = dict(near_duplicates([item_text(item) for item in bank.items]))
    found: list[Finding] = []
    for position, item in enumerate(bank.items):
        found += dict.fromkeys(lint_item(item))
        if position in repeats:
            found.append(Finding(item.id, "item", Flaw.REPETITION, bank.items[repeats[position]].id))
    return found


def refusal_reason(item: BankItem, gold: str | None = None) -> str | None:
    """Return the first reason to refuse an item, as a line that can be counted; None where there is none."""
    first = next((f for f in lint_item(item, gold=gold) if f.severity is Severity.REFUSE), None)
    return f"{first.kind}, in its {first.field}" if first else None


def _flaws(text: str, gold: str | None) -> Iterator[tuple[Flaw, str]]:
    """Yield the flaws that one field shows by itself, or against the answer."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    try:
        check_prose(text, len(text))
    except ValueError as error:
        yield Flaw.CONTROL, str(error)
    if gold and gold.strip() and (place := leak(text, gold)):
        yield Flaw.ANSWER, place
    for match in _INJECTION.finditer(folded):
        yield Flaw.INJECTION, match[0]
    for match in _STATED.finditer(folded):
        if not _CONDITION.search(folded[: match.start()]):
            yield Flaw.STATED, match[0]
    for match in _POINTING.finditer(folded):
        yield Flaw.POINTING, match[0]
    for match in _LONG_NUMBER.finditer(folded):
        digits = match[0].replace(",", "")
        if len(digits) > 4 and not _POWER_OF_TEN.fullmatch(digits):
            yield Flaw.LONG_NUMBER, match[0]
