"""Graded rollouts for tests: what a group of the lab might have written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sgsd.contexts import Context, Graded, Pool, Resources
from sgsd.contexts.prompt_builders import PromptBuilder, TeacherPrompts
from sgsd.contexts.prompts import PromptSet, Quote, load_prompts
from sgsd.types import Completion, Problem, Rollout, Status, Verdict

RIGHT, WRONG, UNKNOWN = Status.CORRECT, Status.INCORRECT, Status.TIMEOUT

#: Golds are nowhere else: where a prompt holds one, it has been shown.
PROBLEM = Problem(
    "p1", "Addition: 38+35", "98765", "8+5=13, hence the sum. \\boxed{98765}", {"rubric": "Carries the one."}
)
OTHERS = [
    Problem(f"o{n}", f"Bracket: {20 + n}-(7-{n})", f"{5000 + n}", f"step {n}. \\boxed{{{5000 + n}}}") for n in range(6)
]


def graded(
    index: int,
    status: Status,
    *,
    text: str | None = None,
    answer: str | None = "",
    group: int = 0,
    problem: Problem = PROBLEM,
) -> Graded:
    """Rollout `index` writes "attempt-INDEX" and answers 100 + INDEX, unless told otherwise."""
    read = str(100 + index) if answer == "" else answer
    written = f"attempt-{index} \\boxed{{{read}}}" if text is None else text
    completion = Completion(index, (1, 2), written, "stop")
    return Graded(Rollout(problem, (0,), completion, group), Verdict(status, read))


def group_of(*statuses: Status, first: int = 0, group: int = 0) -> list[Graded]:
    return [graded(first + n, status, group=group) for n, status in enumerate(statuses)]


def shown(maker: PromptBuilder, views: Sequence[tuple[object, ...]]) -> list[list[str]]:
    """The text of every teacher's prompt; empty for one that was left out."""
    return [[maker.tokenizer.decode(view.prompt_ids) for view in pool] for pool in views]  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Made(Context):
    """A context that a function of problems makes."""

    make: Callable[[Sequence[Problem]], list[Pool]]

    def blocks(self, problems: Sequence[Problem], resources: Resources) -> list[Pool]:
        return self.make(problems)


def resources_of(prompts: str | PromptSet = "math", **more: Any) -> Resources:
    loaded = load_prompts(prompts) if isinstance(prompts, str) else prompts
    return Resources(loaded, Quote(("<think>", "</think>", "<|im_end|>")), **more)


def teachers_of(context: Context, builder: PromptBuilder, *, thinking: bool = False, **more: Any) -> TeacherPrompts:
    unfit = more.pop("unfit", "error")
    return TeacherPrompts(context, resources_of(builder.templates, **more), builder, thinking, unfit)
