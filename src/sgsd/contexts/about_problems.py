"""Contexts about the problem beyond its answer: a demonstration, a rubric, and what belongs to another problem.

They are makers of blocks that are handed problems, never an outcome; what they draw for a problem is decided by its id
and the seed, whatever batch it stands in.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sgsd.contexts.blocks import Block
from sgsd.contexts.prompts import PromptSet
from sgsd.types import Problem, UserError


@dataclass(frozen=True)
class DemonstrationBlocks:
    """One block with the reference as an expert's demonstration; the answer alone where there is no solution."""

    prompts: PromptSet

    def __call__(self, problems: Sequence[Problem]) -> list[tuple[Block, ...]]:
        return [(self._block(problem),) for problem in problems]

    def _block(self, problem: Problem) -> Block:
        if problem.gold is None:
            raise UserError(f"problem {problem.id}: it has no answer to demonstrate to its teacher")
        shown = {"answer": problem.gold, "solution": problem.solution}
        return Block("demonstration", self.prompts.render("demonstration", **shown))


@dataclass(frozen=True)
class RubricBlocks:
    """One block with what a good solution is judged by: the text of `meta["rubric"]`, or its JSON."""

    prompts: PromptSet

    def __call__(self, problems: Sequence[Problem]) -> list[tuple[Block, ...]]:
        return [(self._block(problem),) for problem in problems]

    def _block(self, problem: Problem) -> Block:
        rubric: Any = problem.meta.get("rubric")
        if not rubric:
            raise UserError(
                f"problem {problem.id}: it has no rubric to show to its teacher; name a column by data.rubric"
            )
        text = rubric if isinstance(rubric, str) else json.dumps(rubric, ensure_ascii=False)
        return Block("rubric", self.prompts.render("rubric", rubric=text))


@dataclass(frozen=True)
class WrongAnswerBlocks:
    """The control `wrong_answer`: another problem's answer, in the words that show one's own.

    Answers are compared as text without spaces and dollar signs: ½ and 0.5 count as different.
    """

    prompts: PromptSet
    others: Sequence[Problem]
    seed: int = 0

    def __call__(self, problems: Sequence[Problem]) -> list[tuple[Block, ...]]:
        return [(self._block(problem),) for problem in problems]

    def _block(self, problem: Problem) -> Block:
        own = _bare(problem.gold)
        found = drawn(self.others, f"wrong_answer/{self.seed}/{problem.id}", lambda other: _bare(other.gold) != own)
        if found is None or problem.gold is None:
            raise UserError(
                f"problem {problem.id}: no other problem has another answer to show instead; give more data"
            )
        return Block("wrong_answer", self.prompts.render("answer", answer=found.gold))


@dataclass(frozen=True)
class OtherProblemBlocks:
    """The control `other_problem`: another problem together with its solution, or its answer where it has none."""

    prompts: PromptSet
    others: Sequence[Problem]
    seed: int = 0

    def __call__(self, problems: Sequence[Problem]) -> list[tuple[Block, ...]]:
        return [(self._block(problem),) for problem in problems]

    def _block(self, problem: Problem) -> Block:
        found = drawn(self.others, f"other_problem/{self.seed}/{problem.id}", lambda other: _another(other, problem))
        if found is None:
            raise UserError(f"problem {problem.id}: there is no other problem to show to its teacher; give more data")
        shown = {"problem": found.text, "answer": found.gold, "solution": found.solution}
        return Block("other_problem", self.prompts.render("other_problem", **shown))


def drawn(problems: Sequence[Problem], key: str, fits: Callable[[Problem], bool]) -> Problem | None:
    """The first that fits and has an answer, from a place on that `key` alone decides; none where not one does."""
    start = random.Random(key).randrange(max(1, len(problems)))
    in_turn = (problems[place] for place in chain(range(start, len(problems)), range(start)))
    return next((problem for problem in in_turn if problem.gold is not None and fits(problem)), None)


def _another(other: Problem, problem: Problem) -> bool:
    return other.id != problem.id and " ".join(other.text.split()) != " ".join(problem.text.split())


def _bare(answer: str | None) -> str:
    return "".join(str(answer).split()).replace("$", "")
