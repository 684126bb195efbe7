"""Factors of the whole numbers that stand under roots and in logarithms."""

from __future__ import annotations

import math

from sgsd.verify.errors import Undecided

_TRIAL_LIMIT = 10_000
_MAX_BITS = 256


def factorise(number: int, degree: int) -> tuple[dict[str, int], int]:
    """Prime factors of a radicand and, where the rest is a perfect square under a square root, its root."""
    if number.bit_length() > _MAX_BITS:
        raise Undecided("a radicand beyond the limit")
    primes: dict[str, int] = {}
    candidate = 2
    while candidate * candidate <= number and candidate < _TRIAL_LIMIT:
        while number % candidate == 0:
            primes[str(candidate)] = primes.get(str(candidate), 0) + 1
            number //= candidate
        candidate += 1 if candidate == 2 else 2
    if number == 1:
        return primes, 1
    if candidate * candidate > number:
        primes[str(number)] = primes.get(str(number), 0) + 1
        return primes, 1
    side = math.isqrt(number)
    if degree == 2 and side * side == number:
        return primes, side
    raise Undecided("a radicand that is not factored quickly")
