"""Checks and warnings before anything is loaded or sampled."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator

from sgsd.config.run_config import RunConfig
from sgsd.contexts.prompt_builders import PromptBuilder, fitting
from sgsd.contexts.prompts import encode_chat, thinking_mode
from sgsd.distributed.launcher import make_strategy
from sgsd.hub.public import is_hub_name
from sgsd.methods import Method
from sgsd.notices import warn
from sgsd.types import Problem, UserError

# A temperature, or a share of probability, at which next to nothing but the likeliest token is left; chosen.
GREEDY = 0.01


def usable_problems(config: RunConfig, prompts: PromptBuilder, problems: Sequence[Problem]) -> list[Problem]:
    """All of them, or those that fit where the others are to be left out. Raises UserError for one that does not."""
    p = config.prompts
    kept, reasons = fitting(problems, prompts, thinking=p.student_thinking, unfit=p.unfit)
    if reasons:
        warn(f"prompts.unfit: {len(reasons)} of {len(problems)} problems are left out; the first: {reasons[0]}")
    return kept


def check_shown_solutions(method: Method, problems: Sequence[Problem]) -> None:
    """Raises UserError where the method insists on a solution and a problem has none."""
    without = [problem.id for problem in problems if problem.solution is None]
    if without and "solution" in method.context.all_needs():
        raise UserError(
            f"problem {without[0]}: it has no solution ({len(without):,} of {len(problems):,} have none), and"
            f" {method.name} shows one; name its column by data.solution, or set method.show: solution_or_answer"
        )


def warn_of_groups(config: RunConfig, method: Method) -> None:
    """Say that the rollouts of a problem will be alike, which leaves nothing to a method that compares them."""
    if config.group_size < 2:
        return
    s = config.sampling
    greedy = {
        "temperature": s.temperature <= GREEDY,
        "top_k": s.top_k == 1,
        "top_p": s.top_p <= GREEDY,
        "min_p": s.min_p >= 1 - GREEDY,
    }
    for key in (key for key, on in greedy.items() if on):
        means = (
            f"{method.name} learns from their differences: it will learn nothing"
            if method.compares_siblings
            else "they teach no more than one of them"
        )
        warn(
            f"sampling.{key}: {getattr(s, key):g}: the {config.group_size} rollouts of a problem will all be alike, and"
            f" {means}; sample at temperature 1 or so"
        )


def warn_of_overlap(problems: Sequence[Problem], held_out: Sequence[Problem]) -> None:
    """Name the training problems that are also in the held-out set, NFC, case and white space aside."""
    trained = {_folded(problem.text): problem.id for problem in problems}
    both = [(p.id, trained[text]) for p in held_out if (text := _folded(p.text)) in trained]
    if both:
        shown = ", ".join(own if own == other else f"{own} is {other}" for own, other in both[:3])
        more = f" and {len(both) - 3} more" if len(both) > 3 else ""
        warn(
            f"evaluation.data: {len(both):,} of {len(held_out):,} held-out problems are training problems too"
            f" ({shown}{more}): the held-out accuracy measures what was trained on; take them out of one of the two"
        )


def _folded(text: str) -> str:
    """The text without case, and without white space except between two words: x + 1 is x+1, 1 23 is not 12 3."""
    text = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return re.sub(r"(?<!\w) | (?!\w)", "", text)


def warn_of_template(config: RunConfig, method: Method, tokenizer: Any) -> None:
    """Say which thinking settings the model's template does not heed, and what else it does that nobody asked for."""
    p = config.prompts
    if "strftime_now" in str(tokenizer.chat_template):
        warn(f"the chat template of {config.model.path} writes today's date into every prompt: each day is another run")
    for key, value in p.template_kwargs.items():
        probe = [{"role": "user", "content": "1+1"}]
        with_it, without = (
            encode_chat(tokenizer, probe, thinking=p.student_thinking, template_kwargs=kwargs)
            for kwargs in (p.template_kwargs, {k: v for k, v in p.template_kwargs.items() if k != key})
        )
        if with_it == without:
            warn(f"prompts.template_kwargs.{key}: {value!r} changes nothing in the prompts of {config.model.path}")
    mode = thinking_mode(tokenizer, p.template_kwargs)
    if mode == "switch":
        return
    always = mode == "always"
    roles = {"student": p.student_thinking}
    if method.has_teachers:
        roles["teacher"] = p.teacher_thinking
    if config.evaluation.data is not None:
        roles["evaluation"] = p.evaluation_thinking
    if ignored := [f"prompts.{role}_thinking" for role, on in roles.items() if on != always]:
        why = "always opens a think block" if always else "knows no switch for thinking"
        names, value = " and ".join(ignored), str(always).lower()
        warn(f"{names}: ignored, the chat template of {config.model.path} {why}; set {value} to say so")


def check_strategy(config: RunConfig, method: Method, accelerator: Accelerator) -> None:
    """Raises UserError for what several processes, or weights in parts, cannot do."""
    groups, count, strategy = (
        config.rollouts // config.group_size,
        accelerator.num_processes,
        make_strategy(accelerator),
    )
    if groups < count:
        raise UserError(f"rollouts: {groups} groups cannot be shared by {count} processes")
    writes = "writer" in method.context.all_needs() or (method.retrieves and config.skills.every > 0)
    if strategy.in_parts and writes and config.writer.kind == "policy":
        raise UserError(
            f"writer.kind: policy writes on one process, which under {strategy.kind} holds only a part of the weights;"
            " use a writer of kind server, or a launch that keeps them whole"
        )


def warn_of_moving_names(config: RunConfig) -> None:
    """Say which of the things that come from the hub may be another one tomorrow."""
    named = {"model": config.model, "data": config.data, "evaluation.data": config.evaluation.data}
    for key, section in named.items():
        if section is None or not is_hub_name(section.path):
            continue
        if not re.fullmatch("[0-9a-f]{40}", section.revision or ""):
            what = f"{section.revision} can move" if section.revision else "not pinned"
            warn(f"{key} {section.path}: {what}: results may change; add {key}.revision: <commit>")
