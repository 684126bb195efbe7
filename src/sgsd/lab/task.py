"""The lab's task: short integer arithmetic in which each trap has a right and a faulty procedure.

A problem belongs to a family, which meets one or two branches, the points at which the right and the faulty procedure
diverge. Choosing a procedure for every branch fixes the derivation:

    3+4*5, precedence right:   4*5=20, 3+20=23. \\boxed{23}
    3+4*5, precedence faulty:  3+4=7, 7*5=35. \\boxed{35}

Everything is enumerable, and the held-out split is decided by a hash of the problem's text alone.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, product

from sgsd.types import Problem, UserError

BRANCHES = ("precedence", "bracket", "carry", "mod", "square", "minus")

#: How often the untaught model takes the right procedure on a plain prompt, branch by branch.
RIGHT_SHARE: Mapping[str, float] = {
    "precedence": 0.55, "bracket": 0.50, "carry": 0.60, "mod": 0.45, "square": 0.55, "minus": 0.50,
}  # fmt: skip

#: How the steps of a derivation are joined; the answer is the same in every style.
STYLES: Mapping[str, Callable[[Sequence[str]], str]] = {
    "plain": lambda steps: ", ".join(steps) + ". ",
    "then": lambda steps: "; then ".join(steps) + "; ",
    "so": lambda steps: "".join(f"so {step} " for step in steps) + "so ",
    "lines": lambda steps: "".join(f"- {step}\n" for step in steps),
}

ALL_RIGHT: Mapping[str, bool] = dict.fromkeys(BRANCHES, True)

Derivation = tuple[tuple[str, ...], int]


@dataclass(frozen=True, slots=True)
class Family:
    """Problems of one shape: the wording, the branches it meets, its operands and how it is worked out."""

    name: str
    wording: str
    branches: tuple[str, ...]
    operands: tuple[range, ...]
    derive: Callable[[Sequence[int], Mapping[str, bool]], Derivation | None]


def _chain(*steps: tuple[int, str, int]) -> Derivation | None:
    """Write out the steps, or None where a value leaves the small range the policy has learned."""
    texts, value = [], 0
    for left, operator, right in steps:
        value = {"+": left + right, "-": left - right, "*": left * right}[operator]
        if not 0 <= value < 300:
            return None
        texts.append(f"{left}{operator}{right}={value}")
    return tuple(texts), value


def _precedence(x: Sequence[int], right: Mapping[str, bool]) -> Derivation | None:
    a, b, c = x
    if right["precedence"]:
        return _chain((b, "*", c), (a, "+", b * c))
    return _chain((a, "+", b), (a + b, "*", c))


def _bracket(x: Sequence[int], right: Mapping[str, bool]) -> Derivation | None:
    a, b, c = x
    if right["bracket"]:
        return _chain((b, "-", c), (a, "-", b - c))
    return _chain((a, "-", b), (a - b, "-", c))


def _carry(x: Sequence[int], right: Mapping[str, bool]) -> Derivation | None:
    (a, b), (units, tens) = x, (x[0] % 10 + x[1] % 10, x[0] // 10 + x[1] // 10)
    if units < 10 or tens > 8:
        return None
    first = f"{a % 10}+{b % 10}={units}"
    if right["carry"]:
        return (first, f"{a // 10}+{b // 10}+1={tens + 1}"), 10 * (tens + 1) + units - 10
    return (first, f"{a // 10}+{b // 10}={tens}"), 10 * tens + units - 10


def _mod(x: Sequence[int], right: Mapping[str, bool]) -> Derivation | None:
    a, b = x
    if a % b == 0:
        return None
    below = a // b
    if right["mod"]:
        return _chain((b, "*", below), (a, "-", b * below))
    return _chain((b, "*", below + 1), (b * (below + 1), "-", a))


def _square(x: Sequence[int], right: Mapping[str, bool]) -> Derivation | None:
    a, b = x
    factor = a if right["square"] else 2
    return _chain((a, "*", factor), (a * factor, "+", b))


def _minus(x: Sequence[int], right: Mapping[str, bool]) -> Derivation | None:
    a, b, c = x
    sign, total = ("+", a + b) if right["minus"] else ("-", a - b)
    return _chain((a, sign, b), (total, "+", c))


def _square_bracket(x: Sequence[int], right: Mapping[str, bool]) -> Derivation | None:
    a, b, c = x
    factor = a if right["square"] else 2
    rest = _bracket((a * factor, b, c), right)
    first = _chain((a, "*", factor))
    return None if rest is None or first is None else (first[0] + rest[0], rest[1])


def _precedence_minus(x: Sequence[int], right: Mapping[str, bool]) -> Derivation | None:
    a, b, c, d = x
    start = _precedence((a, b, c), right)
    if start is None:
        return None
    end = _chain((start[1], "+" if right["minus"] else "-", d))
    return None if end is None else (start[0] + end[0], end[1])


FAMILIES: tuple[Family, ...] = (
    Family("precedence", "Sum with a product: {0}+{1}*{2}", ("precedence",),
           (range(1, 10), range(2, 10), range(2, 10)), _precedence),
    Family("bracket", "Bracket: {0}-({1}-{2})", ("bracket",),
           (range(20, 60), range(5, 20), range(1, 10)), _bracket),
    Family("carry", "Addition: {0}+{1}", ("carry",), (range(11, 80), range(11, 80)), _carry),
    Family("mod", "Remainder: {0} mod {1}", ("mod",), (range(10, 90), range(3, 10)), _mod),
    Family("square", "Square: {0}^2+{1}", ("square",), (range(3, 16), range(1, 50)), _square),
    Family("minus", "Double minus: {0}--{1}+{2}", ("minus",),
           (range(20, 60), range(2, 20), range(1, 10)), _minus),
    Family("square_bracket", "Square with a bracket: {0}^2-({1}-{2})", ("square", "bracket"),
           (range(6, 16), range(3, 13), range(1, 10)), _square_bracket),
    Family("precedence_minus", "Product with a double minus: {0}+{1}*{2}--{3}", ("precedence", "minus"),
           (range(1, 10), range(2, 10), range(2, 10), range(1, 10)), _precedence_minus),
)  # fmt: skip
FAMILY_NAMES = tuple(family.name for family in FAMILIES)


@dataclass(frozen=True, slots=True)
class Solution:
    """A derivation and the answer it reaches."""

    working: str
    answer: str

    @property
    def text(self) -> str:
        return f"{self.working}\\boxed{{{self.answer}}}"

    @property
    def thinking_text(self) -> str:
        """The same work inside a think block, the way the policy answers with thinking on."""
        return f"<think>\n{self.working.strip()}\n</think>\n\n\\boxed{{{self.answer}}}"


@dataclass(frozen=True, slots=True)
class LabProblem:
    """One expression with its operands."""

    family: Family
    operands: tuple[int, ...]

    @property
    def text(self) -> str:
        return self.family.wording.format(*self.operands)

    @property
    def branches(self) -> tuple[str, ...]:
        return self.family.branches

    def solve(self, right: Mapping[str, bool], style: str = "plain") -> Solution:
        """The derivation that takes the given procedure at every branch, and the answer it reaches."""
        derivation = self.family.derive(self.operands, right)
        assert derivation is not None, "problems are made by enumerate_problems, which keeps derivable ones only"
        steps, answer = derivation
        return Solution(STYLES[style](steps), str(answer))

    def to_problem(self) -> Problem:
        solution = self.solve(ALL_RIGHT)
        digest = hashlib.sha256(self.text.encode()).hexdigest()[:12]
        return Problem(
            id=f"lab-{digest}",
            text=self.text,
            gold=solution.answer,
            solution=solution.text,
            meta={"branches": self.branches},
        )


def _distinct_outcomes(family: Family, operands: tuple[int, ...]) -> bool:
    """Keep an expression only if every mix of procedures is derivable and reaches an answer of its own."""
    answers = []
    for choice in product((True, False), repeat=len(family.branches)):
        derivation = family.derive(operands, dict(zip(family.branches, choice)))
        if derivation is None:
            return False
        answers.append(derivation[1])
    return len(set(answers)) == len(answers)


def is_held_out(text: str) -> bool:
    """One problem in six is kept from pre-training and from training; its text alone decides."""
    return hashlib.sha256(text.encode()).digest()[0] % 6 == 0


@cache
def enumerate_problems(name: str, held_out: bool) -> tuple[LabProblem, ...]:
    """Every problem of a family on one side of the split, in an order that a hash shuffles."""
    family = next(family for family in FAMILIES if family.name == name)
    made = (LabProblem(family, x) for x in product(*family.operands) if _distinct_outcomes(family, x))
    kept = [problem for problem in made if is_held_out(problem.text) == held_out]
    return tuple(sorted(kept, key=lambda problem: hashlib.sha256(problem.text.encode()).digest()))


def problems(*, held_out: bool, seed: int, families: Sequence[str] = FAMILY_NAMES) -> Iterator[LabProblem]:
    """An endless stream of problems: families drawn evenly, problems uniformly, all on one side of the split."""
    rng = random.Random(f"{seed}/{held_out}/1")
    while True:
        yield rng.choice(enumerate_problems(rng.choice(families), held_out))


def held_out_problems(count: int) -> list[LabProblem]:
    """`count` distinct held-out problems, the same ones every time, families in turn.

    Raises UserError: the split does not hold that many.
    """
    pools = [enumerate_problems(name, True) for name in FAMILY_NAMES]
    if count > (most := sum(map(len, pools))):
        raise UserError(f"lab:held-out has {most} problems, {count} were asked for")
    in_turn = (pool[i] for i in range(max(map(len, pools))) for pool in pools if i < len(pool))
    return list(islice(in_turn, count))
