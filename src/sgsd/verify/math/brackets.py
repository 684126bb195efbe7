"""Brackets and places in a token sequence: how deep, where it closes, where to cut. No meaning yet."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

from sgsd.verify.math.expressions import GREEK
from sgsd.verify.math.lexer import Tokens

OPENS = frozenset({"(", "[", "{", "\\{", "[["})
CLOSES = frozenset({")", "]", "}", "\\}", "]]"})


def depths(tokens: Tokens) -> list[int]:
    """The number of brackets that are open after each token; [ and ) match."""
    return list(accumulate((token.text in OPENS) - (token.text in CLOSES) for token in tokens))


def depth_of(tokens: Tokens) -> int | None:
    """The depth to which brackets nest; None if they do not balance."""
    found = depths(tokens)
    return None if found and (min(found) < 0 or found[-1]) else max(found, default=0)


def closing(tokens: Tokens, start: int) -> int:
    """The place where the bracket at `start` closes; −1 if it does not."""
    return next((start + k for k, depth in enumerate(depths(tokens[start:])) if not depth), -1)


def opening(tokens: Tokens, end: int) -> int:
    """The place where what ends at `end` begins: its opening bracket, or `end` itself."""
    found = depths(tokens[end::-1])
    return end - found.index(0) if 0 in found else 0


def split(tokens: Tokens, separators: Iterable[str]) -> tuple[list[Tokens], list[str]]:
    """Cut at separators outside brackets: the parts, and the separators between them."""
    wanted = frozenset(separators)
    cuts = [
        at
        for at, (token, depth) in enumerate(zip(tokens, depths(tokens)))
        if not depth and token.kind in {"op", "cmd"} and token.text in wanted
    ]
    parts = [tokens[start + 1 : end] for start, end in zip([-1, *cuts], [*cuts, len(tokens)])]
    return parts, [tokens[cut].text for cut in cuts]


def is_name(tokens: Tokens) -> bool:
    """True for one variable, a subscript allowed."""
    if not tokens or not (tokens[0].kind == "var" or tokens[0].text in GREEK):
        return False
    return len(tokens) == 1 or (tokens[1].text == "_" and closing(tokens, 2) == len(tokens) - 1)


def bare_label(tokens: Tokens) -> Tokens:
    r"""Take scripts and arguments off a left side: f(2) → f, x_1^2 → x, P(A \cap B) → P."""
    kept: list[int] = []
    at = 0
    while at < len(tokens):
        if tokens[at].text in {"_", "^"}:
            at = closing(tokens, at + 1) + 1 if at + 1 < len(tokens) else at + 1
        elif tokens[at].text == "(" and kept and tokens[at - 1].kind != "op":
            at = closing(tokens, at) + 1
        elif tokens[at].text == "'":
            at += 1
        else:
            kept.append(at)
            at += 1
    return tuple(tokens[k] for k in kept)


def is_label(tokens: Tokens) -> bool:
    r"""True for a side that may name the value on the other: x, f(2), a+b, \angle ABC, but not 2x or 1."""
    bare = bare_label(tokens)
    return any(token.kind != "op" for token in bare) and all(token.kind != "num" for token in bare)


def is_simple_label(tokens: Tokens) -> bool:
    """True for a label without arithmetic in it: x, f(2), AB, Area, (x, y)."""
    inner = tokens[1:-1] if tokens and tokens[0].text == "(" else tokens
    return is_label(inner) and all(t.kind != "op" or t.text in {",", "|", "{", "}"} for t in bare_label(inner))
