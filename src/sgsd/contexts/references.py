"""Teachers that are shown what the data brings: the reference of a problem, a rubric, or another problem."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, ClassVar, Literal

from sgsd.contexts.base import Block, Context, Graded, Need, Pool, Resources, RolloutContext
from sgsd.types import Problem, UserError

Shown = Literal["answer", "solution", "solution_or_answer"]  # the last: the answer where a problem has no solution


@dataclass(frozen=True)
class Answer(Context):
    """The reference: the bare answer, the solution, or the solution where there is one."""

    show: Shown = "solution_or_answer"
    needs: ClassVar[frozenset[Need]] = frozenset({"answer"})
    controlled: ClassVar[bool] = False

    def all_needs(self) -> frozenset[Need]:
        return self.needs | ({"solution"} if self.show == "solution" else set())

    def block(self, problem: Problem, resources: Resources) -> Block:
        if problem.gold is None:
            raise UserError(f"problem {problem.id}: it has no answer to show to its teacher")
        if self.show == "solution" and problem.solution is None:
            raise UserError(
                f"problem {problem.id}: it has no solution to show to its teacher; name the column in data.solution,"
                " take the problem out, or show the answer"
            )
        if self.show == "answer" or problem.solution is None:
            return Block("answer", resources.render("answer", answer=problem.gold))
        return Block("solution", resources.render("solution", answer=problem.gold, solution=problem.solution))


@dataclass(frozen=True)
class Demonstration(Context):
    """The reference solution, or the answer, as an expert's demonstration of how to respond to this problem."""

    needs: ClassVar[frozenset[Need]] = frozenset({"answer"})
    controlled: ClassVar[bool] = False

    def block(self, problem: Problem, resources: Resources) -> Block:
        if problem.gold is None:
            raise UserError(f"problem {problem.id}: it has no answer to demonstrate to its teacher")
        text = resources.render("demonstration", answer=problem.gold, solution=problem.solution)
        return Block("demonstration", text)


@dataclass(frozen=True)
class Rubric(Context):
    """The criteria of a good solution of this problem: the text of `meta["rubric"]`, or its JSON."""

    needs: ClassVar[frozenset[Need]] = frozenset({"rubric"})
    controlled: ClassVar[bool] = False

    def block(self, problem: Problem, resources: Resources) -> Block:
        rubric: Any = problem.meta.get("rubric")
        if not rubric:
            raise UserError(
                f"problem {problem.id}: it has no rubric to show to its teacher; name a column by data.rubric"
            )
        text = rubric if isinstance(rubric, str) else json.dumps(rubric, ensure_ascii=False)
        return Block("rubric", resources.render("rubric", rubric=text))


# ── Of another problem ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class WrongAnswer(Context):
    """Control: another problem's answer, in the words that show one's own.

    Answers are compared as text without spaces and dollar signs: ½ and 0.5 count as different.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"answer", "problems"})
    controlled: ClassVar[bool] = False

    def block(self, problem: Problem, resources: Resources) -> Block:
        own, key = _bare(problem.gold), f"wrong_answer/{resources.seed}/{problem.id}"
        found = draw_problem(resources.problems, key, lambda other: _bare(other.gold) != own)
        if found is None or problem.gold is None:
            raise UserError(
                f"problem {problem.id}: no other problem has another answer to show instead; give more data"
            )
        return Block("wrong_answer", resources.render("answer", answer=found.gold))


@dataclass(frozen=True)
class OtherProblem(Context):
    """Control, and OP²SD's teacher: another problem with its solution, or with its answer where it has none."""

    needs: ClassVar[frozenset[Need]] = frozenset({"answer", "problems"})
    controlled: ClassVar[bool] = False

    def block(self, problem: Problem, resources: Resources) -> Block:
        key = f"other_problem/{resources.seed}/{problem.id}"
        found = draw_problem(resources.problems, key, lambda other: is_another(other, problem))
        if found is None:
            raise UserError(f"problem {problem.id}: there is no other problem to show to its teacher; give more data")
        shown = {"problem": found.text, "answer": found.gold, "solution": found.solution}
        return Block("other_problem", resources.render("other_problem", **shown))


def draw_problem(problems: Sequence[Problem], key: str, fits: Callable[[Problem], bool]) -> Problem | None:
    """The first that fits and has an answer, from a place on that `key` alone decides; none where not one does."""
    start = random.Random(key).randrange(max(1, len(problems)))
    in_turn = (problems[place] for place in chain(range(start, len(problems)), range(start)))
    return next((problem for problem in in_turn if problem.gold is not None and fits(problem)), None)


def is_another(other: Problem, problem: Problem) -> bool:
    return other.id != problem.id and " ".join(other.text.split()) != " ".join(problem.text.split())


def _bare(answer: str | None) -> str:
    return "".join(str(answer).split()).replace("$", "")


# ── With the model's own explanation ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class ReasonFirst(RolloutContext):
    """The text that another context shows, and under it how the model itself explains it, before it scores.

    The model writes under the prompt that the teacher would have without this. Of the rollout it sees nothing; the
    rollout's index seeds what it writes.
    """

    part: Context
    needs: ClassVar[frozenset[Need]] = frozenset({"engine"})

    def __post_init__(self) -> None:
        if self.part.teachers != 1 or self.part.sees_rollouts:
            raise ValueError("one teacher reasons first, about a context that is made from problems")

    def leaves(self) -> Iterator[Context]:
        yield from self.part.leaves()

    def all_needs(self) -> frozenset[Need]:
        return self.needs | self.part.all_needs()

    def substitute(self, change: Callable[[Context], Context]) -> Context:
        return replace(self, part=self.part.substitute(change))

    def before_rollouts(self) -> Context:
        return self.part

    def sampled_kinds(self) -> list[str]:
        return [f"{type(self.part).__name__.lower()} with reasons"]

    def blocks(self, rollouts: Sequence[Graded], resources: Resources) -> list[Pool]:
        assert resources.reasoner is not None, "a run has an engine"
        blocks = [block for (block,) in self.part.blocks([rollout.problem for rollout in rollouts], resources)]
        written = resources.reasoner(rollouts, blocks)
        return [(self._block(*found, resources),) for found in zip(blocks, written, strict=True)]

    def _block(self, block: Block, written: str, resources: Resources) -> Block:
        reasons = resources.quote.thoughts(written)
        if not reasons:
            return block
        text = resources.render("reasoned", context=block.text, reasons=reasons)
        return Block(f"{block.source}+reasons", text, block.weight, block.item_ids, optional=True)
