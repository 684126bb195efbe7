"""Builders of prompts: the student's, in training and in an evaluation, and its teachers'."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from sgsd.contexts.base import Batch, Block, Context, Graded, Resources, make_pools
from sgsd.contexts.prompts import PromptSet, encode_chat
from sgsd.types import Problem, SkillPair, TeacherView, UserError

Unfit = Literal["error", "skip"]
PREPARED_TOKENS = 4_000_000  # of teachers' prompts that are kept for their step: 170 MB by tracemalloc
PREPARED_TOGETHER = 64  # problems whose queries are embedded at once


class UnfitPrompt(UserError):
    """A prompt that is too long, or a teacher's with nothing in it: refused or left out, never cut."""


@dataclass(frozen=True)
class PromptBuilder:
    """Makes the ids of a prompt from a problem and what its teacher is shown; never cuts one short."""

    templates: PromptSet
    tokenizer: Any
    max_tokens: int
    template_kwargs: Mapping[str, Any] = field(default_factory=dict, kw_only=True)  # switches of the chat template
    skipping: ClassVar[str] = "leave such problems out"  # what `unfit: skip` does about a student's prompt

    def student(self, problem: Problem, *, thinking: bool) -> tuple[int, ...]:
        """Raises UnfitPrompt, and UserError for text that holds a control token."""
        return self._encode(f"problem {problem.id}", problem.text, self.templates.student(problem.text), thinking)

    def teacher(self, problem: Problem, context: str, *, thinking: bool, name: str = "") -> tuple[int, ...]:
        """Raises UnfitPrompt that names the problem and the teacher, and UserError for a control token."""
        where = f"problem {problem.id}" + (f", teacher {name}" if name else "")
        if not context.strip():
            raise UnfitPrompt(f"{where}: its teacher's context is empty")
        messages = self.templates.teacher(problem.text, context)
        return self._encode(where, problem.text + context, messages, thinking)

    @cached_property
    def control_tokens(self) -> tuple[str, ...]:
        return tuple(token for token in self.tokenizer.get_added_vocab() if token.strip())

    def _encode(self, where: str, text: str, messages: list[dict[str, str]], thinking: bool) -> tuple[int, ...]:
        # Words that the tokenizer reads as control tokens could end the user's turn and speak for the model.
        found = next((token for token in self.control_tokens if token in text), None)
        if found is not None:
            raise UserError(f"{where}: its text holds the control token {found}; take it out")
        try:
            ids = encode_chat(self.tokenizer, messages, thinking=thinking, template_kwargs=self.template_kwargs)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if len(ids) > self.max_tokens:
            raise UnfitPrompt(
                f"{where}: its prompt has {len(ids)} tokens, more than prompts.max_tokens {self.max_tokens};"
                " raise the limit or take it out (nothing is ever cut)"
            )
        return ids


@dataclass(frozen=True)
class SkillPromptBuilder(PromptBuilder):
    """Shows the student itself the pairs retrieved for its problem, all in one block; teachers are as they were.

    Where `unfit` is "skip", a prompt that would be too long shows fewer pairs, the last ones left out.
    """

    retrieve: Callable[[Sequence[str]], Sequence[Sequence[SkillPair]]]
    render: Callable[[SkillPair, str], str]
    unfit: Unfit = "error"
    skipping: ClassVar[str] = "show fewer pairs"

    def student(self, problem: Problem, *, thinking: bool) -> tuple[int, ...]:
        """Raises UnfitPrompt, and UserError for a control token."""
        (pool,) = self.retrieve([problem.text])
        template = self.templates.text("injected_pair")
        pairs = [self.render(pair, template) for pair in pool]
        while pairs:
            try:
                shown = self.templates.render("injected", pairs=pairs)
                messages = self.templates.teacher(problem.text, shown)
                return self._encode(f"problem {problem.id} with its pairs", problem.text + shown, messages, thinking)
            except UnfitPrompt:
                if self.unfit == "error":
                    raise
                pairs.pop()
        return super().student(problem, thinking=thinking)


