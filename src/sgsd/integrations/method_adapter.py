"""Per-token advantages of a method for rollouts that another trainer sampled; nothing is trained here.

The contexts, the scorer and the objective's loss are those of a run, called by the very functions of its step. Whoever
holds the optimizer decides what a loss makes of the advantages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from sgsd.config.loading import make_config
from sgsd.config.run_config import RunConfig
from sgsd.distributed.launcher import make_strategy
from sgsd.distributed.processes import all_sum, largest
from sgsd.distributed.replicated import Strategy
from sgsd.files import write_atomic
from sgsd.methods import Method
from sgsd.records.run_files import Records
from sgsd.rollout import TransformersEngine
from sgsd.scorer import Scorer
from sgsd.train.batch import build_batch
from sgsd.train.checks import check_strategy, warn_of_template
from sgsd.train.context_resources import Contexts, make_contexts, make_prompts
from sgsd.train.evidence_log import NAME, EvidenceLog, read_ledger
from sgsd.train.microbatch import run_microbatches
from sgsd.train.policy import Budgets, Policy
from sgsd.train.setup import find_ignored_token_ids, load_bank_for, make_verifier, may_leave_out
from sgsd.train.step import (
    Detail,
    Learner,
    LossPasses,
    observations,
    outcome_advantages,
    score_teachers,
)
from sgsd.train.teachers import TeacherUpdater, frozen_copy, teacher_weights
from sgsd.types import Problem, Rollout, UserError, Verdict
from sgsd.verify import Verifier, grade_problems

#: The sections of a configuration that say what a method does; all others are the other trainer's affair.
SECTIONS = ("method", "bank", "prompts", "verifier", "data", "teacher", "compute", "seed")

#: Numbers of a step that the other trainer reports itself, or that it alone knows.
TRAINERS_OWN = ("loss", "grad_norm", "rollouts", "accuracy", "length", "truncated", "entropy")


def adapter_config(
    settings: Mapping[str, Any], *, model: str, output: str, rollouts: int, group: int, max_tokens: int
) -> RunConfig:
    """The configuration of an adapter: `settings` has the sections of ours, the rest is what the other trainer does.

    Raises:
        UserError: a section that would have no effect here, an unknown key, or a method that the adapter cannot serve.
    """
    if strange := [key for key in settings if key not in SECTIONS]:
        raise UserError(
            f"settings.{strange[0]}: has no effect here; give {', '.join(SECTIONS)}, the rest to the trainer"
        )
    theirs = {
        "model": {"path": model},
        "output": output,
        "rollouts": rollouts,
        "group": group,
        "sampling": {"max_tokens": max_tokens},
    }
    config = make_config({**settings, **theirs}, "settings")
    method = config.build_method()
    if why := unsupported(method):
        raise UserError(f"settings: method.name: {method.name} {why}; train it by sgsd train")
    return config


def unsupported(method: Method) -> str | None:
    """The reason why a method cannot serve another trainer's rollouts; None: it can."""
    needs = method.context.all_needs()
    reasons = {
        "matches whole distributions, which is no advantage a token": method.objective.needs_divergence,
        "shows skills to the student, whose prompt the other trainer writes": method.student_context is not None,
        "shows its teachers something of another problem, of which the adapter knows none": "problems" in needs,
        "shows its teachers rubrics, which the other trainer's rows do not bring": "rubric" in needs,
        "shows its teachers what has yet to be written, and the adapter asks no writer": needs & {"writer", "engine"},
    }
    return next((why for why, applies in reasons.items() if applies), None)


@dataclass(frozen=True)
class TokenAdvantages:
    """What was made of this process's rollouts, in their order; lengths are those of the completions."""

    advantages: list[Tensor]  # A_t, 0 outside the mask; no gradient
    masks: list[Tensor]  # the tokens the method's loss is of
    metrics: dict[str, Any]  # of all processes


class Borrowed(Strategy):
    """Weights and gradients that another trainer looks after."""

    def forget_gradient(self) -> None:
        """Not ours to forget."""


