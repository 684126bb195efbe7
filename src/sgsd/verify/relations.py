"""Inequalities in one variable, intervals and point sets, as sets of reals."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from sgsd.verify.algebra import Arithmetic, Value, has_variable, is_variable, rational
from sgsd.verify.errors import Undecided, Unreadable
from sgsd.verify.expressions import evaluate
from sgsd.verify.forms import Form, Group, Infinite, Number, Span, Tokens
from sgsd.verify.layout import is_name, split
from sgsd.verify.ranges import REALS, Ranges, flipped, intersect, interval, point, relation, union

INEQUALITIES = frozenset({"<", "<=", ">", ">=", "!="})


def infinity_sign(tokens: Tokens) -> int | None:
    """+1 or −1 for ∞ and −∞, None for anything else."""
    texts = [token.text for token in tokens]
    if texts in (["infty"], ["+", "infty"]):
        return 1
    return -1 if texts == ["-", "infty"] else None


def read_relation(tokens: Tokens) -> Span:
    """x < 2, 2 > x, 1 < 2x + 3 ≤ 7 as a span; raises Undecided for what is not linear in one variable."""
    sides, operators = split(tokens, INEQUALITIES | {"="})
    if not operators:
        raise Undecided("relations mixed with other things")
    solved = [_solve(sides[k], operator, sides[k + 1]) for k, operator in enumerate(operators)]
    names = {name for name, _ in solved}
    if len(names) > 1:
        raise Undecided("relations between several variables")
    met: Ranges = REALS
    for _, ranges in solved:
        met = intersect(met, ranges)
    if not met:
        raise Unreadable("a relation that nothing satisfies")
    return Span(tokens, met, names.pop())


def _solve(left: Tokens, operator: str, right: Tokens) -> tuple[str, Ranges]:
    """The variable of a linear relation, and the reals that satisfy it."""
    signs = infinity_sign(left), infinity_sign(right)
    if signs == (None, None):
        exact = Arithmetic()
        name, slope, rest = _linear(exact.subtract(evaluate(left), evaluate(right)))
        end = exact.multiply(rest, rational(-1 / slope))
        return name, relation(operator if slope > 0 else flipped(operator), end)
    side, sign, towards = (left, signs[1], operator) if signs[0] is None else (right, signs[0], flipped(operator))
    if not is_name(side) or towards not in ({"<", "<="} if sign == 1 else {">", ">="}):
        raise Unreadable("a comparison with infinity that says nothing")
    return _linear(evaluate(side))[0], REALS


def _linear(value: Value) -> tuple[str, Fraction, Value]:
    """A value as slope · variable + rest."""
    if not has_variable(value):
        raise Unreadable("a comparison of numbers is no answer")
    slopes = {m: q for m, q in value.num.items() if len(m) == 1 and m[0][1] == 1 and is_variable(m[0][0])}
    if len(slopes) != 1 or value.den != rational(1).den:
        raise Undecided("not linear in one variable")
    ((monomial, slope),) = slopes.items()
    rest = Value({m: q for m, q in value.num.items() if m != monomial}, value.den)
    if has_variable(rest):
        raise Undecided("not linear in one variable")
    return monomial[0][0], slope, rest


def join_relations(tokens: Tokens, parts: Sequence[Tokens], separators: Sequence[str]) -> Span:
    """Relations joined by or (union), and (intersection) or a comma (intersection, unless it is empty)."""
    spans = [read_relation(part) for part in parts]
    names = {span.variable for span in spans}
    if len(names) > 1:
        raise Undecided("relations in several variables")
    ranges = [span.ranges for span in spans]
    met = REALS
    for each in ranges:
        met = intersect(met, each)
    if "or" in separators or (not met and "and" not in separators):
        met = union(ranges)
    if not met:
        raise Unreadable("relations that exclude each other")
    return Span(tokens, met, names.pop())


def ranges_of(form: Form) -> Ranges | None:
    """A form as a set of reals, where it is one: (1, 2] as an interval, {1, 2} as two points."""
    if isinstance(form, Span):
        return form.ranges
    if not isinstance(form, Group) or form.brackets in {"", ":", "[["}:
        return None
    if form.brackets == "{}":
        values = [item.value for item in form.items if isinstance(item, Number)]
        return union([point(value) for value in values]) if len(values) == len(form.items) else None
    if len(form.items) != 2:
        return None
    low, high = form.items
    if not isinstance(low, Number | Infinite) or not isinstance(high, Number | Infinite):
        return None
    if (isinstance(low, Infinite) and low.sign > 0) or (isinstance(high, Infinite) and high.sign < 0):
        return None
    return interval(
        low.value if isinstance(low, Number) else None,
        form.brackets[0] == "[",
        high.value if isinstance(high, Number) else None,
        form.brackets[1] == "]",
    )
