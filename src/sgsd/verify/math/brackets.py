"""Brackets and places in a token sequence: how deep, where it closes, where to cut. No meaning yet."""

from __future__ import annotations

from collections.abc import Iterable

from sgsd.verify.math.expressions import GREEK
from sgsd.verify.math.lexer import Tokens

OPENS = frozenset({"(", "[", "{", "\\{", "[["})
CLOSES = frozenset({")", "]", "}", "\\}", "]]"})


def depth_of(tokens: Tokens) -> int | None:
    """How deeply brackets nest; None where they do not balance ([1, 2) does)."""
    depth = deepest = 0
    for token in tokens:
        if token.kind != "op":
            continue
        if token.text in OPENS:
            depth += 1
            deepest = max(deepest, depth)
        elif token.text in CLOSES:
            depth -= 1
            if depth < 0:
                return None
    return deepest if depth == 0 else None


def closing(tokens: Tokens, start: int) -> int:
    """Where the bracket at `start` closes; −1 where it does not."""
    depth = 0
    for at in range(start, len(tokens)):
        if tokens[at].kind == "op":
            depth += (tokens[at].text in OPENS) - (tokens[at].text in CLOSES)
        if depth == 0:
            return at
    return -1


def split(tokens: Tokens, separators: Iterable[str]) -> tuple[list[Tokens], list[str]]:
    """Cut at separators outside brackets: the parts, and the separators between them."""
    wanted = frozenset(separators)
    parts: list[Tokens] = []
    found: list[str] = []
    depth = start = 0
    for at, token in enumerate(tokens):
        if token.kind == "op":
            depth += (token.text in OPENS) - (token.text in CLOSES)
        if depth == 0 and token.kind in {"op", "cmd"} and token.text in wanted:
            found.append(token.text)
            parts.append(tokens[start:at])
            start = at + 1
    return [*parts, tokens[start:]], found


def is_name(tokens: Tokens) -> bool:
    """One variable, a subscript allowed."""
    if not tokens or not (tokens[0].kind == "var" or tokens[0].text in GREEK):
        return False
    return len(tokens) == 1 or (tokens[1].text == "_" and closing(tokens, 2) == len(tokens) - 1)


def bare_label(tokens: Tokens) -> Tokens:
    r"""A left side without scripts and arguments: f(2) → f, x_1^2 → x, P(A \cap B) → P."""
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
    r"""Whether a side may name what the other side is worth: x, f(2), a+b, \angle ABC, but not 2x or 1."""
    bare = bare_label(tokens)
    return any(token.kind != "op" for token in bare) and all(token.kind != "num" for token in bare)


def is_simple_label(tokens: Tokens) -> bool:
    """A label without arithmetic in it: x, f(2), AB, Area, (x, y)."""
    inner = tokens[1:-1] if tokens and tokens[0].text == "(" else tokens
    return is_label(inner) and all(t.kind != "op" or t.text in {",", "|", "{", "}"} for t in bare_label(inner))
