"""The kinds of answer there are. `reading` makes them from tokens, `maths` compares them."""

from __future__ import annotations

from dataclasses import dataclass, field

from sgsd.verify.algebra import Value
from sgsd.verify.lexer import Token
from sgsd.verify.ranges import Ranges

Tokens = tuple[Token, ...]


@dataclass(frozen=True)
class Number:
    """An exact value and the unit written after it, as token texts; `source` is without the unit."""

    source: Tokens
    value: Value
    unit: tuple[str, ...] = ()


@dataclass(frozen=True)
class Infinite:
    """±∞."""

    source: Tokens
    sign: int


@dataclass(frozen=True)
class Words:
    """An answer in words, in lower case."""

    source: Tokens
    text: str


@dataclass(frozen=True)
class Based:
    """Digits with a base: 1011_2."""

    source: Tokens
    digits: str
    base: str


@dataclass(frozen=True)
class Choice:
    """An option of a multiple choice with its content: (C) 42."""

    source: Tokens
    letter: str
    content: Form


@dataclass(frozen=True)
class Group:
    r"""Several answers. `brackets`: "" a bare list, "{}" a set, "()", "[)", … ordered, ":" a ratio, "[[" a matrix.

    "cup", "cap" and "setminus" stand between sets that are not known, as in A ∪ B.
    """

    source: Tokens
    items: tuple[Form, ...]
    brackets: str


@dataclass(frozen=True)
class Span:
    """A set of reals; `variable` where it was written as a relation."""

    source: Tokens
    ranges: Ranges
    variable: str = ""


@dataclass(frozen=True)
class Relation:
    """An inequality that is not solved: `difference operator 0`, the operator one of <, <= and !=."""

    source: Tokens
    operator: str
    difference: Value


@dataclass(frozen=True)
class Equation:
    """The sides of a chain a = b = c; two or more."""

    source: Tokens
    sides: tuple[Form, ...]


@dataclass(frozen=True)
class Opaque:
    """Outside exact arithmetic, as far as we can see well-formed: another judge may know."""

    source: Tokens


@dataclass(frozen=True)
class Malformed:
    """Not one answer: a hedge, two numbers side by side, unbalanced brackets."""

    source: Tokens
    why: str = field(default="", compare=False)


Form = (
    Number | Infinite | Words | Based | Choice | Group | Span | Relation | Equation | Opaque | Malformed
)  # fmt: skip