@dataclass(frozen=True)
class MethodAdapter:
    """A method with all it needs to compute advantages for rollouts of a model that another trainer trains."""

    learner: Learner
    verifier: Verifier
    contexts: Contexts
    teacher_updater: TeacherUpdater
    end_ids: frozenset[int]

    @classmethod
    def build(cls, config: RunConfig, model: Any, tokenizer: Any, accelerator: Accelerator) -> MethodAdapter:
        """Wire an adapter; `model` is the unwrapped one, on its device, and stays the other trainer's.

        Raises:
            UserError: something the configuration names is missing or does not fit, or a launch that shards weights.
        """
        method = config.build_method()
        check_strategy(config, method, accelerator)
        if (theirs := make_strategy(accelerator)).in_parts:
            raise UserError(
                f"accelerate: {theirs.kind} holds weights in parts; the adapter needs a launch that keeps them whole"
            )
        bank = load_bank_for(config, method)
        prompts = make_prompts(config, tokenizer)
        warn_of_template(config, method, tokenizer)
        evidence_log = EvidenceLog(accelerator, Records(config.folder))
        contexts = make_contexts(config, method, prompts, bank, lambda: evidence_log.ledger)
        scorer, engine = make_scorer(method, model), TransformersEngine(model, tokenizer)
        budgets = Budgets(config.compute.student_tokens, config.compute.teacher_tokens)
        exact = accelerator.mixed_precision == "no" and model.dtype == torch.float32
        policy = Policy(scorer, tokenizer, accelerator, Borrowed(accelerator), budgets, exact)
        ignored = find_ignored_token_ids(tokenizer) | engine.end_ids
        leaves_out = may_leave_out(config, method)
        learner = Learner(config, method, policy, engine, evidence_log, ignored, leaves_out, config.group_size)
        updater = TeacherUpdater(method.teacher, config.teacher, model, scorer.teacher_copy)
        return cls(learner, make_verifier(config), contexts, updater, engine.end_ids)

    def verdicts(
        self, problems: Sequence[Problem], texts: Sequence[str], token_ids: Sequence[Sequence[int]] | None = None
    ) -> list[Verdict]:
        return grade_problems(self.verifier, list(texts), problems, token_ids)

    @torch.no_grad()
    def advantages(
        self, rollouts: list[Rollout], verdicts: list[Verdict], written: Sequence[Tensor], *, step: int
    ) -> TokenAdvantages:
        """Advantages of one step's rollouts, all processes at once, as many on each; the ledger learns from them.

        `written` says which tokens of a completion are the model's own; those of a tool, for instance, are not. Raises
        UserError: what a teacher is to be shown does not fit.
        """
        learner, policy = self.learner, self.learner.policy
        batch = build_batch(self.contexts, rollouts, verdicts)
        taught = score_teachers(learner, batch)
        advantages_B = outcome_advantages(learner, batch)
        masks = [learner.token_mask(r.completion) & own.bool().cpu() for r, own in zip(rollouts, written)]
        rows = batch.student_rows()
        begin = partial(LossPasses, learner, batch, taught, masks, advantages_B)
        done = run_microbatches(policy, "student", rows, rows[0], begin)
        details = sorted(done.details, key=lambda detail: detail.position)
        learner.evidence_log.after_step(step, observations(batch, details))
        done.metrics.add_rollouts(rollouts, verdicts)
        numbers = done.metrics.finish(partial(all_sum, policy.accelerator), partial(largest, policy.accelerator))
        said = {name: value for name, value in numbers.items() if name not in TRAINERS_OWN}
        return TokenAdvantages([token_advantages(detail) for detail in details], masks, said)

    def resume(self, step: int) -> None:
        """Take up after `step` (0: a new run) what the output folder's sightings say up to there.

        Raises UserError: the folder has another run's, or the teacher's weights would have to be read back as well.
        """
        learner, records = self.learner, self.learner.evidence_log.records
        if step and learner.method.teacher in ("ema", "periodic"):
            raise UserError(
                f"method.teacher: a teacher of kind {learner.method.teacher} is in no checkpoint of another trainer;"
                " begin anew, or take live or frozen"
            )
        lines = records.read(NAME)
        if lines and not step:
            raise UserError(f"{records.path(NAME)}: is of another run; give another output folder, or resume that run")
        kept = [line for line in lines if line["step"] <= step]
        learner.evidence_log.ledger = read_ledger(kept)
        learner.policy.accelerator.wait_for_everyone()
        if learner.policy.accelerator.is_main_process:
            records.folder.mkdir(parents=True, exist_ok=True)
            if len(kept) < len(lines):
                write_atomic(records.path(NAME), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))


def token_advantages(detail: Detail) -> Tensor:
    """A_t of one rollout [T], 0 outside its mask."""
    advantages_BT = detail.outputs.advantages_BT
    assert advantages_BT is not None, "methods without one are refused by their configuration"
    mask_T = detail.mask_T.to(advantages_BT.device)
    return advantages_BT[detail.row][: len(mask_T)] * mask_T


def make_scorer(method: Method, model: Any) -> Scorer:
    """The scorer of a model that is there already, adapter included. Raises UserError for a teacher it cannot hold."""
    lora = hasattr(model, "peft_config")
    where = teacher_weights(method.teacher if method.has_teachers else "live", lora=lora)
    if where == "adapter":
        raise UserError(
            f"method.teacher: {method.teacher} needs an adapter of its own beside the trainer's; take live or frozen"
        )
    return Scorer(model, teacher_weights=where, teacher_copy=frozen_copy(model) if where == "copy" else None)
