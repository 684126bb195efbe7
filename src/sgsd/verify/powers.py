r"""Powers too large to write out, as prime factors: 7^{7^7} is 7^{823543}, 4^{500000} is 2^{1000000}."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

from sgsd.verify.algebra import MAX_BITS, as_fraction
from sgsd.verify.errors import Undecided
from sgsd.verify.expressions import evaluate, literal
from sgsd.verify.forms import Huge, Tokens
from sgsd.verify.layout import closing
from sgsd.verify.primes import factorise

_MAX_TOKENS = 100
_MAX_DEPTH = 20


def read_huge(tokens: Tokens) -> Huge:
    """A product or quotient of powers of whole numbers by its factors; Undecided for anything else."""
    negative = tokens[0].text == "-"
    exponents = _product(tokens[1:] if negative else tokens, _MAX_DEPTH)
    return Huge(tokens, negative, tuple(sorted((prime, k) for prime, k in exponents.items() if k)))


def is_value_of(huge: Huge, number: Fraction) -> bool:
    """Whether a power is that number; most have more digits than any number that is written out here."""
    if any(abs(k) * (int(prime).bit_length() - 1) > 2 * MAX_BITS for prime, k in huge.factors):
        return False
    value = math.prod((Fraction(int(prime)) ** k for prime, k in huge.factors), start=Fraction(1))
    return number == (-value if huge.negative else value)


def _product(tokens: Tokens, depth: int) -> Counter[str]:
    if not depth or len(tokens) > _MAX_TOKENS:
        raise Undecided("too long to factor here")
    total: Counter[str] = Counter()
    at, side = 0, 1
    while at < len(tokens):
        end = _end(tokens, at)
        base = _base(tokens[at:end], depth)
        power = 1
        if tokens[end : end + 1] and tokens[end].text == "^":
            start, end = end + 1, _end_of_tower(tokens, end + 1)
            power = _whole(tokens[start:end])
        for prime, k in base.items():
            total[prime] += side * k * power
        at, side = end, 1
        if at < len(tokens) and tokens[at].text in {"*", "/"}:
            side = 1 if tokens[at].text == "*" else -1
            at += 1
            if at == len(tokens):
                raise Undecided("an operator at the end")
    return total


def _base(tokens: Tokens, depth: int) -> Counter[str]:
    if len(tokens) > 2:
        return _product(tokens[1:-1], depth - 1)
    value = literal(tokens[0].text) if tokens[0].kind == "num" else None
    if value is None or value.denominator != 1 or value < 1:
        raise Undecided("a base that is no whole number")
    primes, _ = factorise(int(value), 1)
    return Counter(primes)


def _end(tokens: Tokens, start: int) -> int:
    """Where the number or the bracket that starts at a place ends."""
    if start >= len(tokens):
        raise Undecided("it breaks off")
    end = closing(tokens, start) + 1 if tokens[start].text in {"(", "{", "["} else start + 1
    if not end:
        raise Undecided("a bracket that does not close")
    return end


def _end_of_tower(tokens: Tokens, start: int) -> int:
    """Where an exponent ends; towers associate to the right, so 2^3^4 has the exponent 3^4."""
    end = _end(tokens, start + 1 if tokens[start : start + 1] and tokens[start].text == "-" else start)
    return _end_of_tower(tokens, end + 1) if tokens[end : end + 1] and tokens[end].text == "^" else end


def _whole(tokens: Tokens) -> int:
    exponent = as_fraction(evaluate(tokens))
    if exponent is None or exponent.denominator != 1:
        raise Undecided("an exponent that is no whole number")
    return int(exponent)
