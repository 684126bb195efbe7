"""The kinds of answer there are. `parse` makes them from tokens, `matching` compares them."""

from __future__ import annotations

from dataclasses import dataclass

from sgsd.verify.math.algebra import Value
from sgsd.verify.math.conditions import Condition
from sgsd.verify.math.lexer import Tokens
from sgsd.verify.math.ranges import Ranges


@dataclass(frozen=True)
class Form:
    """An answer, and the tokens it was read from."""

    source: Tokens


@dataclass(frozen=True)
class Number(Form):
    """An exact value and the unit written after it, as token texts; `source` is without the unit."""

    value: Value
    unit: tuple[str, ...] = ()


@dataclass(frozen=True)
class Infinite(Form):
    """±∞."""

    sign: int


@dataclass(frozen=True)
class Words(Form):
    """An answer in words, in lower case."""

    text: str


@dataclass(frozen=True)
class Based(Form):
    """Digits with a base: 1011_2."""

    digits: str
    base: str


@dataclass(frozen=True)
class Choice(Form):
    """An option of a multiple choice with its content, None if that is unreadable: (C) 42."""

    letter: str
    content: Form | None


@dataclass(frozen=True)
class Group(Form):
    r"""Several answers. `brackets`: "" a bare list, "{}" a set, "()", "[)", … ordered, ":" a ratio, "[[" a matrix.

    "cup", "cap" and "setminus" stand between sets that are not known, as in A ∪ B.
    """

    items: tuple[Form, ...]
    brackets: str


@dataclass(frozen=True)
class Span(Form):
    """A set of reals; `variable` names the unknown if it was written as a relation."""

    ranges: Ranges
    variable: str = ""


@dataclass(frozen=True)
class Relation(Form):
    """An inequality that is not solved: `difference operator 0`, the operator one of <, <= and !=."""

    operator: str
    difference: Value


@dataclass(frozen=True)
class Equation(Form):
    """The sides of a chain a = b = c; two or more."""

    sides: tuple[Form, ...]


@dataclass(frozen=True)
class Family(Form):
    """An answer and what is said of its letters: 2kπ, k ∈ ℤ; f(x) = x for all x."""

    body: Form
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Opaque(Form):
    """An answer outside exact arithmetic, as far as we can see well-formed: computer algebra may know."""
