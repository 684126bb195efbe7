"""Bank content as terminal text: it is somebody else's, and must not colour, move or clear the reader's terminal."""

from __future__ import annotations

from rich.text import Text

from sgsd.bank import Bank, item_texts, terminal_safe
from sgsd.types import BankItem


def plain(text: str) -> Text:
    """Return text that knows no markup, unprintable characters spelt out."""
    return Text(terminal_safe(text))


def summary(bank: Bank) -> str:
    return f"{len(bank.skills)} skills, {len(bank.mistakes)} mistakes, version {bank.version[:12]}"


def headline(item: BankItem) -> str:
    """Return the title of a skill, or the description of a mistake, on one line."""
    return " ".join(item_texts(item)[0].split())


def counted(number: int, noun: str) -> str:
    """Return the number with its noun, in the plural where it takes one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
