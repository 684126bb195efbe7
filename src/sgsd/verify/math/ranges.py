"""Sets of real numbers as unions of intervals with exact ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cmp_to_key, reduce
from itertools import chain
from typing import NamedTuple

from sgsd.verify.errors import Undecided, Unreadable
from sgsd.verify.math.algebra import Arithmetic, Value, has_variable


class Cut(NamedTuple):
    """A place that splits the reals in two: just before or just after a value, or at an infinite end (−1 or 1)."""

    value: Value | None
    after: bool = False
    infinite: int = 0


class Piece(NamedTuple):
    """The reals between two cuts: (1, 2] lies between the cut after 1 and the cut after 2."""

    low: Cut
    high: Cut


Ranges = tuple[Piece, ...]  # disjoint, in order

_LOWEST, _HIGHEST = Cut(None, infinite=-1), Cut(None, infinite=1)
REALS: Ranges = (Piece(_LOWEST, _HIGHEST),)
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}


def interval(low: Value | None, low_closed: bool, high: Value | None, high_closed: bool) -> Ranges:
    """Make one interval; None is an infinite end.

    Raises Unreadable if it would be empty, Undecided if its ends are not real numbers.
    """
    if any(end is not None and has_variable(end) for end in (low, high)):
        raise Undecided("an interval whose ends are not numbers")
    piece = Piece(
        _LOWEST if low is None else Cut(low, after=not low_closed),
        _HIGHEST if high is None else Cut(high, after=high_closed),
    )
    if _order(*piece) >= 0:
        raise Unreadable("an interval that ends before it begins")
    return (piece,)


def point(value: Value) -> Ranges:
    """The set of one number."""
    return interval(value, True, value, True)


def relation(operator: str, value: Value) -> Ranges:
    """The x with `x operator value`. Raises Undecided for a value with variables, Unreadable for another operator."""
    match operator:
        case "<" | "<=":
            return interval(None, False, value, operator == "<=")
        case ">" | ">=":
            return interval(value, operator == ">=", None, False)
        case "=":
            return point(value)
        case "!=":
            return interval(None, False, value, False) + interval(value, False, None, False)
    raise Unreadable(f"{operator!r} is no relation")


def flipped(operator: str) -> str:
    """The relation read from the other side: 2 > x is x < 2."""
    return _FLIPPED[operator]


def intersect(*parts: Ranges) -> Ranges:
    """Everything in all parts; may be empty."""
    return reduce(_intersect_two, parts, REALS)


def _intersect_two(a: Ranges, b: Ranges) -> Ranges:
    met = (Piece(max(p.low, q.low, key=_KEY), min(p.high, q.high, key=_KEY)) for p in a for q in b)
    return _sorted(piece for piece in met if _order(*piece) < 0)


def complement(ranges: Ranges) -> Ranges:
    """Every real that is not in it."""
    edges = [_LOWEST, *chain.from_iterable(ranges), _HIGHEST]
    gaps = (Piece(low, high) for low, high in zip(edges[::2], edges[1::2]))
    return tuple(gap for gap in gaps if _order(*gap) < 0)


def union(parts: Sequence[Ranges]) -> Ranges:
    """Everything in any part, touching pieces joined."""
    joined: list[Piece] = []
    for piece in _sorted(chain.from_iterable(parts)):
        if joined and _order(joined[-1].high, piece.low) >= 0:
            last = joined.pop()
            piece = Piece(last.low, max(last.high, piece.high, key=_KEY))
        joined.append(piece)
    return tuple(joined)


def equal(a: Ranges, b: Ranges) -> bool:
    """True for the same set; exact, so that ends need no order."""
    return len(a) == len(b) and all(map(_same, chain.from_iterable(a), chain.from_iterable(b)))


def _same(a: Cut, b: Cut) -> bool:
    if a.value is None or b.value is None:
        return a == b
    return a.after == b.after and Arithmetic().equal(a.value, b.value)


def _order(a: Cut, b: Cut) -> int:
    """Negative, 0 or positive as a cut lies before, at or after another."""
    if a.value is None or b.value is None:
        return a.infinite - b.infinite
    return Arithmetic().order(a.value, b.value) or a.after - b.after


def _sorted(pieces: Iterable[Piece]) -> Ranges:
    return tuple(sorted(pieces, key=lambda piece: _KEY(piece.low)))


_KEY = cmp_to_key(_order)
