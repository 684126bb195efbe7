"""Takes what is said of an answer's letters (k ∈ ℤ, n ≥ 1, for all real x) off its end, and weighs it."""

from __future__ import annotations

from typing import NamedTuple

from sgsd.types import Status
from sgsd.verify.math.brackets import depths, is_name, opening, split
from sgsd.verify.math.lexer import Tokens
from sgsd.verify.math.units import words

_RELATIONS = frozenset({"<", "<=", ">", ">=", "!=", "in"})
_OPENERS = words("for where with")
_FILLERS = words("all any every each number numbers is are a an arbitrary constant constants")
_SETS = {"integer": "Z", "integers": "Z", "natural": "N", "real": "R", "reals": "R", "rational": "Q", "complex": "C"}
_SIGNS = {"positive": "> 0", "nonnegative": ">= 0"}
_DRESS = frozenset({"{", "}", "mathbb", "mathbf"})
_COUNTERS = frozenset("ijmn")  # letters that stand for whole numbers unless another set is named


class Condition(NamedTuple):
    """Letters, the set they are from (Z, N, Q, R, C, or as written), and a bound such as ">= 1", empty for none."""

    letters: tuple[str, ...]
    domain: str
    bound: str


def take_conditions(tokens: Tokens) -> tuple[Tokens, tuple[Condition, ...]]:
    """Cut off what is said behind an answer: after a comma, in brackets, or by words ("for all x", "where k ∈ ℤ")."""
    body, found = _worded(tokens)
    while stated := _stated_last(body):
        body, condition = stated
        found = [condition, *found]
    return body, tuple(found)


def _worded(tokens: Tokens) -> tuple[Tokens, list[Condition]]:
    start = opening(tokens, len(tokens) - 1)
    if tokens[start].text == "(" and start and (condition := _stated(tokens[start + 1 : -1], [tokens[:start]])):
        return tokens[:start], [condition]
    open_before = [0, *depths(tokens)]
    for at in range(1, len(tokens)):
        opener = tokens[at].text.lower() in _OPENERS if tokens[at].kind == "word" else tokens[at].text == "forall"
        if opener and not open_before[at]:
            condition = read_condition(tokens[at + 1 :])
            end = at - 1 if tokens[at - 1].text in {",", ";"} else at
            return (tokens[:end], [condition]) if condition and end else (tokens, [])
    return tokens, []


def _stated_last(tokens: Tokens) -> tuple[Tokens, Condition] | None:
    """What stands before the last parts of a list, and the condition these are: n ≥ 1, or a, b ∈ ℝ."""
    parts, _ = split(tokens, {",", ";"})
    if not split(parts[-1], _RELATIONS)[1]:
        return None
    for count in range(1, min(len(parts), 4)):
        start = len(tokens) - sum(map(len, parts[-count:])) - count + 1
        if condition := _stated(tokens[start:], parts[:-count]):
            return tokens[: start - 1], condition
    return None


def _stated(part: Tokens, before: list[Tokens]) -> Condition | None:
    """A statement about letters that what stands before it uses, and is no such statement itself."""
    sides, found = split(part, _RELATIONS)
    names = split(sides[0], {","})[0]
    if len(found) != 1 or not all(map(is_name, names)) or not sides[1]:
        return None
    used = all(any(name[0] in other for other in before) for name in names)
    others = {"in"} if found == ["in"] else _RELATIONS
    itself = any(is_name(other) or split(other, others)[1] for other in before)
    return read_condition(part) if used and not itself else None


def read_condition(tokens: Tokens) -> Condition | None:
    """Read one condition; None for words or relations that are none."""
    spoken = [token.text.lower() for token in tokens if token.kind == "word"]
    rest = tuple(token for token in tokens if token.kind != "word")
    if any(word not in _FILLERS | _SETS.keys() | _SIGNS.keys() for word in spoken):
        return None
    sides, found = split(rest, _RELATIONS)
    names = split(sides[0], {","})[0]
    if len(found) > 1 or not all(map(is_name, names)):
        return None
    letters = tuple(sorted("".join(token.text for token in name) for name in names))
    domain = next((_SETS[word] for word in spoken if word in _SETS), "")
    bound = next((_SIGNS[word] for word in spoken if word in _SIGNS), "")
    if found == ["in"]:
        named = " ".join(token.text for token in sides[1] if token.text not in _DRESS).replace("reals", "R")
        domain, _, sign = named.partition(" ^ ")
        bound = {"+": "> 0", "*": "!= 0"}.get(sign, sign) or bound
    elif found:
        bound = " ".join((*found, *(token.text for token in sides[1])))
    counts = domain in {"Z", "N"} or (not domain and _COUNTERS.issuperset(name[0] for name in letters))
    if counts:
        bound = ">= 1" if bound == "> 0" else bound
    return Condition(letters, domain or ("Z" if counts else "R"), bound)


def weigh(condition: Condition, *, of_set: bool) -> Status:
    """CORRECT for what goes without saying where the other side says nothing, UNKNOWN for what may, else INCORRECT.

    Of a set of reals (`of_set`) only membership in the reals goes without saying.
    """
    _, domain, bound = condition
    if of_set:
        return Status.CORRECT if (domain, bound) == ("R", "") else Status.INCORRECT
    if domain in {"Z", "R", "C"} and not bound:
        return Status.CORRECT
    if domain in {"Z", "N"} and bound in {"", ">= 0", ">= 1"}:
        counted = _COUNTERS.issuperset(name[0] for name in condition.letters)
        return Status.CORRECT if counted else Status.UNKNOWN
    usual = bound in {"> 0", ">= 0", "> 1", ">= 1", ">= 2"} or bound.startswith("!=")
    return Status.UNKNOWN if usual else Status.INCORRECT
