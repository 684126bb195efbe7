"""Inequalities in one variable, intervals and point sets, as sets of reals."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from sgsd.verify.errors import Undecided, Unreadable
from sgsd.verify.math.algebra import Arithmetic, Value, has_variable, is_variable, rational
from sgsd.verify.math.brackets import is_name, split
from sgsd.verify.math.expressions import evaluate
from sgsd.verify.math.forms import Form, Group, Relation, Span
from sgsd.verify.math.lexer import Token, Tokens
from sgsd.verify.math.ranges import REALS, Ranges, flipped, intersect, relation, union

INEQUALITIES = frozenset({"<", "<=", ">", ">=", "!="})


def infinity_sign(tokens: Tokens) -> int | None:
    """+1 or −1 for ∞ and −∞, None for anything else."""
    texts = [token.text for token in tokens]
    if texts in (["infty"], ["+", "infty"]):
        return 1
    return -1 if texts == ["-", "infty"] else None


def read_relation(tokens: Tokens) -> Span | Relation:
    """Read x < 2, 2 > x, 1 < 2x + 3 ≤ 7, |x| > 1 as a span, a < b as it is.

    Raises Undecided for other relations, Unreadable for one that nothing satisfies.
    """
    sides, operators = split(tokens, INEQUALITIES | {"="})
    if not operators:
        raise Undecided("relations mixed with other things")
    if any(token == _PLUS_MINUS for token in tokens):
        return _read_both_signs(tokens, operators)
    try:
        solved = [_solve(sides[k], operator, sides[k + 1]) for k, operator in enumerate(operators)]
    except Undecided:
        if len(operators) > 1:
            raise
        return _unsolved(tokens, sides[0], operators[0], sides[1])
    names = {name for name, _ in solved}
    if len(names) > 1:
        raise Undecided("a chain of relations between several variables")
    met = intersect(*(ranges for _, ranges in solved))
    if not met:
        raise Unreadable("a relation that nothing satisfies")
    return Span(tokens, met, names.pop())


def _read_both_signs(tokens: Tokens, operators: Sequence[str]) -> Span:
    """Read x ≠ ±1, which is neither; other relations to ± are Undecided."""
    if set(operators) == {"!="}:
        match [read_relation(signed) for signed in both_signs(tokens)]:
            case [Span() as first, Span() as second]:
                return Span(tokens, intersect(first.ranges, second.ranges), first.variable)
    raise Undecided("an inequality with ±")


def both_signs(tokens: Tokens) -> list[Tokens]:
    """The two token sequences that ± (and ∓, its opposite) stands for."""
    signs = ({"pm": "+", "mp": "-"}, {"pm": "-", "mp": "+"})
    return [tuple(Token("op", sign[t.text]) if t.text in sign else t for t in tokens) for sign in signs]


def _unsolved(tokens: Tokens, left: Tokens, operator: str, right: Tokens) -> Relation:
    exact = Arithmetic()
    difference = exact.subtract(evaluate(left), evaluate(right))
    if difference.den != rational(1).den:
        raise Undecided("a relation between quotients")
    if operator in {">", ">="}:
        return Relation(tokens, flipped(operator), exact.negate(difference))
    return Relation(tokens, operator, difference)


def _solve(left: Tokens, operator: str, right: Tokens) -> tuple[str, Ranges]:
    """The variable of a linear relation, and the reals that satisfy it; one side may be the size of a linear one."""
    for side, other, towards in ((left, right, operator), (right, left, flipped(operator))):
        inner = _inside_bars(side)
        if inner:
            return _solve_size(inner, towards, other)
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


def _inside_bars(tokens: Tokens) -> Tokens:
    """The tokens between the bars of |…|; empty for anything else."""
    bars = [at for at, token in enumerate(tokens) if token == _BAR]
    return tokens[1:-1] if bars == [0, len(tokens) - 1] else ()


def _solve_size(inner: Tokens, operator: str, bound: Tokens) -> tuple[str, Ranges]:
    """Solve |u| < c as −c < u and u < c, |u| > c as u < −c or u > c."""
    below = (Token("op", "-"), Token("op", "("), *bound, Token("op", ")"))
    name, high = _solve(inner, operator, bound)
    _, low = _solve(inner, flipped(operator), below)
    inside = operator in {"<", "<=", "!="}
    return name, intersect(high, low) if inside else union([high, low])


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


def join_relations(tokens: Tokens, parts: Sequence[Tokens], separators: Sequence[str]) -> Form:
    """Join relations by or (union), and (intersection) or a comma (intersection, unless it is empty)."""
    relations = [read_relation(part) for part in _completed(parts)]
    spans = [relation for relation in relations if isinstance(relation, Span)]
    names = {span.variable for span in spans}
    if len(names) > 1 or len(spans) < len(relations):
        if "or" in separators:
            raise Undecided("a choice between relations in several variables")
        return Group(tokens, tuple(relations), "")
    ranges = [span.ranges for span in spans]
    met = intersect(*ranges)
    if "or" in separators or (not met and "and" not in separators):
        met = union(ranges)
    if not met:
        raise Unreadable("relations that exclude each other")
    return Span(tokens, met, names.pop())


def _completed(parts: Sequence[Tokens]) -> list[Tokens]:
    """x ≠ 1, 2 says x ≠ 1, x ≠ 2; other relations do not carry over."""
    whole: list[Tokens] = []
    for part in parts:
        if not split(part, INEQUALITIES)[1] and whole:
            sides, operators = split(whole[-1], INEQUALITIES)
            if operators == ["!="]:
                part = (*sides[0], Token("op", "!="), *part)
        whole.append(part)
    return whole


_BAR, _PLUS_MINUS = Token("op", "|"), Token("cmd", "pm")
