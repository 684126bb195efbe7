"""Exact values of functions at arguments with closed forms; Undecided everywhere else."""

from __future__ import annotations

import math
from fractions import Fraction

from sgsd.verify.errors import Undecided
from sgsd.verify.math.algebra import Arithmetic, Sum, Value, as_fraction, generator, has_variable, rational
from sgsd.verify.math.primes import factorise

_MAX_FACTORIAL = 500
_MAX_CHOOSE = 1_000
TRIGONOMETRIC = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})


def factorial(value: Value) -> Value:
    """n! of a whole number up to 500; Undecided for any other value."""
    n = _whole(value)
    if not 0 <= n <= _MAX_FACTORIAL:
        raise Undecided("a factorial beyond the limit")
    return rational(math.factorial(n))


def choose(top: Value, bottom: Value) -> Value:
    """The binomial coefficient of whole numbers 0 ≤ bottom ≤ top ≤ 1000; Undecided for other values."""
    n, k = _whole(top), _whole(bottom)
    if not 0 <= k <= n <= _MAX_CHOOSE:
        raise Undecided("a binomial of unusual arguments")
    return rational(math.comb(n, k))


def _whole(value: Value) -> int:
    q = as_fraction(value)
    if q is None or q.denominator != 1:
        raise Undecided("not a whole number")
    return int(q)


def natural_log(value: Value) -> Value:
    """ln of a positive monomial in radicals and e, as a sum of logarithms of primes; Undecided for other values."""
    exact = Arithmetic()
    total = rational(0)
    for name, exponent in _prime_exponents(value).items():
        log = rational(1) if name == "e" else generator(f"ln{name}")
        total = exact.add(total, exact.multiply(rational(exponent), log))
    return total


def _prime_exponents(value: Value) -> dict[str, Fraction]:
    """A positive monomial as exponents of primes and e; Undecided for any other value."""
    if len(value.num) != 1 or value.den != rational(1).den:
        raise Undecided("not one positive monomial")
    ((monomial, q),) = value.num.items()
    exponents = dict(monomial)
    if q <= 0 or any(not name.isdigit() and name != "e" for name in exponents):
        raise Undecided("not one positive monomial")
    for number, side in ((q.numerator, 1), (q.denominator, -1)):
        primes, _ = factorise(number, 1)
        for prime, count in primes.items():
            exponents[prime] = exponents.get(prime, Fraction(0)) + side * count
    return exponents


def trigonometric(name: str, angle: Value) -> Value:
    """A trigonometric function at a multiple of π/12; Unreadable at its poles, Undecided at other angles."""
    one = rational(1)
    cosine, sine = _circle(angle)
    quotients = {
        "sin": (sine, one),
        "cos": (cosine, one),
        "tan": (sine, cosine),
        "cot": (cosine, sine),
        "sec": (one, cosine),
        "csc": (one, sine),
    }
    return Arithmetic().divide(*quotients[name])


def exponential(exponent: Value) -> Value:
    """e to a power: e^q for rational q, and Euler's e^{iθ} at multiples of π/12."""
    exact = Arithmetic()
    if as_fraction(exponent) is not None or has_variable(exponent):
        return exact.power(generator("e"), exponent)
    cosine, sine = _circle(exact.divide(exponent, generator("i")))
    return exact.add(cosine, exact.multiply(generator("i"), sine))


def _circle(angle: Value) -> tuple[Value, Value]:
    """Cosine and sine of an angle that is a multiple of π/12."""
    turn = as_fraction(Arithmetic().divide(angle, generator("pi")))
    if turn is None or (turn * 12).denominator != 1:
        raise Undecided("an angle without a short closed form")
    step = int(turn * 12)
    return _cosine(step), _cosine(step - 6)


def _cosine(step: int) -> Value:
    """cos(step · 15°)."""
    step %= 24
    if step > 12:
        step = 24 - step
    if step > 6:
        return Arithmetic().negate(_cosine(12 - step))
    return Value(_FIRST_QUADRANT[step], rational(1).den)


def _radicals(*terms: tuple[Fraction, int]) -> Sum:
    exact = Arithmetic()
    total = rational(0)
    for factor, radicand in terms:
        total = exact.add(total, exact.multiply(rational(factor), exact.root(rational(radicand), 2)))
    return total.num


_HALF, _QUARTER = Fraction(1, 2), Fraction(1, 4)
_FIRST_QUADRANT = (
    _radicals((Fraction(1), 1)),
    _radicals((_QUARTER, 6), (_QUARTER, 2)),
    _radicals((_HALF, 3)),
    _radicals((_HALF, 2)),
    _radicals((_HALF, 1)),
    _radicals((_QUARTER, 6), (-_QUARTER, 2)),
    _radicals(),
)
