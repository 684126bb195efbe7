"""Sets of real numbers as unions of intervals with exact ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cmp_to_key
from typing import NamedTuple

from sgsd.verify.algebra import Arithmetic, Value, has_variable
from sgsd.verify.errors import Undecided, Unreadable


class Piece(NamedTuple):
    """One interval; None is the infinite end of its side, which is never closed."""

    low: Value | None
    low_closed: bool
    high: Value | None
    high_closed: bool


Ranges = tuple[Piece, ...]  # disjoint, in order

REALS: Ranges = (Piece(None, False, None, False),)
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}


def interval(low: Value | None, low_closed: bool, high: Value | None, high_closed: bool) -> Ranges:
    """One interval; Unreadable where it would be empty, Undecided where its ends are not real numbers."""
    for end in (low, high):
        if end is not None and has_variable(end):
            raise Undecided("an interval whose ends are not numbers")
    piece = Piece(low, low_closed and low is not None, high, high_closed and high is not None)
    if _empty(piece):
        raise Unreadable("an interval that ends before it begins")
    return (piece,)


def point(value: Value) -> Ranges:
    return interval(value, True, value, True)


def relation(operator: str, value: Value) -> Ranges:
    """The x with `x operator value`."""
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


def intersect(a: Ranges, b: Ranges) -> Ranges:
    """Everything in both; may be empty."""
    met = (Piece(*_higher_low(p, q), *_lower_high(p, q)) for p in a for q in b)
    return _ordered(piece for piece in met if not _empty(piece))


def complement(ranges: Ranges) -> Ranges:
    """Every real that is not in it."""
    met = REALS
    for piece in ranges:
        below = () if piece.low is None else relation("<" if piece.low_closed else "<=", piece.low)
        above = () if piece.high is None else relation(">" if piece.high_closed else ">=", piece.high)
        met = intersect(met, below + above)
    return met


def union(parts: Sequence[Ranges]) -> Ranges:
    """Everything in any part, touching pieces joined."""
    joined: list[Piece] = []
    for piece in _ordered(piece for part in parts for piece in part):
        if joined and _touch(joined[-1], piece):
            last = joined.pop()
            joined.append(Piece(last.low, last.low_closed, *_higher_high(last, piece)))
        else:
            joined.append(piece)
    return tuple(joined)


def equal(a: Ranges, b: Ranges) -> bool:
    return len(a) == len(b) and all(
        p.low_closed == q.low_closed
        and p.high_closed == q.high_closed
        and _same(p.low, q.low)
        and _same(p.high, q.high)
        for p, q in zip(a, b)
    )


def _same(a: Value | None, b: Value | None) -> bool:
    if a is None or b is None:
        return a is b
    return Arithmetic().equal(a, b)


def _order(a: Value, b: Value) -> int:
    return Arithmetic().order(a, b)


def _empty(piece: Piece) -> bool:
    if piece.low is None or piece.high is None:
        return False
    order = _order(piece.low, piece.high)
    return order > 0 or (order == 0 and not (piece.low_closed and piece.high_closed))


def _compare_lows(p: Piece, q: Piece) -> int:
    if p.low is None or q.low is None:
        return (p.low is not None) - (q.low is not None)
    return _order(p.low, q.low) or q.low_closed - p.low_closed


def _compare_highs(p: Piece, q: Piece) -> int:
    if p.high is None or q.high is None:
        return (q.high is not None) - (p.high is not None)
    return _order(p.high, q.high) or p.high_closed - q.high_closed


def _ordered(pieces: Iterable[Piece]) -> Ranges:
    return tuple(sorted(pieces, key=cmp_to_key(_compare_lows)))


def _higher_low(p: Piece, q: Piece) -> tuple[Value | None, bool]:
    chosen = p if _compare_lows(p, q) >= 0 else q
    return chosen.low, chosen.low_closed


def _lower_high(p: Piece, q: Piece) -> tuple[Value | None, bool]:
    chosen = p if _compare_highs(p, q) <= 0 else q
    return chosen.high, chosen.high_closed


def _higher_high(p: Piece, q: Piece) -> tuple[Value | None, bool]:
    chosen = p if _compare_highs(p, q) >= 0 else q
    return chosen.high, chosen.high_closed


def _touch(left: Piece, right: Piece) -> bool:
    """Whether two pieces, in order, overlap or meet without a gap."""
    if left.high is None or right.low is None:
        return True
    order = _order(left.high, right.low)
    return order > 0 or (order == 0 and (left.high_closed or right.low_closed))
