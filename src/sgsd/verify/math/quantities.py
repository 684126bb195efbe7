"""Numbers with what is written after them: units, percent signs, million."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from sgsd.verify.errors import Unreadable
from sgsd.verify.math.algebra import Arithmetic, Value, as_fraction, contains, generator, rational
from sgsd.verify.math.brackets import depths
from sgsd.verify.math.forms import Form, Number
from sgsd.verify.math.lexer import Token, Tokens
from sgsd.verify.math.units import CLOCK, HEDGES, SCALES, is_known_word, is_money, is_percent, known_unit

_UNIT_OPS = frozenset({"/", "^", "{", "}", "-", "°", "%", "*", "."})
_UNIT_STARTS = frozenset({("op", "%"), ("op", "°"), ("cmd", "pmod")})


def split_quantity(tokens: Tokens) -> tuple[Tokens, int, tuple[str, ...]]:
    r"""Split into the number, its scale (million = 10⁶) and its unit: 5 \text{ cm}^2, \$5, 50\%, 90°, 3 km/h.

    Raises Unreadable if the words around the number are a hedge: about 5, 5 at most.
    """
    prefix = next((k for k, token in enumerate(tokens[:2]) if token.kind == "word" and is_money(token.text)), None)
    if prefix is not None and len(tokens) > prefix + 1:
        core, scale, _ = split_quantity(tokens[:prefix] + tokens[prefix + 1 :])
        return core, scale, (tokens[prefix].text.lower(),)
    start = _unit_start(tokens)
    unit = tokens[start:]
    if not unit or not all(_may_be_unit(unit, k) for k in range(len(unit))):
        return tokens, 1, ()
    words = [token.text.lower() for token in unit if token.kind == "word"]
    if not HEDGES.isdisjoint(words):
        raise Unreadable("a hedge beside the number")
    texts = tuple(token.text for token in unit if token.text not in {"{", "}"})
    scale = SCALES.get(texts[0].lower(), 1)
    return tokens[:start], scale, texts[1:] if scale > 1 else texts


def _unit_start(tokens: Tokens) -> int:
    for at, (token, depth) in enumerate(zip(tokens, depths(tokens))):
        if at and not depth and (token.kind == "word" or (token.kind, token.text) in _UNIT_STARTS):
            return at
    return len(tokens)


def _may_be_unit(unit: Tokens, at: int) -> bool:
    token = unit[at]
    if unit[0].text == "pmod":
        return True
    if token.kind == "word":
        return len(token.text) > 1 or is_known_word(token.text)
    if token.kind == "op" and token.text in _UNIT_OPS:
        return True
    if token.kind == "num":
        return at > 0 and unit[at - 1].text in {"^", "{", "-"}
    return token.kind == "var" and unit[at - 1] == Token("op", "°") and token.text in {"C", "F"}


def is_compound(items: Sequence[Form]) -> bool:
    """True for falling units of one dimension: 1 hour and 30 minutes, 3 dollars, 50 cents."""
    units = [known_unit(item.unit) if isinstance(item, Number) else None for item in items]
    return all(
        first and second and first.dimension == second.dimension and first.factor > second.factor
        for first, second in pairwise(units)
    )


def same_quantity(answer: Number, gold: Number) -> bool:
    """True for two numbers that are equal, units considered. Raises Undecided if exact arithmetic gives up.

    A unit that only one side writes is taken as understood; two known units must agree, conversions included.
    p% is p/100 everywhere. If just one side writes the sign, a bare p also stands for p% (the question may have
    asked for a percentage), except that a bare gold below 1 in size is never read so: 0.5 is 50%, not 0.5%.
    """
    exact = Arithmetic()
    a, g = answer.value, gold.value
    if answer.unit[:1] == gold.unit[:1] == ("pmod",):
        return answer.unit == gold.unit and _congruent(a, g, answer.unit)
    if answer.unit and gold.unit and answer.unit != gold.unit and not CLOCK.isdisjoint(answer.unit + gold.unit):
        return False
    percents = is_percent(answer.unit), is_percent(gold.unit)
    if percents == (True, True):
        return exact.equal(a, g)
    if percents[0]:
        bare = as_fraction(g)
        unit_read = bare is not None and abs(bare) >= 1
        return (unit_read and exact.equal(a, g)) or exact.equal(_hundredth(a), g)
    if percents[1]:
        return exact.equal(a, g) or exact.equal(a, _hundredth(g))
    if exact.equal(a, g) and not (answer.unit and gold.unit):
        return True
    unit_a, unit_g = known_unit(answer.unit), known_unit(gold.unit)
    if unit_a and unit_g:
        a, g = exact.multiply(a, rational(unit_a.factor)), exact.multiply(g, rational(unit_g.factor))
        return unit_a.dimension == unit_g.dimension and exact.equal(a, g)
    if answer.unit and gold.unit:
        return exact.equal(a, g)
    return exact.equal(_radians(answer, gold), _radians(gold, answer))


def _congruent(a: Value, g: Value, unit: Sequence[str]) -> bool:
    """True for two numbers of the same residue; those that are no whole numbers must be equal."""
    exact = Arithmetic()
    difference = as_fraction(exact.subtract(a, g))
    modulus = unit[1] if len(unit) == 2 and unit[1].isdigit() else "0"
    if difference is None or not int(modulus):
        return exact.equal(a, g)
    return (difference / int(modulus)).denominator == 1


def _hundredth(value: Value) -> Value:
    return Arithmetic().multiply(value, _HUNDREDTH)


def _radians(number: Number, other: Number) -> Value:
    """The value, with 30° as π/6 if the other side writes its angle with π and no unit."""
    if number.unit == ("°",) and contains(other.value, "pi"):
        return Arithmetic().multiply(number.value, _RADIAN)
    return number.value


_HUNDREDTH = rational(Fraction(1, 100))
_RADIAN = Arithmetic().divide(generator("pi"), rational(180))
