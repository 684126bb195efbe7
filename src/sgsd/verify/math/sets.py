"""Forms as sets: what a bracket, a relation or a union of them contains."""

from __future__ import annotations

from collections.abc import Sequence

from sgsd.verify.errors import Undecided
from sgsd.verify.math.brackets import split
from sgsd.verify.math.forms import Form, Group, Infinite, Number, Opaque, Span
from sgsd.verify.math.lexer import Token, Tokens
from sgsd.verify.math.ranges import Ranges, complement, intersect, interval, point, union

_OPERATIONS = {"cup": "cup", "cap": "cap", "setminus": "setminus", "backslash": "setminus"}


def split_sets(tokens: Tokens) -> tuple[list[Tokens], list[str]]:
    r"""Cut at \cup, \cap and \setminus; a minus before a set, as in ℝ − {0}, is the last of these."""
    marked = tuple(
        Token("cmd", "setminus") if token == _MINUS and at and tokens[at + 1 : at + 2] == (_SET,) else token
        for at, token in enumerate(tokens)
    )
    parts, found = split(marked, _OPERATIONS)
    return parts, [_OPERATIONS[operation] for operation in found]


def combine(tokens: Tokens, forms: Sequence[Form], operations: Sequence[str]) -> Form:
    """The set that operations on sets make: as ranges, as a list of elements, or else as written."""
    if len(set(operations)) > 1 or (operations[0] == "setminus" and len(forms) > 2):
        return Opaque(tokens)
    operation = operations[0]
    sets = [_ranges_if_known(form) for form in forms]
    known = [ranges for ranges in sets if ranges is not None]
    if len(known) == len(sets):
        return Span(tokens, _combined(known, operation))
    if operation == "cup" and all(isinstance(form, Group) and form.brackets == "{}" for form in forms):
        items = {item.source: item for form in forms if isinstance(form, Group) for item in form.items}
        return Group(tokens, tuple(items.values()), "{}")
    return Group(tokens, tuple(forms), operation)


def _ranges_if_known(form: Form) -> Ranges | None:
    try:
        return ranges_of(form)
    except Undecided:  # {a, b}, or an interval from a to b
        return None


def _combined(sets: Sequence[Ranges], operation: str) -> Ranges:
    if operation == "cup":
        return union(sets)
    return intersect(*sets) if operation == "cap" else intersect(sets[0], complement(sets[1]))


def ranges_of(form: Form) -> Ranges | None:
    """Read a form as a set of reals: (1, 2] as an interval, {1, 2} as two points; None if it is no such set."""
    match form:
        case Span(ranges=ranges):
            return ranges
        case Group(brackets="{}", items=items):
            values = [item.value for item in items if isinstance(item, Number)]
            return union([point(value) for value in values]) if len(values) == len(items) else None
        case Group(brackets=brackets, items=(low, high)) if brackets in _INTERVALS:
            if _is_end(low, -1) and _is_end(high, 1):
                ends = [end.value if isinstance(end, Number) else None for end in (low, high)]
                return interval(ends[0], brackets[0] == "[", ends[1], brackets[1] == "]")
    return None


def _is_end(form: Form, sign: int) -> bool:
    return isinstance(form, Number) or (isinstance(form, Infinite) and form.sign == sign)


_INTERVALS = frozenset({"()", "(]", "[)", "[]"})
_MINUS = Token("op", "-")
_SET = Token("op", "\\{")
