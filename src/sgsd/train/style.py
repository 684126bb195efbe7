"""Style tokens: pieces of text that format or connect and carry no content.

A token is one by its text alone, wherever it stands: white space, marks that punctuate or format, bullets, and the
function words below. Digits, operators, brackets, backslashes and letters that may be a variable ("a", "i") are
content, and so is every piece of a word. The rule is rough on purpose: it needs no model, gives the same answer for
every tokenizer that has the piece, and what is watched is a share over thousands of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MARKS = frozenset(',.;:?"“”…—–•#`')
BULLETS = frozenset({"-", "*"})  # before white space; alone they are signs of arithmetic
RULES = frozenset({"**", "---", "***"})
_WORDS = (
    "so then thus hence therefore thereby now next first second finally lastly also and but or nor yet because since as"
    " that this these those which there here it its is are was be we us our you your the an of to in on at by for from"
    " with if when while let lets let's okay ok well alright right wait hmm hm oh ah actually however maybe perhaps"
    " again just still indeed anyway alternatively"
)
WORDS = frozenset(_WORDS.split())


def is_style(text: str) -> bool:
    """Whether a token's text only formats or connects."""
    bare = text.strip().lower()
    if bare in BULLETS:
        return text[-1].isspace()
    return set(bare) <= MARKS or bare in RULES or bare in WORDS


class StyleTokens:
    """Says which tokens are style; each is decoded once."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.known: dict[int, bool] = {}

    def __call__(self, token_ids: Sequence[int]) -> list[bool]:
        for token in set(token_ids) - self.known.keys():
            self.known[token] = is_style(self.tokenizer.decode([token]))
        return [self.known[token] for token in token_ids]
