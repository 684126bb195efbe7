"""What never reaches the computer-algebra system, and how what does reach it is written.

The system evaluates eagerly: one short tower or nested factorial would fill the memory before any time-out. The
worker is killed on time-out all the same; the guards keep such answers from costing that time.
"""

from __future__ import annotations

from collections.abc import Iterator

from sgsd.verify.math.brackets import CLOSES, OPENS, closing, depth_of
from sgsd.verify.math.expressions import MAX_DIGITS
from sgsd.verify.math.lexer import Tokens

MAX_TEXT = 2_000  # characters of an answer that is not one long number
_MAX_TOKENS = 400
_MAX_DEPTH = 20
_MAX_EXPONENT = 10_000
_MAX_POWER_DIGITS = 20_000  # digits of the base times the exponent
_MAX_EXPANSION = 64  # exponent of a bracket
_MAX_COUNT = 1_000  # of factorials, binomials, and the ends of sums and products
_COUNTING = frozenset({"binom", "sum", "prod", "Gamma", "int", "bigcup", "iint", "choose"})
_DEFINITIONS = frozenset({"begin", "end", "def", "newcommand", "input", "include", "let", "catcode", "csname"})


def refusal(tokens: Tokens) -> str | None:
    """Why a token sequence must not be given to the computer-algebra system; None where it may."""
    if len(tokens) > _MAX_TOKENS:
        return "too long"
    depth = depth_of(tokens)
    if depth is None or depth > _MAX_DEPTH:
        return "nested too deeply"
    if any(token.kind == "num" and len(token.text) > MAX_DIGITS for token in tokens):
        return "too many digits"
    if any(token.kind == "cmd" and token.text in _DEFINITIONS for token in tokens):
        return "an environment or a definition"
    if any(token.kind == "op" and not token.text.isascii() and token.text != "°" for token in tokens):
        return "an unknown sign"
    if _has_large_power(tokens):
        return "a power beyond the limit"
    if _has_large_count(tokens):
        return "a factorial, binomial or sum beyond the limit"
    return None


def _has_large_power(tokens: Tokens) -> bool:
    for at, token in enumerate(tokens[:-1]):
        if token.kind != "op" or token.text != "^" or at == 0:
            continue
        base, exponent = tokens[_opening(tokens, at - 1) : at], _operand(tokens, at + 1)
        after = tokens[at + 1 + len(exponent) : at + 2 + len(exponent)]
        if _is_tower(exponent, after):
            return True
        largest = max(_numbers(exponent), default=0)
        digits = max((len(t.text) for t in base if t.kind == "num"), default=1)
        if largest > _MAX_EXPONENT or largest * digits > _MAX_POWER_DIGITS:
            return True
        if largest > _MAX_EXPANSION and _is_bracket(tokens, at - 1):
            return True  # (x + y)^{500} would be expanded
    return False


def _is_tower(exponent: Tokens, after: Tokens) -> bool:
    """Whether numbers stand on numbers: 9^{9^9}, 9^9^9, 2^{9!}; but not e^{-x^2} or 2^{2^n}."""
    if not any(t.kind == "num" for t in exponent):
        return False
    if any(t.text == "!" for t in exponent) or any(t.text == "^" for t in after):
        return True
    for k in range(1, len(exponent) - 1):
        stands_on_number = exponent[k - 1].kind == "num" or exponent[k - 1].text in CLOSES
        if exponent[k].text == "^" and stands_on_number and any(t.kind == "num" for t in _operand(exponent, k + 1)):
            return True
    return False


def _is_bracket(tokens: Tokens, end: int) -> bool:
    r"""Whether a bracket that is no subscript ends here: not the {k=1} of \sum_{k=1}^{100}."""
    if tokens[end].text not in CLOSES:
        return False
    start = _opening(tokens, end)
    return start == 0 or tokens[start - 1].text != "_"


def _operand(tokens: Tokens, start: int) -> Tokens:
    """What an operator at `start - 1` applies to: a bracket or one token, with its signs."""
    first = start
    while start < len(tokens) - 1 and tokens[start].text in {"+", "-"}:
        start += 1
    end = closing(tokens, start) if tokens[start].text in OPENS else start
    return tokens[first : end + 1]


def _has_large_count(tokens: Tokens) -> bool:
    if any(number > _MAX_COUNT for number in _numbers(tokens)):
        return any(token.text == "!" or (token.kind == "cmd" and token.text in _COUNTING) for token in tokens)
    for at, token in enumerate(tokens):
        if token.text == "!" and at and tokens[at - 1].kind == "op":
            if tokens[at - 1].text not in CLOSES:
                return True  # 9!!, or nothing to count
            start = _opening(tokens, at - 1)
            if any(t.text in {"!", "^", "*"} or t.kind == "cmd" for t in tokens[start:at]):
                return True
    return False


def _opening(tokens: Tokens, end: int) -> int:
    """Where what ends at `end` begins: the opening bracket, or `end` itself."""
    depth = 0
    for at in range(end, -1, -1):
        depth += (tokens[at].text in CLOSES) - (tokens[at].text in OPENS)
        if depth == 0:
            return at
    return 0


def _numbers(tokens: Tokens) -> Iterator[float]:
    for token in tokens:
        if token.kind == "num":
            mantissa, _, exponent = token.text.partition("e")
            yield float("inf") if len(mantissa) > 300 or len(exponent) > 3 else float(token.text)
