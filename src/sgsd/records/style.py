"""Style tokens: pieces of text that format or connect and carry no content.

White space, marks that punctuate or format, bullets, and the function words below. Digits, operators, brackets,
backslashes and letters that may be a variable ("a", "i") are content, and so is every piece of a longer word
(compar|is|on, in|finite). The rule is rough on purpose: it needs no model, gives the same answer for every tokenizer
that has the pieces, and what is watched is a share over thousands of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Piece:
    """The properties of a token that decide whether it is style."""

    style: bool  # it only formats or connects, if it stands by itself
    opens: bool  # its first and its last character are letters, so that
    closes: bool  # neighbours may be of the same word

    @classmethod
    def of(cls, text: str) -> Piece:
        bare = text.strip().lower()
        style = text[-1].isspace() if bare in BULLETS else set(bare) <= MARKS or bare in RULES or bare in WORDS
        return cls(style, text[:1].isalpha(), text[-1:].isalpha())


NOTHING = Piece(False, False, False)


class StyleTokens:
    """Says which tokens of a text are style; each is decoded once."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.known: dict[int, Piece] = {}

    def __call__(self, token_ids: Sequence[int]) -> list[bool]:
        for token in set(token_ids) - self.known.keys():
            # Some tokenizers show the space before a word only where something stands before it.
            alone, twice = self.tokenizer.decode([token]), self.tokenizer.decode([token, token])
            self.known[token] = Piece.of(twice.removeprefix(alone))
        pieces = [self.known[token] for token in token_ids]
        return [
            piece.style and not ((before.closes and piece.opens) or (piece.closes and after.opens))
            for before, piece, after in zip([NOTHING, *pieces], pieces, [*pieces[1:], NOTHING])
        ]