def fitting(
    problems: Sequence[Problem], prompts: PromptBuilder, *, thinking: bool, unfit: Unfit
) -> tuple[list[Problem], list[str]]:
    """The problems whose student's prompt fits, and why each of the others does not.

    Raises:
        UnfitPrompt: one does not, and `unfit` is "error"; or none does.
    """
    kept: list[Problem] = []
    reasons: list[str] = []
    for problem in problems:
        try:
            prompts.student(problem, thinking=thinking)
        except UnfitPrompt as error:
            if unfit == "error":
                raise UnfitPrompt(f"{error}; or {prompts.skipping} by prompts.unfit: skip") from error
            reasons.append(str(error))
        else:
            kept.append(problem)
    if not kept:
        raise UnfitPrompt(f"prompts.max_tokens: not one of {len(problems)} problems fits; {reasons[0]}")
    return kept, reasons


@dataclass(frozen=True)
class TeacherPrompts:
    """Makes a pool of teachers for each problem or rollout: one for each block that the context shows.

    Where `unfit` is "skip", those that fit share the weight of those that do not.
    """

    context: Context
    resources: Resources
    builder: PromptBuilder
    thinking: bool
    unfit: Unfit = "error"
    prepared: dict[str, tuple[TeacherView, ...]] = field(default_factory=dict, compare=False)  # by the problem's id

    def prepare(self, problems: Sequence[Problem]) -> None:
        """Make the prompts of all of them now, for a context that is made from problems, and keep the first ones.

        Raises UserError, naming problem and teacher, for what cannot be shown: here and not after an hour of sampling.
        """
        kept = 0
        for start in range(0, len(problems), PREPARED_TOGETHER):
            together = problems[start : start + PREPARED_TOGETHER]
            for problem, pool in zip(together, self.views(together), strict=True):
                kept += sum(len(view.prompt_ids) for view in pool)
                if kept <= PREPARED_TOKENS:
                    self.prepared[problem.id] = pool

    def views(self, batch: Batch) -> list[tuple[TeacherView, ...]]:
        """A pool for each member; the weights of a pool sum to 1.

        A view with an empty prompt is a teacher that was left out: its weight is 0 and nothing scores it. Raises
        UserError, naming problem and teacher, for what cannot be shown.
        """
        problems = [member.problem if isinstance(member, Graded) else member for member in batch]
        if self.prepared and all(problem.id in self.prepared for problem in problems):
            return [self.prepared[problem.id] for problem in problems]
        pools = make_pools(self.context, batch, self.resources)
        return [self._pool(problem, blocks) for problem, blocks in zip(problems, pools, strict=True)]

    def of(self, context: Context) -> TeacherPrompts:
        """The same for another context."""
        return replace(self, context=context, prepared={})

    def _pool(self, problem: Problem, blocks: Sequence[Block]) -> tuple[TeacherView, ...]:
        views = [self._view(problem, block) for block in blocks]
        kept = sum(view.weight for view in views if view.prompt_ids)
        if kept == 0 or all(view.prompt_ids for view in views):
            return tuple(views)
        return tuple(replace(view, weight=view.weight / kept) for view in views)

    def _view(self, problem: Problem, block: Block) -> TeacherView:
        name = " + ".join(block.item_ids) or block.source
        try:
            if block.text is None:
                ids = self.builder.student(problem, thinking=self.thinking)
            else:
                ids = self.builder.teacher(problem, block.text, thinking=self.thinking, name=name)
        except UnfitPrompt as error:
            if self.unfit == "error" and not block.optional:
                raise UnfitPrompt(f"{error}; or leave such teachers out by prompts.unfit: skip") from error
            return TeacherView(block.source, (), 0.0, block.item_ids)
        return TeacherView(block.source, ids, block.weight, block.item_ids)
