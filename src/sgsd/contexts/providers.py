"""Contexts: from a problem to the prompts of its teachers. A provider never sees the rollout's outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sgsd.contexts.prompts import PromptSet, encode_chat
from sgsd.types import Problem, SkillPair, TeacherView, UserError

PairRetrieval = Callable[[Sequence[str]], Sequence[Sequence[SkillPair]]]


class ContextProvider(Protocol):
    """Makes the pool of teachers for each problem; the weights of a pool sum to 1."""

    def views(self, problems: Sequence[Problem]) -> list[tuple[TeacherView, ...]]: ...


@dataclass(frozen=True)
class PromptMaker:
    """Turns words into prompt ids and refuses to cut them short."""

    prompts: PromptSet
    tokenizer: Any
    max_tokens: int

    def student(self, problem: Problem, *, thinking: bool) -> tuple[int, ...]:
        self._refuse_control_tokens(problem, problem.text)
        return self._encode(problem, self.prompts.student(problem.text), thinking)

    def teacher(self, problem: Problem, context: str, *, thinking: bool) -> tuple[int, ...]:
        if not context.strip():
            raise UserError(f"problem {problem.id}: its teacher's context is empty")
        self._refuse_control_tokens(problem, problem.text + context)
        return self._encode(problem, self.prompts.teacher(problem.text, context), thinking)

    def _refuse_control_tokens(self, problem: Problem, text: str) -> None:
        """Words that the tokenizer reads as control tokens could end the user's turn and speak for the model."""
        found = next((token for token in self.tokenizer.get_added_vocab() if token.strip() and token in text), None)
        if found is not None:
            raise UserError(f"problem {problem.id}: its text holds the control token {found}; take it out")

    def _encode(self, problem: Problem, messages: list[dict[str, str]], thinking: bool) -> tuple[int, ...]:
        ids = encode_chat(self.tokenizer, messages, thinking=thinking)
        if len(ids) > self.max_tokens:
            raise UserError(
                f"problem {problem.id}: its prompt has {len(ids)} tokens, more than prompts.max_tokens"
                f" {self.max_tokens}; raise the limit or leave the problem out (nothing is ever cut)"
            )
        return ids


@dataclass(frozen=True)
class NoContextProvider:
    """For methods without a teacher."""

    def views(self, problems: Sequence[Problem]) -> list[tuple[TeacherView, ...]]:
        return [() for _ in problems]


@dataclass(frozen=True)
class SkillPairProvider:
    """One teacher for each retrieved (skill, mistake) pair."""

    maker: PromptMaker
    retrieve: PairRetrieval
    render: Callable[[SkillPair, str], str]  # the bank's own: the one way its text becomes prompt text
    thinking: bool

    def views(self, problems: Sequence[Problem]) -> list[tuple[TeacherView, ...]]:
        pools = self.retrieve([problem.text for problem in problems])
        return [tuple(self._view(problem, pair) for pair in pairs) for problem, pairs in zip(problems, pools)]

    def _view(self, problem: Problem, pair: SkillPair) -> TeacherView:
        context = self.render(pair, self.maker.prompts.text("skill_pair"))
        ids = self.maker.teacher(problem, context, thinking=self.thinking)
        return TeacherView("skill_pair", ids, pair.weight, pair.item_ids)


@dataclass(frozen=True)
class AnswerProvider:
    """One teacher that is shown the reference solution, or the bare answer where that is asked for or all there is."""

    maker: PromptMaker
    thinking: bool
    show_solution: bool = True

    def views(self, problems: Sequence[Problem]) -> list[tuple[TeacherView, ...]]:
        return [(self._view(problem),) for problem in problems]

    def _view(self, problem: Problem) -> TeacherView:
        if problem.gold is None:
            raise UserError(f"problem {problem.id}: it has no answer to show to its teacher")
        solution = problem.solution if self.show_solution else None
        context = self.maker.prompts.render("answer", answer=problem.gold, solution=solution)
        ids = self.maker.teacher(problem, context, thinking=self.thinking)
        return TeacherView("answer", ids, 1.0)
