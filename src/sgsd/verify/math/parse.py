r"""Tokens become the kind of answer they are. Each reader returns the form it recognises, or None to pass.

The order of the readers is the grammar: options, words, times, membership, lists, chains, unions, brackets,
ratios, ±, numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from sgsd.verify.errors import Undecided, Unreadable
from sgsd.verify.math.algebra import Arithmetic, rational
from sgsd.verify.math.brackets import OPENS, closing, depth_of, is_name, split
from sgsd.verify.math.conditions import read_condition, take_conditions
from sgsd.verify.math.expressions import evaluate
from sgsd.verify.math.forms import Based, Choice, Equation, Family, Form, Group, Infinite, Number, Opaque, Span
from sgsd.verify.math.lexer import Token, Tokens, has_loose_number, plain, tokenise
from sgsd.verify.math.phrases import read_clock, read_words
from sgsd.verify.math.quantities import is_compound, split_quantity
from sgsd.verify.math.relations import INEQUALITIES, both_signs, infinity_sign, join_relations, read_relation
from sgsd.verify.math.sets import combine, ranges_of, split_sets
from sgsd.verify.math.units import HEDGES, words

MAX_DEPTH = 40
_LEAD_INS = words("the final answer option choice case set interval value solution solutions")


@lru_cache(maxsize=2048)
def parse_answer(text: str) -> tuple[Form, ...]:
    """Every way to read an answer, best first: two if 1,234 may be a number or a list, none if it is not one answer."""
    sequences = [tokenise(text, loose=False)]
    bracketed = False
    if has_loose_number(plain(text)):
        loose = tokenise(text)
        bracketed = any(token.text in OPENS for token in loose)
        sequences = [*sequences, loose] if bracketed else [loose, *sequences]
    forms = [form for form in map(_parse_if_readable, sequences) if form is not None]
    return tuple(forms[:1] if bracketed else forms)  # in (1,234) the comma separates


def parse(tokens: Tokens) -> Form:
    """Recognise the form of a token sequence; Opaque beyond exact arithmetic. Raises Unreadable if it is no answer."""
    if not tokens:
        raise Unreadable("empty")
    option = _read_choice(tokens)  # before brackets are counted: B) 42
    if option is not None:
        return option
    depth = depth_of(tokens)
    if depth is None:
        raise Unreadable("unbalanced brackets")
    if depth > MAX_DEPTH:
        return Opaque(tokens)
    tokens = _undressed(tokens)
    try:
        return next(form for reader in _READERS if (form := reader(tokens)) is not None)
    except Undecided:
        return Opaque(tokens)


def _parse_if_readable(tokens: Tokens) -> Form | None:
    try:
        return parse(tokens)
    except Unreadable:
        return None


def _undressed(tokens: Tokens) -> Tokens:
    """Take off braces around everything, punctuation at the end, and words that only introduce."""
    while len(tokens) > 2 and tokens[0].text == "{" and closing(tokens, 0) == len(tokens) - 1:
        tokens = tokens[1:-1]
    while len(tokens) > 1 and tokens[-1].text in {".", ",", ";"}:
        tokens = tokens[:-1]
    lead = 0
    while lead < len(tokens) and tokens[lead].kind == "word" and len(tokens[lead].text) > 1:
        lead += 1
    lead_in = [token.text.lower() for token in tokens[:lead]]
    if not lead_in or lead == len(tokens) or not HEDGES.isdisjoint(lead_in):
        return tokens
    if tokens[lead].text == ":":
        return tokens[lead + 1 :] or tokens
    return tokens[lead:] if lead_in[-1] in {"is", "are"} or _LEAD_INS.issuperset(lead_in) else tokens


def _read_choice(tokens: Tokens) -> Form | None:
    """Read (C) 42, C) 42, C. 42 and C: 42."""
    start = 1 if tokens[0].text == "(" else 0
    if len(tokens) < start + 2:
        return None
    letter, mark = tokens[start : start + 2]
    lettered = letter.kind in {"var", "word"} and letter.text in set("ABCDEFGH")
    if not lettered or mark.text not in ({")"} if start else {")", ".", ":"}):
        return None
    content = tokens[start + 2 :]
    if not content:
        return parse((letter,))
    if (content[0].kind == "op" and content[0].text in set("+-*/^=<>,_!")) or depth_of(content) is None:
        return None
    return Choice(tokens, letter.text, _parse_if_readable(content))


def _read_family(tokens: Tokens) -> Form | None:
    """Read an answer with what is said of its letters: 2kπ, k ∈ ℤ; f(x) = x for all x."""
    body, conditions = take_conditions(tokens)
    return Family(tokens, parse(body), conditions) if conditions else None


def _read_membership(tokens: Tokens) -> Form | None:
    parts, found = split(tokens, {"in"})
    if not found:
        return None
    if len(parts) != 2 or not all(parts):
        raise Unreadable("a membership without its set")
    left = parts[0][1:] if parts[0][0].text in {"f", "g", "h"} else parts[0]  # f(x) ∈ [0, 1]
    bracketed = left[:1] == (Token("op", "("),) and closing(left, 0) == len(left) - 1
    names = split(left[1:-1], {","})[0] if bracketed else parts[:1]
    if not all(map(is_name, names)):
        raise Unreadable("a membership of something that is no letter")
    form = parse(parts[1])
    ranges = ranges_of(form) if isinstance(form, Group) and form.brackets not in {"", "{}"} else None
    if ranges is not None and len(names) > 1:
        raise Unreadable("a pair in an interval")
    return form if ranges is None else Span(form.source, ranges)


def _read_list(tokens: Tokens) -> Form | None:
    parts, found = split(tokens, {",", ";", "or", "and"})
    if not found:
        return None
    oxford = [k for k, mark in enumerate(found) if mark in {"or", "and"} and k > 0 and not parts[k]]
    parts = [part for k, part in enumerate(parts) if k not in oxford]  # the empty place in "1, 2, and 3"
    if not all(parts):
        raise Unreadable("an empty place in a list")
    if any(split(part, INEQUALITIES)[1] for part in parts):
        return join_relations(tokens, parts, found)
    items = _items(parts)
    if is_compound(items):
        raise Unreadable("a quantity of several units")  # as a gold it is unknown, not two answers
    return Group(tokens, _without_shared_label(items), "")


def _items(parts: list[Tokens]) -> list[Form]:
    items: list[Form] = []
    for part in parts:
        form = parse(part)
        items += form.items if isinstance(form, Group) and form.brackets == "" else [form]
    return items


def _without_shared_label(items: list[Form]) -> tuple[Form, ...]:
    """x = 1, x = 2 and x = 1, 2 are the values of one unknown: 1, 2."""
    pairs = [item.sides for item in items if isinstance(item, Equation) and len(item.sides) == 2]
    if len(pairs) == len(items) and len({label.source for label, _ in pairs}) == 1:
        return tuple(value for _, value in pairs)
    first = items[0]
    if isinstance(first, Equation) and len(pairs) == 1 and len(first.sides) == 2 and is_name(first.sides[0].source):
        return (first.sides[1], *items[1:])
    return tuple(items)


def _read_chain(tokens: Tokens) -> Form | None:
    """Read equations a = b = c, relations, and approximations, of which the exact side counts."""
    parts, found = split(tokens, {"~="})
    if found:
        return parse(parts[0] if parts[0] and not is_name(parts[0]) else parts[1])
    sides, operators = split(tokens, INEQUALITIES | {"="})
    if not operators:
        return None
    if INEQUALITIES.intersection(operators):
        return read_relation(tokens)
    forms = tuple(map(parse, sides if sides[0] else sides[1:]))
    return Equation(tokens, forms) if len(forms) > 1 else forms[0]


def _read_union(tokens: Tokens) -> Form | None:
    parts, operations = split_sets(tokens)
    return combine(tokens, list(map(parse, parts)), operations) if operations else None


def _read_brackets(tokens: Tokens) -> Form | None:
    named = len(tokens) > 1 and tokens[0].kind == "var" and tokens[0].text.isupper() and tokens[1].text == "("
    start = 1 if named else 0  # A(1, 2) is the point (1, 2)
    opening = tokens[start].text
    if opening not in OPENS - {"{"} or closing(tokens, start) != len(tokens) - 1:
        return None
    inner = tokens[start + 1 : -1]
    brackets = opening + tokens[-1].text
    if brackets == "[[]]":
        return _matrix(tokens, [(row, split(row, {"&"})[0]) for row in split(inner, {"\\\\"})[0] if row])
    if brackets == "\\{\\}":
        return _read_set(tokens, inner)
    if not inner:
        raise Unreadable("nothing between brackets")
    parts, found = split(inner, {",", ";"})
    if brackets == "[]" and len(parts) > 1 and all(part and _is_row(part) for part in parts):
        return _matrix(tokens, [(part, split(part[1:-1], {","})[0]) for part in parts])
    if not found and brackets in {"()", "[]"}:
        form = None if named else _parse_if_readable(inner)
        return None if isinstance(form, Opaque) else form
    if not all(parts) or (len(parts) != 2 and brackets not in {"()", "[]"}) or "\\" in brackets:
        raise Unreadable("brackets that do not belong together")
    return Group(tokens, tuple(_items(parts)), brackets)


def _matrix(tokens: Tokens, rows: Sequence[tuple[Tokens, list[Tokens]]]) -> Group:
    """A matrix of rows, each the tokens of the row and of its entries."""
    return Group(tokens, tuple(Group(row, tuple(_items(entries)), "[[") for row, entries in rows), "[[")


def _is_row(tokens: Tokens) -> bool:
    """True for one row of a matrix written as [[1, 2], [3, 4]]."""
    return tokens[0].text == "[" and tokens[-1].text == "]" and closing(tokens, 0) == len(tokens) - 1


def _read_set(tokens: Tokens, inner: Tokens) -> Form:
    if not inner:
        return Group(tokens, (), "{}")
    parts, found = split(inner, {"|", ":"})
    if len(found) == 1 and all(parts) and split(parts[1], INEQUALITIES | {"in"})[1]:
        return _read_builder(tokens, parts[0], parts[1])
    items, _ = split(inner, {",", ";"})
    if not all(items):
        raise Unreadable("an empty place in a set")
    return Group(tokens, tuple(_items(items)), "{}")


def _read_builder(tokens: Tokens, left: Tokens, right: Tokens) -> Form:
    """Read {x | x > 1}, {x ∈ ℝ | x > 1} and {2kπ | k ∈ ℤ}, what is between the braces cut at the bar."""
    if is_name(left):
        return parse(right)
    if split(left, {"in"})[1]:
        domain = read_condition(left)
        if domain is None:
            raise Undecided("a set of other things than numbers")
        return Family(tokens, parse(right), (domain,))
    body, conditions = take_conditions((*left, Token("op", ","), *right))
    if not conditions:
        raise Undecided("a set by a condition of another kind")
    return Family(tokens, parse(body), conditions)


def _read_ratio(tokens: Tokens) -> Form | None:
    parts, found = split(tokens, {":"})
    if not found or not all(parts):
        return None
    return Group(tokens, tuple(_items(parts)), ":")


def _read_plus_minus(tokens: Tokens) -> Form | None:
    if not any(token.kind == "cmd" and token.text in {"pm", "mp"} for token in tokens):
        return None
    return Group(tokens, tuple(_items(both_signs(tokens))), "")


def _read_number(tokens: Tokens) -> Form:
    sign = infinity_sign(tokens)
    if sign is not None:
        return Infinite(tokens, sign)
    texts = [token.text for token in tokens if token.text not in {"{", "}"}]
    if tokens[0].kind == "num" and len(texts) == 3 and texts[1] == "_":
        return Based(tokens, texts[0], texts[2])
    core, scale, unit = split_quantity(tokens)
    try:
        value = evaluate(core)
    except Undecided:
        if unit[:1] != ("°",):
            raise
        core, unit = tokens, ()  # the degrees of sin 30° belong to its argument
        value = evaluate(tokens)
    return Number(core, Arithmetic().multiply(value, rational(scale)), unit)


_READERS: tuple[Callable[[Tokens], Form | None], ...] = (
    read_words,
    read_clock,
    _read_family,
    _read_membership,
    _read_list,
    _read_chain,
    _read_union,
    _read_brackets,
    _read_ratio,
    _read_plus_minus,
    _read_number,
)
