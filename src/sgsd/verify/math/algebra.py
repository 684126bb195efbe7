r"""Exact arithmetic on the closed forms that answers are made of, in pure Python.

A value is a quotient of two sums of monomials q · Π gᵢ^eᵢ, with q rational and generators g: prime numbers (exponent
in (0, 1): √12 is 2·3^½), i (exponent 1), π, e and variables. Products of prime radicals with exponents in [0, 1) are
linearly independent over the rationals (Besicovitch 1940) and π is transcendental, so two values are equal exactly
when cross-multiplied sums agree term by term: no floating point, no simplifier. Logarithms of primes ("ln2") are
generators too. Algebraic relations between e, π and these logarithms, of which none is known, are taken not to exist.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

from sgsd.verify.errors import Undecided, Unreadable
from sgsd.verify.math.primes import factorise

Monomial = tuple[tuple[str, Fraction], ...]  # ((generator, exponent), …), sorted by generator
Sum = dict[Monomial, Fraction]

_ONE: Monomial = ()
_UNIT: Sum = {_ONE: Fraction(1)}
_CONSTANTS = {"pi": math.pi, "e": math.e}
_MAX_BITS = 30_000
_MAX_ABS_EXPONENT = 5_000
_WORK = 8_000  # elementary products in one answer: about 30 ms


class Value(NamedTuple):
    """A quotient of two sums; the denominator is never the zero sum."""

    num: Sum
    den: Sum


def rational(q: Fraction | int) -> Value:
    """A rational number as a value."""
    return Value({_ONE: Fraction(q)} if q else {}, _UNIT)


def generator(name: str) -> Value:
    """A variable, or one of the constants "i", "pi", "e"."""
    return Value({((name, Fraction(1)),): Fraction(1)}, _UNIT)


def as_fraction(value: Value) -> Fraction | None:
    """The value as a rational number, or None."""
    num, den = value
    if not num:
        return Fraction(0)
    if num.keys() != den.keys():
        return None
    ratios = {q / den[monomial] for monomial, q in num.items()}  # of π/(2π), too, the ratio is rational
    return ratios.pop() if len(ratios) == 1 else None


def generators(sum_: Sum) -> frozenset[str]:
    """The generators of a sum: primes, constants, logarithms and variables."""
    return frozenset(name for monomial in sum_ for name, _ in monomial)


def variables(sum_: Sum) -> frozenset[str]:
    """The variables of a sum, without its primes and constants."""
    return frozenset(filter(is_variable, generators(sum_)))


def is_variable(name: str) -> bool:
    """True for a generator that stands for an unknown."""
    return not (name.isdigit() or name == "i" or name in _CONSTANTS or name.startswith("ln"))


def has_variable(value: Value) -> bool:
    """True for a value with an unknown in it, above or below the bar."""
    return any(map(variables, value))


def contains(value: Value, name: str) -> bool:
    """True for a value with this generator in it, above or below the bar."""
    return any(name in generators(sum_) for sum_ in value)


def approximate(value: Value) -> float:
    """A float for ordering only; Undecided if the value is not a real closed number."""
    try:
        num, den = (
            sum(float(q) * math.prod(_size(name) ** float(e) for name, e in monomial) for monomial, q in sum_.items())
            for sum_ in value
        )
        return num / den
    except (OverflowError, ZeroDivisionError) as error:
        raise Undecided("too large to order") from error


def _size(name: str) -> float:
    if name.isdigit():
        return float(name)
    if name.startswith("ln"):
        return math.log(int(name[2:]))
    if name not in _CONSTANTS:
        raise Undecided(f"{name} has no size")
    return _CONSTANTS[name]


def without_poles(sum_: Sum) -> Sum:
    """A sum times the smallest powers of its variables that leave no variable under a fraction bar."""
    poles: dict[str, Fraction] = {}
    for monomial in sum_:
        for name, exponent in monomial:
            if is_variable(name):
                poles[name] = min(poles.get(name, Fraction(0)), exponent)
    shift = tuple(sorted((name, -exponent) for name, exponent in poles.items() if exponent))
    return {_merge(monomial, shift)[1]: q for monomial, q in sum_.items()}


class Arithmetic:
    """The operations on values, with one budget of work for all of them, so that no answer can buy unlimited time.

    Every operation raises Undecided beyond the budget or the limits, Unreadable for what has no value (1/0, 0^0).
    """

    def __init__(self, work: int = _WORK) -> None:
        self._work = work

    def add(self, a: Value, b: Value) -> Value:
        if a.den == b.den:
            return Value(self._add(a.num, b.num), a.den)
        return Value(self._add(self._mul(a.num, b.den), self._mul(b.num, a.den)), self._mul(a.den, b.den))

    def negate(self, a: Value) -> Value:
        return Value({monomial: -q for monomial, q in a.num.items()}, a.den)

    def subtract(self, a: Value, b: Value) -> Value:
        return self.add(a, self.negate(b))

    def multiply(self, a: Value, b: Value) -> Value:
        return Value(self._mul(a.num, b.num), self._mul(a.den, b.den))

    def divide(self, a: Value, b: Value) -> Value:
        if not b.num:
            raise Unreadable("a division by zero")
        if len(b.num) == 1:  # a monomial has an inverse: keep denominators at 1 where we can
            ((monomial, q),) = b.num.items()
            inverse = _single({name: -exponent for name, exponent in monomial}, 1 / q)
            return Value(self._mul(self._mul(a.num, b.den), inverse), a.den)
        return Value(self._mul(a.num, b.den), self._mul(a.den, b.num))

    def equal(self, a: Value, b: Value) -> bool:
        """True for the same value, by the terms of the cross-multiplied sums."""
        if a.den == b.den:
            return a.num == b.num
        return self._mul(a.num, b.den) == self._mul(b.num, a.den)

    def power(self, base: Value, exponent: Value) -> Value:
        """A rational power; Undecided for other exponents, and for one that has several branches."""
        e = as_fraction(exponent)
        if e is None:
            raise Undecided("an exponent that is not rational")
        if not base.num and e <= 0:
            raise Unreadable("zero to a power that is not positive")
        if abs(e) > _MAX_ABS_EXPONENT:
            raise Undecided("an exponent beyond the limit")
        if e.denominator > 1:
            q = as_fraction(base)
            if q is not None and q < 0:
                raise Undecided("a fractional power of a negative number has several branches")
            base = self.root(base, e.denominator)
        return self._integer_power(base, e.numerator)

    def root(self, base: Value, degree: int) -> Value:
        """The real root if there is one; the principal square root of a negative rational is i·√|q|."""
        if not base.num:
            return base
        if not 1 <= degree <= 64 or len(base.num) != 1 or len(base.den) != 1:
            raise Undecided("a root of a sum")
        ((monomial, q),) = self.divide(Value(base.num, _UNIT), Value(base.den, _UNIT)).num.items()
        if any(name == "i" or is_variable(name) for name, _ in monomial):
            raise Undecided("a root with branches")
        sign = rational(1)
        if q < 0 and degree == 2:
            sign = generator("i")
        elif q < 0 and degree % 2 == 1:
            sign = rational(-1)
        elif q < 0:
            raise Undecided("an even root of a negative number")
        generators = {name: exponent / degree for name, exponent in monomial}
        rest = Fraction(1)
        for number, side in ((abs(q.numerator), 1), (q.denominator, -1)):
            primes, remainder = factorise(number, degree)
            rest *= Fraction(remainder) ** side
            for prime, count in primes.items():
                generators[prime] = generators.get(prime, Fraction(0)) + Fraction(side * count, degree)
        return self.multiply(Value(_single(generators, rest), _UNIT), sign)

    def absolute(self, value: Value) -> Value:
        """The size of a real or complex number."""
        if contains(value, "i"):
            return self.divide(self._modulus(value.num), self._modulus(value.den))
        q = as_fraction(value)
        size = float(q) if q is not None else approximate(value)
        if q is None and abs(size) < 1e-9:
            raise Undecided("a sign too close to call")
        return self.negate(value) if size < 0 else value

    def _modulus(self, sum_: Sum) -> Value:
        """√(re² + im²) of a sum without variables."""
        if variables(sum_):
            raise Undecided("the modulus of an expression with variables")
        i = ("i", Fraction(1))
        real = Value({monomial: q for monomial, q in sum_.items() if i not in monomial}, _UNIT)
        imaginary = self.divide(Value({m: q for m, q in sum_.items() if i in m}, _UNIT), generator("i"))
        squares = self.add(self.multiply(real, real), self.multiply(imaginary, imaginary))
        return self.root(squares, 2)

    def order(self, a: Value, b: Value) -> int:
        """−1, 0 or 1; Undecided for values that are not real closed numbers."""
        if self.equal(a, b):
            return 0
        difference = approximate(self.subtract(a, b))
        if abs(difference) < 1e-9 * (1 + abs(approximate(a))):
            raise Undecided("an order too close to call")
        return -1 if difference < 0 else 1

    def proportional(self, a: Sum, b: Sum) -> bool:
        """True for two sums that are the same up to a constant factor: one equation, written twice."""
        if not a or not b or a.keys() != b.keys():
            return a == b
        lead = min(a)
        self._spend(len(a), max(map(_bits, (*a.values(), *b.values()))))
        return all(q * b[lead] == b[monomial] * a[lead] for monomial, q in a.items())

    def _integer_power(self, base: Value, k: int) -> Value:
        if k < 0:
            return self._integer_power(self.divide(rational(1), base), -k)
        bits = max((_bits(q) for sum_ in base for q in sum_.values()), default=1)
        if bits * k > _MAX_BITS and any(abs(q) != 1 for sum_ in base for q in sum_.values()):
            raise Undecided("a power beyond the limit")
        result = rational(1)
        while k:
            if k & 1:
                result = self.multiply(result, base)
            k >>= 1
            if k:
                base = self.multiply(base, base)
        return result

    def _add(self, a: Sum, b: Sum) -> Sum:
        self._spend(len(a) + len(b), 64)
        total = dict(a)
        for monomial, q in b.items():
            q += total.get(monomial, 0)
            if q:
                total[monomial] = q
            else:
                total.pop(monomial, None)
        return total

    def _mul(self, a: Sum, b: Sum) -> Sum:
        if a == _UNIT or not b:
            return b
        if b == _UNIT or not a:
            return a
        self._spend(len(a) * len(b), max(map(_bits, a.values())) + max(map(_bits, b.values())))
        total: Sum = {}
        for monomial_a, qa in a.items():
            for monomial_b, qb in b.items():
                carry, monomial = _merge(monomial_a, monomial_b)
                q = total.get(monomial, Fraction(0)) + qa * qb * carry
                total[monomial] = q
        return {monomial: q for monomial, q in total.items() if q}

    def _spend(self, products: int, bits: int) -> None:
        if bits > 2 * _MAX_BITS:
            raise Undecided("numbers beyond the limit")
        self._work -= products * (1 + (bits // 1_000) ** 2)
        if self._work < 0:
            raise Undecided("more work than an answer is worth")


def _bits(q: Fraction) -> int:
    return q.numerator.bit_length() + q.denominator.bit_length()


def _merge(a: Monomial, b: Monomial) -> tuple[Fraction, Monomial]:
    """The product of two monomials in normal form, and the rational number that falls out of it."""
    exponents = dict(a)
    for name, exponent in b:
        exponents[name] = exponents.get(name, Fraction(0)) + exponent
    return _normal(exponents)


def _normal(exponents: dict[str, Fraction]) -> tuple[Fraction, Monomial]:
    """Carry whole powers of primes and even powers of i into the coefficient."""
    carry = Fraction(1)
    kept: list[tuple[str, Fraction]] = []
    for name, exponent in sorted(exponents.items()):
        if name == "i":
            turns = int(exponent) % 4
            carry *= -1 if turns >= 2 else 1
            exponent = Fraction(turns % 2)
        elif name.isdigit():
            whole = math.floor(exponent)
            carry *= Fraction(int(name)) ** whole
            exponent -= whole
        if exponent:
            kept.append((name, exponent))
    return carry, tuple(kept)


def _single(exponents: dict[str, Fraction], q: Fraction) -> Sum:
    carry, monomial = _normal(exponents)
    return {monomial: q * carry}
