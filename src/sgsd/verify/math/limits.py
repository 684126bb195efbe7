"""Limits on what reaches the computer-algebra system.

The system evaluates eagerly: one short tower or nested factorial would fill the memory before any time-out. The
worker is killed on time-out all the same; the limits keep such answers from costing that time.
"""

from __future__ import annotations

from collections.abc import Iterator

from sgsd.verify.math.brackets import CLOSES, OPENS, closing, depth_of, opening
from sgsd.verify.math.expressions import MAX_DIGITS
from sgsd.verify.math.lexer import Token, Tokens

MAX_TEXT = 2_000  # characters of an answer that is not one long number
_MAX_TOKENS = 400
_MAX_DEPTH = 20
_MAX_EXPONENT = 10_000
_MAX_POWER_DIGITS = 20_000  # digits of the base times the exponent
_MAX_EXPANSION = 64  # exponent of a bracket
_MAX_COUNT = 1_000  # of factorials, binomials, and the ends of sums and products
_COUNTING = frozenset({"binom", "sum", "prod", "Gamma", "int", "bigcup", "iint", "choose"})
_DEFINITIONS = frozenset({"begin", "end", "def", "newcommand", "input", "include", "let", "catcode", "csname"})


def is_refused(tokens: Tokens) -> bool:
    """True for a token sequence that must not be given to the computer-algebra system."""
    depth = depth_of(tokens)
    return (
        len(tokens) > _MAX_TOKENS
        or depth is None
        or depth > _MAX_DEPTH
        or any(map(_is_outside, tokens))
        or _has_large_power(tokens)
        or _has_large_count(tokens)
    )


def _is_outside(token: Token) -> bool:
    """True for too many digits, an environment or a definition, and a sign that LaTeX does not know."""
    match token.kind:
        case "num":
            return len(token.text) > MAX_DIGITS
        case "cmd":
            return token.text in _DEFINITIONS
        case "op":
            return not token.text.isascii() and token.text != "°"
    return False


def _has_large_power(tokens: Tokens) -> bool:
    carets = [at for at, token in enumerate(tokens[:-1]) if token.text == "^" and at]
    return any(_is_large_power(tokens, at) for at in carets)


def _is_large_power(tokens: Tokens, caret: int) -> bool:
    start = opening(tokens, caret - 1)
    base, exponent = tokens[start:caret], _operand(tokens, caret + 1)
    if _is_tower(exponent, tokens[caret + 1 + len(exponent) :]):
        return True
    largest = max(_numbers(exponent), default=0)
    digits = max((len(t.text) for t in base if t.kind == "num"), default=1)
    # (x + y)^{500} would be expanded, but the {k=1} of \sum_{k=1}^{100} is a subscript
    is_bracket = tokens[caret - 1].text in CLOSES and (start == 0 or tokens[start - 1].text != "_")
    limit = _MAX_EXPANSION if is_bracket else _MAX_EXPONENT
    return largest > limit or largest * digits > _MAX_POWER_DIGITS


def _is_tower(exponent: Tokens, after: Tokens) -> bool:
    """True for numbers that stand on numbers: 9^{9^9}, 9^9^9, 2^{9!}; but not e^{-x^2} or 2^{2^n}."""
    if not any(t.kind == "num" for t in exponent):
        return False
    if any(t.text == "!" for t in exponent) or (after and after[0].text == "^"):
        return True
    return any(
        exponent[k].text == "^"
        and (exponent[k - 1].kind == "num" or exponent[k - 1].text in CLOSES)
        and any(t.kind == "num" for t in _operand(exponent, k + 1))
        for k in range(1, len(exponent) - 1)
    )


def _operand(tokens: Tokens, start: int) -> Tokens:
    """The operand of an operator at `start - 1`: a bracket or one token, with its signs."""
    first = start
    while start < len(tokens) - 1 and tokens[start].text in {"+", "-"}:
        start += 1
    end = closing(tokens, start) if tokens[start].text in OPENS else start
    return tokens[first : end + 1]


def _has_large_count(tokens: Tokens) -> bool:
    if any(number > _MAX_COUNT for number in _numbers(tokens)):
        return any(token.text == "!" or (token.kind == "cmd" and token.text in _COUNTING) for token in tokens)
    marks = [at for at, token in enumerate(tokens) if token.text == "!" and at and tokens[at - 1].kind == "op"]
    return any(_is_large_factorial(tokens, at) for at in marks)


def _is_large_factorial(tokens: Tokens, mark: int) -> bool:
    """True for 9!! or a factorial of nothing, and for one of a bracket with more than sums in it: (9!)!."""
    counted = tokens[opening(tokens, mark - 1) : mark]
    return tokens[mark - 1].text not in CLOSES or any(t.text in {"!", "^", "*"} or t.kind == "cmd" for t in counted)


def _numbers(tokens: Tokens) -> Iterator[float]:
    for token in tokens:
        if token.kind == "num":
            mantissa, _, exponent = token.text.partition("e")
            yield float("inf") if len(mantissa) > 300 or len(exponent) > 3 else float(token.text)
