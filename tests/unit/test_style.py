"""Which tokens are style: marks, and function words that stand by themselves."""

from __future__ import annotations

from typing import Any

import pytest

from sgsd.records.style import WORDS, StyleTokens


class Pieces:
    """Decodes as a tokenizer does that marks the beginning of a word and drops the mark of the first."""

    def decode(self, token_ids: list[str]) -> str:
        return "".join(token_ids).replace("▁", " ").removeprefix(" ")


def style(text: str) -> list[bool]:
    """Of the tokens of a text, which are divided by strokes."""
    judge: Any = StyleTokens(Pieces())
    return judge(text.split("|"))


@pytest.mark.parametrize(
    "text", ["▁is", "So", "▁The", "\n", ",▁", "**", "-▁", "\nthen", "▁let's", "”", "```", "▁▁", "so|,|▁then|:▁"]
)
def test_what_formats_or_connects_is_style(text: str) -> None:
    assert all(style(text))


@pytest.mark.parametrize("text", ["15", "=", "-", "▁-", "*", "(", "\\", "a", "▁a", "▁i", "▁sum", "$", "\ufffd"])
def test_what_says_something_is_content(text: str) -> None:
    assert not any(style(text))


def test_a_word_is_style_by_itself_and_content_as_a_piece_of_another() -> None:
    for word in sorted(WORDS):
        assert style(f"the|▁{word}|▁sum") == [True, True, False], word
        assert style(f"(|{word}|)") == [False, True, False], word
        assert style(f"▁compar|{word}|▁1") == [False] * 3, word
        assert style(f"1|▁{word}|finite") == [False] * 3, word
        assert style(f"▁x|{word}|yz") == [False] * 3, word


def test_a_text_of_nothing() -> None:
    assert StyleTokens(Pieces())([]) == []


def test_in_the_lab_s_pieces(lab_tokenizer: Any) -> None:
    ids = lab_tokenizer("so the comparison is 12, then 3", add_special_tokens=False)["input_ids"]
    pieces = [lab_tokenizer.decode([token]) for token in ids]
    found = [piece.strip() for piece, is_style in zip(pieces, StyleTokens(lab_tokenizer)(ids)) if is_style]
    assert [piece for piece in found if piece.isalpha()] == ["so", "the", "then"]
    assert "on" in pieces  # the end of "comparison"
