"""Compare two forms: CORRECT and INCORRECT are exact statements, Unsure is an honest question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sgsd.types import Status
from sgsd.verify.errors import Undecided, Unreadable
from sgsd.verify.math.algebra import Arithmetic, Sum, as_fraction, has_variable, rational, variables, without_poles
from sgsd.verify.math.brackets import is_label, is_name, is_simple_label
from sgsd.verify.math.conditions import weigh
from sgsd.verify.math.forms import (
    Based,
    Choice,
    Equation,
    Family,
    Form,
    Group,
    Infinite,
    Number,
    Opaque,
    Relation,
    Span,
    Words,
)
from sgsd.verify.math.lexer import Token, Tokens
from sgsd.verify.math.quantities import same_quantity
from sgsd.verify.math.ranges import equal as equal_ranges
from sgsd.verify.math.sets import ranges_of

_MAX_UNORDERED = 30  # items that are matched each against each


@dataclass(frozen=True, slots=True)
class Unsure:
    """Two token sequences that exact arithmetic could not compare."""

    answer: Tokens
    gold: Tokens


Decision = Status | Unsure
_OPERATIONS = frozenset({"cup", "cap", "setminus"})
_YES, _NO = Status.CORRECT, Status.INCORRECT


def compare_forms(answer: Form, gold: Form) -> Decision:
    """Compare an answer with a gold; not symmetric, because the gold sets what an answer must contain."""
    if isinstance(answer, Family) or isinstance(gold, Family):
        return _compare_families(answer, gold)
    if isinstance(answer, Choice):
        return _compare_choice(answer, gold)
    if isinstance(gold, Choice):
        return _is_letter(answer, gold) or _compare_contents(answer, gold.content)
    if (spelt := _spelt(gold)) and (answered := _spelt(answer)):
        return _truth(spelt == answered)  # ABC, SOS: words, in which the order counts
    answer, gold = _without_label(answer, gold), _without_label(gold, answer)
    if isinstance(gold, Equation):
        return _compare_with_equation(answer, gold)
    if isinstance(answer, Equation):
        return _compare_chain(answer, gold)
    if isinstance(answer, Words) or isinstance(gold, Words):
        return _truth(isinstance(answer, Words) and isinstance(gold, Words) and answer.text == gold.text)
    if isinstance(answer, Opaque) or isinstance(gold, Opaque):
        return _YES if answer.source == gold.source else Unsure(answer.source, gold.source)
    try:
        return _compare_exact(answer, gold)
    except Undecided:
        return Unsure(answer.source, gold.source)
    except Unreadable:  # (2, 1) is a pair but no interval
        return _NO


def _spelt(form: Form) -> str:
    """Two capitals or more and nothing else, as in the name of a line or an order of finish; empty for all else."""
    letters = "".join(token.text for token in form.source if token.kind in {"var", "word"})
    whole = len(letters) == sum(len(token.text) for token in form.source)
    return letters if whole and len(letters) > 1 and letters.isascii() and letters.isupper() else ""


def _compare_families(answer: Form, gold: Form) -> Decision:
    """The bodies, and what is said of their letters; where one side says nothing, what goes without saying."""
    bodies = [form.body if isinstance(form, Family) else form for form in (answer, gold)]
    said = [form.conditions if isinstance(form, Family) else () for form in (answer, gold)]
    decision = compare_forms(*bodies)
    if decision is _NO:
        return Status.UNKNOWN if all(said) and _shifted(*bodies) else _NO
    if all(said):
        return decision if set(said[0]) == set(said[1]) else Status.UNKNOWN
    weights = [weigh(condition, of_set=isinstance(bodies[0], Span)) for condition in said[0] or said[1]]
    if _NO in weights:
        return _NO
    return Status.UNKNOWN if Status.UNKNOWN in weights else decision


def _shifted(answer: Form, gold: Form) -> bool:
    """True where two bodies may run through the same values in another order: kπ and kπ + π, 2k and 2n."""
    if not isinstance(answer, Number) or not isinstance(gold, Number):
        return not isinstance(answer, Equation) and not isinstance(gold, Equation)
    exact = Arithmetic()
    difference = exact.subtract(answer.value, gold.value)
    total = exact.add(answer.value, gold.value)
    letters = variables(answer.value.num) | variables(gold.value.num)
    return len(letters) > 1 or not variables(difference.num) or not variables(total.num)


def _without_label(form: Form, other: Form) -> Form:
    """x: 34 as 34, unless the other side is a ratio too or x is no name."""
    match form, other:
        case _, Group(brackets=":"):
            return form
        case Group(brackets=":", items=(_, Number(value=value))), _ if has_variable(value):
            return form  # x:y is x/y
        case Group(brackets=":", items=(label, value)), _ if is_name(label.source):
            return value
    return form


def _truth(value: bool) -> Status:
    return _YES if value else _NO


def _compare_exact(answer: Form, gold: Form) -> Decision:
    match answer, gold:
        case Number(), Number():
            return _truth(same_quantity(answer, gold) or _same_option(answer, gold))
        case Infinite(), Infinite():
            return _truth(answer.sign == gold.sign)
        case Based(), Based():
            return _truth((answer.digits, answer.base) == (gold.digits, gold.base))
        case (Based(digits=digits), Number(source=source)) | (Number(source=source), Based(digits=digits)):
            return _truth([token.text for token in source] == [digits])  # the base is understood
        case Relation(), Relation():
            return _compare_relations(answer, gold)
        case (Relation(), Span()) | (Span(), Relation()):
            return Unsure(answer.source, gold.source)
        case (Span(), _) | (_, Span()):
            names = {form.variable for form in (answer, gold) if isinstance(form, Span)} - {""}
            a, g = ranges_of(answer), ranges_of(gold)
            return _truth(a is not None and g is not None and len(names) <= 1 and equal_ranges(a, g))
        case Group(), Group():
            return _compare_groups(answer, gold)
        case Group(items=items), _:
            lone = _compare_lone(answer, gold)
            return lone or (compare_forms(items[0], gold) if len(items) == 1 else _NO)
        case _, Group(items=items):
            lone = _compare_lone(gold, answer)
            return lone or (compare_forms(answer, items[0]) if len(items) == 1 else _NO)
    return _NO


def _same_option(answer: Number, gold: Number) -> bool:
    """b for B: options of a multiple choice, whatever their case."""
    if len(answer.source) != 1 or len(gold.source) != 1:
        return False
    letter = gold.source[0].text
    return letter in set("ABCDEFGH") and answer.source[0].text.upper() == letter


def _compare_relations(answer: Relation, gold: Relation) -> Decision:
    """a < b and b > a, x + y ≠ 1 and 2x + 2y ≠ 2: the same up to a factor, which an order needs positive."""
    a, g = answer.difference.num, gold.difference.num
    if answer.operator == gold.operator and Arithmetic().proportional(a, g):
        return _truth(gold.operator == "!=" or _same_sign(a, g))
    linear = all(sum(exponent for _, exponent in monomial) <= 1 for sum_ in (a, g) for monomial in sum_)
    return _NO if linear else Unsure(answer.source, gold.source)


def _same_sign(a: Sum, g: Sum) -> bool:
    return not a or (a[min(a)] > 0) == (g[min(g)] > 0)


def _compare_lone(group: Group, other: Form) -> Decision | None:
    """A ratio against one value: 3:2 is 3/2, 3:00 pm is 3; None for other groups and values."""
    match group:
        case Group(brackets=":", items=(Number() as top, Number() as bottom)) if isinstance(other, Number):
            if bottom.unit and not bottom.value.num:
                return compare_forms(top, other)
            exact = Arithmetic()
            return _truth(exact.equal(top.value, exact.multiply(other.value, bottom.value)))
    return None


def _compare_choice(answer: Choice, gold: Form) -> Decision:
    """(C) 42 against C compares letters, against 42 contents, against another option both."""
    if isinstance(gold, Choice):
        return _compare_contents(answer.content, gold.content) if answer.letter == gold.letter else _NO
    return _is_letter(gold, answer) or _compare_contents(answer.content, gold)


def _is_letter(form: Form, choice: Choice) -> Decision | None:
    """C against (C) 42; None for more than a letter."""
    if isinstance(form, Number) and len(form.source) == 1 and form.source[0].kind in {"var", "word"}:
        return _truth(form.source[0].text.upper() == choice.letter)
    return None


def _compare_contents(answer: Form | None, gold: Form | None) -> Decision:
    return _NO if answer is None or gold is None else compare_forms(answer, gold)


def _compare_groups(answer: Group, gold: Group) -> Decision:
    kinds = {answer.brackets, gold.brackets}
    if len(kinds) == 2 and not _OPERATIONS.isdisjoint(kinds):
        return _NO
    if len(answer.items) != len(gold.items):
        return _as_vectors(answer, gold)
    if kinds == {"cup"} or kinds == {"cap"}:
        return _unordered(answer, gold)
    if ":" in kinds and kinds == {":"}:
        return _compare_ratios(answer, gold)
    if kinds <= {"", "{}"}:
        labelled = [any(isinstance(item, Equation) for item in group.items) for group in (answer, gold)]
        if labelled[0] != labelled[1] and "{}" not in kinds:
            return _compare_labelled(answer, gold)
        return _unordered(answer, gold)
    if "{}" in kinds:
        return _NO
    answer, gold = _as_point(answer, gold), _as_point(gold, answer)
    long_rows = len(gold.items) >= 3 and kinds <= {"", "()", "[]"}  # with two items, [ ] is a closed interval
    if len(kinds) == 1 or kinds == {"", "()"} or long_rows:
        return _itemwise(answer, gold)
    return _as_vectors(answer, gold)


def _compare_labelled(answer: Group, gold: Group) -> Decision:
    """x = 1, y = 2 against 1, 2 in order; x_1 = 1, x_2 = 2 in any, for these are solutions of one unknown."""
    items = [item for group in (answer, gold) for item in group.items if isinstance(item, Equation)]
    names = [item.sides[0].source for item in items]
    roots = all("_" in (token.text for token in name) for name in names) and len({name[0] for name in names}) == 1
    return (_unordered if roots else _itemwise)(answer, gold)


def _as_point(group: Group, other: Group) -> Group:
    """y = 2, x = 1 beside a point (1, 2): in the order of x, y and z."""
    names = [item.sides[0].source[0].text for item in group.items if isinstance(item, Equation)]
    if (
        other.brackets != "()"
        or group.brackets
        or len(set(names)) < len(group.items)
        or not {"x", "y", "z"}.issuperset(names)
    ):
        return group
    return replace(group, items=tuple(item for _, item in sorted(zip(names, group.items), key=lambda pair: pair[0])))


def _as_vectors(answer: Group, gold: Group) -> Decision:
    """A matrix of one row or one column against a tuple."""
    if (answer.brackets == "[[") == (gold.brackets == "[["):
        return _NO
    matrix, other = (answer, gold) if answer.brackets == "[[" else (gold, answer)
    rows = [row.items for row in matrix.items if isinstance(row, Group)]
    flat = rows[0] if len(rows) == 1 else tuple(row[0] for row in rows if len(row) == 1)
    if other.brackets not in {"()", ""} or len(flat) != len(other.items):
        return _NO
    vector = Group(matrix.source, flat, "()")
    return _itemwise(vector, gold) if matrix is answer else _itemwise(answer, vector)


def _compare_ratios(answer: Group, gold: Group) -> Decision:
    """3:2 and 6:4: each part in the same proportion."""
    a = [item.value for item in answer.items if isinstance(item, Number)]
    g = [item.value for item in gold.items if isinstance(item, Number)]
    has_units = any(item.unit for item in (*answer.items, *gold.items) if isinstance(item, Number))
    if has_units or len(a) < len(answer.items) or len(g) < len(gold.items) or _is_clock(answer) or _is_clock(gold):
        return _compare_times(answer, gold)
    exact = Arithmetic()
    in_proportion = bool(a[0].num) == bool(g[0].num) and all(
        exact.equal(exact.multiply(a[0], g[k]), exact.multiply(a[k], g[0])) for k in range(1, len(a))
    )
    if in_proportion and _may_be_clock(answer) and _may_be_clock(gold):
        return _YES if _itemwise(answer, gold) is _YES else Status.UNKNOWN  # 1:20 and 2:40, ratios or times
    return _truth(in_proportion)


def _compare_times(answer: Group, gold: Group) -> Decision:
    """Times of day; where one side names no half of the day, 8:00 pm is 8:00 and 20:00."""
    on_24_hours = _on_24_hours(answer), _on_24_hours(gold)
    decision = _itemwise(answer, gold)
    if decision is not _NO or None not in on_24_hours:
        return decision
    return _itemwise(on_24_hours[0] or answer, on_24_hours[1] or gold)


def _on_24_hours(group: Group) -> Group | None:
    """1:00 pm as 13:00; None for a time without am or pm."""
    match group.items:
        case (Number(value=hours), *others, Number(unit=(("am" | "pm") as half,)) as last):
            hour = (as_fraction(hours) or 0) % 12 + 12 * (half == "pm")
            first = Number((Token("num", str(hour)),), rational(hour))
            return replace(group, items=(first, *others, replace(last, unit=())))
    return None


def _is_clock(group: Group) -> bool:
    """Surely a time: 3:05, 12:00, 0:30."""
    hours, *others = [[token.text for token in item.source] for item in group.items]
    return hours == ["0"] or any(len(text) == 1 and len(text[0]) == 2 and text[0][0] == "0" for text in others)


def _may_be_clock(group: Group) -> bool:
    """Perhaps a time: 1:20, of which minutes have two digits below 60."""
    texts = [item.source[0].text if len(item.source) == 1 else "" for item in group.items[1:]]
    return all(len(text) == 2 and text.isdigit() and int(text) < 60 for text in texts)


def _itemwise(answer: Group, gold: Group) -> Decision:
    decisions = [compare_forms(a, g) for a, g in zip(answer.items, gold.items)]
    return _all_of(decisions, answer.source, gold.source)


def _all_of(decisions: Sequence[Decision], answer: Tokens, gold: Tokens) -> Decision:
    """Equal when all are; one open question is asked alone, several as a whole."""
    if any(decision is _NO for decision in decisions):
        return _NO
    if Status.UNKNOWN in decisions:
        return Status.UNKNOWN
    unsure = [decision for decision in decisions if isinstance(decision, Unsure)]
    if len(unsure) == 1:
        return unsure[0]
    return Unsure(answer, gold) if unsure else _YES


def _unordered(answer: Group, gold: Group) -> Decision:
    """The same items in any order: first those written alike, then each against each."""
    left_g = list(gold.items)
    left_a: list[Form] = []
    for item in answer.items:
        plain = isinstance(item, Number) and not item.unit
        twin = next((k for k, other in enumerate(left_g) if plain and other.source == item.source), None)
        if twin is None:
            left_a.append(item)
        else:
            del left_g[twin]
    if len(left_a) > _MAX_UNORDERED:
        return _NO
    unsure: list[Form] = []
    for item in left_a:
        decisions = [compare_forms(item, other) for other in left_g]
        if _YES in decisions:
            del left_g[decisions.index(_YES)]
        elif any(isinstance(decision, Unsure) or decision is Status.UNKNOWN for decision in decisions):
            unsure.append(item)
        else:
            return _NO
    if not unsure:
        return _YES
    return compare_forms(unsure[0], left_g[0]) if len(unsure) == 1 else Unsure(answer.source, gold.source)


def _compare_with_equation(answer: Form, gold: Equation) -> Decision:
    if isinstance(answer, Equation):
        return _compare_equations(answer, gold)
    return compare_forms(answer, gold.sides[-1]) if is_simple_label(gold.sides[0].source) else _NO


def _compare_chain(answer: Equation, gold: Form) -> Decision:
    """x = 2 + 2 = 4 against 4: the last side counts, the others must name it or equal it: 1 = 34 does neither."""
    *others, value = answer.sides
    if not is_label(others[0].source) and is_name(value.source):
        others, value = [value, *others[1:]], others[0]  # 4 = x
    decision = compare_forms(value, gold)
    if decision is _NO:
        return _NO
    for other in others:
        if not is_label(other.source) and compare_forms(other, value) is _NO:
            return _NO
    return decision


def _compare_equations(answer: Equation, gold: Equation) -> Decision:
    same = _same_curve(answer, gold)
    if same is not None:
        return _truth(same)
    label_a, label_g = answer.sides[0], gold.sides[0]
    if not is_simple_label(label_a.source) or not is_simple_label(label_g.source):
        return Unsure(answer.source, gold.source)
    if is_name(label_a.source) and is_name(label_g.source) and compare_forms(label_a, label_g) is not _YES:
        return _NO
    return _compare_chain(answer, gold.sides[-1])


def _same_curve(answer: Equation, gold: Equation) -> bool | None:
    """True for one equation up to a factor: y = 2x + 3 and 4x − 2y + 6 = 0; None if that cannot be decided.

    In one variable the same roots have many equations, so there only a match is a statement.
    """
    sides = (*answer.sides, *gold.sides)
    values = [side.value for side in sides if isinstance(side, Number) and not side.unit]
    if len(answer.sides) != 2 or len(gold.sides) != 2 or len(values) != 4:
        return None
    exact = Arithmetic()
    try:
        a, g = exact.subtract(values[0], values[1]).num, exact.subtract(values[2], values[3]).num
        if a and exact.proportional(without_poles(a), without_poles(g)):
            return True
    except Undecided:
        return None
    return False if min(len(variables(a)), len(variables(g))) >= 2 else None
