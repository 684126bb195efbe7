"""Contexts: what the teachers of a method are shown. Declarations only; the room `contexts` makes them into prompts.

Leaves say one thing each; `Joined` shows several at once to the same teacher, `Mixed` puts several kinds of teachers
into one pool.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal, get_args

Shown = Literal["answer", "solution", "solution_or_answer"]  # the last: the answer where a problem has no solution
PairSide = Literal["pair", "skill", "mistake"]
Need = Literal["bank", "answer", "solution", "group", "rubric", "writer", "engine"]
ContextName = Literal[
    "null",
    "irrelevant",
    "shuffled",
    "random",
    "answer",
    "wrong_answer",
    "other_problem",
    "demonstration",
    "sibling",
    "feedback",
    "rubric",
    "critique",
]


@dataclass(frozen=True)
class Context:
    """A kind of teacher. `needs` names what a run must have for it."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    @property
    def teachers(self) -> int:
        """How many teachers judge a rollout."""
        return 1

    def leaves(self) -> Iterator[Context]:
        """The contexts it is made of that are not made of others."""
        yield self

    def all_needs(self) -> frozenset[Need]:
        return self.needs


@dataclass(frozen=True)
class NoContext(Context):
    """There is no teacher."""

    @property
    def teachers(self) -> int:
        return 0


# ── From the bank ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class SkillPairs(Context):
    """K teachers, each shown one retrieved (skill, common mistake) pair, or one side of it."""

    k: int = 8
    side: PairSide = "pair"
    needs: ClassVar[frozenset[Need]] = frozenset({"bank"})

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, not {self.k}")
        if self.side not in get_args(PairSide):
            raise ValueError(f"a teacher is shown a pair, its skill or its mistake, not {self.side!r}")

    @property
    def teachers(self) -> int:
        return self.k


@dataclass(frozen=True)
class Irrelevant(SkillPairs):
    """Control: for each retrieved pair one about something else, as long as it."""


@dataclass(frozen=True)
class Shuffled(SkillPairs):
    """Control: the pairs retrieved for another problem."""


@dataclass(frozen=True)
class RandomPairs(SkillPairs):
    """Control: pairs drawn from the bank by chance, a function of the problem and the seed."""


# ── About the problem ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Answer(Context):
    """The reference: the bare answer, the solution, or the solution where there is one.

    `reason_first`: the teacher writes down, before it judges, how that answer comes about, and sees its own words too.
    """

    show: Shown = "solution_or_answer"
    reason_first: bool = False
    needs: ClassVar[frozenset[Need]] = frozenset({"answer"})

    def all_needs(self) -> frozenset[Need]:
        solution: frozenset[Need] = frozenset({"solution"}) if self.show == "solution" else frozenset()
        engine: frozenset[Need] = frozenset({"engine"}) if self.reason_first else frozenset()
        return self.needs | solution | engine


@dataclass(frozen=True)
class Demonstration(Context):
    """The reference solution as an expert's demonstration of how to respond to this problem."""

    needs: ClassVar[frozenset[Need]] = frozenset({"answer"})


@dataclass(frozen=True)
class Rubric(Context):
    """What a good solution of this problem is judged by, from the data's own column."""

    needs: ClassVar[frozenset[Need]] = frozenset({"rubric"})


@dataclass(frozen=True)
class WrongAnswer(Context):
    """Control: an answer that is not this problem's, shown as if it were."""

    needs: ClassVar[frozenset[Need]] = frozenset({"answer"})


@dataclass(frozen=True)
class OtherProblem(Context):
    """Control, and OP²SD's teacher: another problem together with its reference."""

    needs: ClassVar[frozenset[Need]] = frozenset({"answer"})


@dataclass(frozen=True)
class Null(Context):
    """Control: nothing is shown. The student's own prompt, in the teachers' thinking mode."""


# ── About the rollouts ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Sibling(Context):
    """A successful rollout of the same problem, never the one that is judged; left out where there is none."""

    needs: ClassVar[frozenset[Need]] = frozenset({"group"})


@dataclass(frozen=True)
class Hints(Context):
    """One teacher shown a successful sibling and `wrong` teachers each shown a failed one, all in the same words.

    As many failed ones as there are, up to `wrong`; without a success, or a failure, nobody is shown anything.
    """

    wrong: int = 1
    needs: ClassVar[frozenset[Need]] = frozenset({"group"})

    def __post_init__(self) -> None:
        if self.wrong < 1:
            raise ValueError(f"a contrast needs at least 1 wrong hint, not {self.wrong}")

    @property
    def teachers(self) -> int:
        return 1 + self.wrong


@dataclass(frozen=True)
class Feedback(Context):
    """What the verifier made of the rollout that is judged: the answer it read, and whether that was right."""


@dataclass(frozen=True)
class Critique(Context):
    """What a critic who sees the reference writes about the rollout, step by step; the critic is the run's writer."""

    needs: ClassVar[frozenset[Need]] = frozenset({"answer", "writer"})


# ── Of several ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Joined(Context):
    """Every teacher of one part sees, beside its own, what each teacher of the others sees: K pairs × 1 answer = K."""

    parts: tuple[Context, ...]

    @property
    def teachers(self) -> int:
        return prod(part.teachers for part in self.parts)

    def leaves(self) -> Iterator[Context]:
        for part in self.parts:
            yield from part.leaves()

    def all_needs(self) -> frozenset[Need]:
        return frozenset().union(*(part.all_needs() for part in self.parts))


@dataclass(frozen=True)
class Mixed(Context):
    """Teachers of several kinds in one pool; each kind weighs by its number of teachers."""

    parts: tuple[Context, ...]

    @property
    def teachers(self) -> int:
        return sum(part.teachers for part in self.parts)

    def leaves(self) -> Iterator[Context]:
        for part in self.parts:
            yield from part.leaves()

    def all_needs(self) -> frozenset[Need]:
        return frozenset().union(*(part.all_needs() for part in self.parts))


def named(name: ContextName) -> Context:
    """One teacher of a kind, by its name; those of the bank are shown the best pair."""
    return {
        "null": Null(),
        "irrelevant": Irrelevant(1),
        "shuffled": Shuffled(1),
        "random": RandomPairs(1),
        "answer": Answer(),
        "wrong_answer": WrongAnswer(),
        "other_problem": OtherProblem(),
        "demonstration": Demonstration(),
        "sibling": Sibling(),
        "feedback": Feedback(),
        "rubric": Rubric(),
        "critique": Critique(),
    }[name]


def joined(context: Context, *others: Context) -> Context:
    """The context itself where there is nothing to join it with."""
    return Joined((context, *others)) if others else context


def mixed(context: Context, *others: Context) -> Context:
    """The context itself where there is nothing to mix it with."""
    return Mixed((context, *others)) if others else context
