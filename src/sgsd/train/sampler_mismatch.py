"""How far the sampler's log-probs may be from the trainer's: as far as rounding explains, and no further."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from sgsd.distributed.processes import largest
from sgsd.notices import warn
from sgsd.rollout import Engine
from sgsd.scorer import Role, Row, collate, not_finite, plan_microbatches
from sgsd.train.batch import Batch
from sgsd.train.policy import NonFiniteError, Policy
from sgsd.train.sampling import Sampler
from sgsd.types import RolloutRequest, RunFailure

#: Mean |difference| of log-probabilities, nats a token, that two ways of computing may put between the same weights.
#: Measured on the lab, where sampling goes through a cache and scoring does not: 1.5e-7 and 8e-4. Another engine with
#: kernels of its own is ten times further off in bfloat16; weights one epoch of training away are off by more.
ROUNDING = {"float32": 1e-3, "bfloat16": 3e-2}


PROBES, PROBE_TOKENS = 8, 32  # rollouts, and of each so many: the mean of fewer says too little in bfloat16


class StaleSamplerError(RunFailure):
    """The engine samples from other weights than those that are trained; nothing has been changed by it."""


def trainer_rounding(policy: Policy) -> float:
    """The mean difference that the trainer's own precision explains, nats a token."""
    return ROUNDING["float32" if policy.exact else "bfloat16"]


def sampler_rounding(policy: Policy, engine: Engine) -> float:
    """The mean difference that the coarser precision of trainer and engine explains, nats a token."""
    dtype = getattr(engine, "dtype", None)  # an engine that does not say samples as the trainer computes
    exact = dtype in (None, "float32")
    return max(trainer_rounding(policy), ROUNDING["float32" if exact else "bfloat16"])


def mean_gap(sampler_logps: Sequence[Tensor], trainer_logps: Sequence[Tensor]) -> float:
    """Mean |difference| over all tokens of this process's rollouts, [T] each; nats a token."""
    return float((torch.cat(list(sampler_logps)) - torch.cat([logps.cpu() for logps in trainer_logps])).abs().mean())


def check_gap(policy: Policy, engine: Engine, gap: float, *, alarm: float | None = None, staleness: int = 0) -> None:
    """Hold a gap of this process against the bounds, together with all others.

    A gap beyond `alarm` (`rollout.mismatch_warning`; None: half of the bound) is worth a warning. Weights that are
    known to be stale have no bound. Raises NonFiniteError: a weight of the trainer's is no number; StaleSamplerError:
    on some process the gap is beyond what rounding explains, or no number at all though the weights are.
    """
    worst = largest(policy.accelerator, gap if gap == gap else math.inf)
    if worst == math.inf:
        if broken := not_finite(policy.model.named_parameters()):
            raise NonFiniteError(f"the policy's {broken}; go back to a checkpoint or a model without it")
        raise StaleSamplerError(
            "log-probabilities of the engine or the trainer are no numbers, though all of the trainer's weights are;"
            " no weight has been touched by these rollouts"
        )
    bound = math.inf if staleness else sampler_rounding(policy, engine)
    alarm = bound / 2 if alarm is None else alarm
    if worst > bound:
        raise StaleSamplerError(
            f"the engine samples from other weights than the trainer's: its log-probabilities are off by {worst:.2g}"
            f" nats a token, {bound:g} is what rounding explains; no weight has been touched by these rollouts"
        )
    if worst > alarm:
        warn(
            f"sampler_mismatch: the engine's log-probabilities are off by {worst:.2g} nats a token"
            f" (rollout.mismatch_warning {alarm:g})"
        )


def draws_dropout(model: nn.Module) -> bool:
    """True where passes with a gradient differ from those without by more than rounding."""
    attention = getattr(getattr(model, "config", None), "attention_dropout", 0.0) or 0.0
    return attention > 0 or any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())


@torch.no_grad()
def score_rows(policy: Policy, rows: Sequence[Row], role: Role = "student") -> Tensor:
    """Log-probs [N] of the rows' completions, in eval mode: a dropout would hide what is to be seen."""
    scorer = policy.bare_scorer
    training = scorer.model.training
    scorer.model.eval()
    policy.strategy.before_microbatch(role)
    try:
        scores = policy.scorer(collate(rows, pad_id=policy.pad_id, device=policy.device), role=role)
    finally:
        scorer.model.train(training)
    assert scores.logps_N is not None
    return scores.logps_N.cpu()


def check_sampler(policy: Policy, sampler: Sampler, batch: Batch) -> None:
    """Compare one micro-batch of the step's rollouts with the sampler's own log-probs, on all processes together.

    Once a session, before anything is scored; from then on `update` compares the passes that it makes anyway, unless a
    dropout hides in them what is to be seen. Raises StaleSamplerError: they differ by more than rounding.
    """
    sampler_logps = batch.sampled_logps()
    if sampler_logps is None or batch.staleness:
        return
    rows = batch.student_rows()
    chosen = plan_microbatches([len(row) for row in rows], sampler.config.compute.student_tokens)[0]
    scored_N = score_rows(policy, [rows[i] for i in chosen])
    gap = mean_gap([sampler_logps[i] for i in chosen], [scored_N])
    check_gap(policy, sampler.engine, gap, alarm=sampler.config.rollout.mismatch_warning)


def check_fresh(policy: Policy, sampler: Sampler, requests: Sequence[RolloutRequest]) -> None:
    """Sample the first tokens of a few rollouts and score them at once: the engine has the weights that it was given.

    For rollouts that are trained on only after the next update, when nothing can be compared any more. Raises
    StaleSamplerError: they differ by more than rounding.
    """
    config, few = sampler.config, requests[:PROBES]
    sampling = config.sampling.to_sampling()
    short = replace(sampling, max_tokens=min(PROBE_TOKENS, sampling.max_tokens))
    done = sampler.engine.sample([r.prompt_ids for r in few], [r.index for r in few], short, seed=config.seed)
    if all(completion.logps for completion in done):
        scored_N = score_rows(policy, [Row(r.prompt_ids, c.token_ids) for r, c in zip(few, done, strict=True)])
        gap = mean_gap([torch.tensor(completion.logps) for completion in done], [scored_N])
        check_gap(policy, sampler.engine, gap, alarm=config.rollout.mismatch_warning)
