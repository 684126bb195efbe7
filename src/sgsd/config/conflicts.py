"""Choices that do not go together across sections; each section checks its own keys by `conflicts`."""

from __future__ import annotations

from collections.abc import Iterator

from sgsd.config.base import Section
from sgsd.config.run_config import RunConfig
from sgsd.config.sections import SamplingConfig
from sgsd.methods import Method
from sgsd.types import UserError

Conflict = tuple[str, str]  # dotted key, the reason and the way out


def check_together(config: RunConfig, where: str) -> None:
    """Refuse impossible mixes before anything is loaded.

    Raises:
        UserError: the first conflict, with its key and what to do.
    """
    for key, reason in conflicts(config):
        raise UserError(f"{where}: {key}: {reason}")


def conflicts(config: RunConfig) -> Iterator[Conflict]:
    method = config.build_method()
    yield from _groups(config, method)
    yield from _bank(config, method)
    yield from _evaluation(config)
    yield from _log_probs(config, method)
    yield from _shown_columns(config, method)
    yield from _gym(config)
    for name in RunConfig.model_fields:
        section = getattr(config, name)
        if isinstance(section, Section):
            yield from ((f"{name}.{key}", reason) for key, reason in section.conflicts())
    yield from _engine(config)
    yield from _precision(config)


def _groups(config: RunConfig, method: Method) -> Iterator[Conflict]:
    if config.rollouts % config.group_size:
        yield "rollouts", f"{config.rollouts} is not a whole number of groups of {config.group_size}"
    if method.compares_siblings and config.group_size < 2:
        yield "group", f"{method.name} compares rollouts of one problem and needs at least 2"


def _bank(config: RunConfig, method: Method) -> Iterator[Conflict]:
    if method.retrieves and config.bank.path is None:
        yield "bank.path", f"{method.name} retrieves skills; name a bank file"
    if config.evaluation.skills and config.bank.path is None:
        yield "bank.path", "evaluation.skills shows pairs of a bank; name its file"


def _log_probs(config: RunConfig, method: Method) -> Iterator[Conflict]:
    """At a temperature a log-prob is another number; behind a filter it is none, and a penalty changes it by place."""
    if config.rollout.logprobs == "processed":
        s, plain = config.sampling, SamplingConfig()
        why = (
            "with rollout.logprobs: processed only the temperature is applied: a token that a filter takes out has no"
            " log-prob, and a penalty makes another policy at each place; leave it out, or use raw"
        )
        for key in ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty"):
            if getattr(s, key) != getattr(plain, key):
                yield f"sampling.{key}", why
        if s.temperature == 0:
            yield "sampling.temperature", "at 0 there is no distribution to have log-probs; use rollout.logprobs: raw"
    thinking = {config.prompts.teacher_thinking, config.prompts.student_thinking}
    if method.outcome is not None and method.outcome.kl and len(thinking) > 1:
        yield (
            "prompts.teacher_thinking",
            "method.kl compares the policy with itself under one prompt: set it as student's",
        )


def _evaluation(config: RunConfig) -> Iterator[Conflict]:
    if config.evaluation.skills and config.evaluation.data is None:
        yield "evaluation.data", "evaluation.skills asks for an evaluation; name its data"
    if config.steps == 0 and config.evaluation.data is None:
        yield "steps", "with 0 nothing is trained; name evaluation.data to measure the model"


def _shown_columns(config: RunConfig, method: Method) -> Iterator[Conflict]:
    """What a method shows or learns from must be in the data."""
    data, needs = config.data, method.context.all_needs()
    from_lab = data.path.startswith("lab:")
    plain = data.layout in ("auto", "plain") and not from_lab
    if ("solution" in needs or method.on_policy < 1) and plain and not data.solution:
        does = "shows" if "solution" in needs else "learns from"
        yield (
            "data.solution",
            f"{method.name} {does} the reference solution; name its column, or by data.layout a layout that brings one",
        )
    if data.rubric and not plain:
        yield "data.rubric", "only rows of data.layout plain have such a column; leave it out"
    if "rubric" in needs and not data.rubric and not from_lab:
        yield "data.rubric", f"{method.name} shows each problem's rubric; name its column (data.layout: plain)"


def _gym(config: RunConfig) -> Iterator[Conflict]:
    by_gym = config.verifier.name == "gym"
    for key, data in (("data", config.data), ("evaluation.data", config.evaluation.data)):
        if data is None or config.verifier.name not in ("gym", "math"):
            continue
        if data.path.startswith("gym:") != by_gym:
            yield "verifier.name", f"gym grades gym tasks and nothing else, and {key} is {data.path}"


def _engine(config: RunConfig) -> Iterator[Conflict]:
    rollout, longest = config.rollout, config.prompts.max_tokens + config.sampling.max_tokens
    if rollout.sleep == 2 and config.lora is not None:
        yield "rollout.sleep", "2 forgets the weights under the adapter; use 1"
    if rollout.max_model_len is not None and rollout.max_model_len < longest:
        together = f"prompts.max_tokens and sampling.max_tokens together are {longest}"
        yield "rollout.max_model_len", f"{together}, {rollout.max_model_len} is less"


def _precision(config: RunConfig) -> Iterator[Conflict]:
    if config.lora is None and config.model.dtype == "bfloat16":
        yield (
            "model.dtype",
            "where all weights train, bfloat16 rounds their small updates away; use float32"
            " (accelerate launch --mixed_precision bf16 still computes in bfloat16)",
        )
