"""TRL's side of the bargain: which version, which of its settings, and what its loss makes of an advantage.

At a ratio of 1, which is where every update begins, the gradient of TRL's loss is −Σ v_bt A_bt ∂log p_S(y_bt), with a
share v of its own for each token. Ours is −Σ w_bt A_bt ∂log p_S(y_bt), `token_weights`. The advantages handed over are
therefore A · w / v.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from sgsd.methods import Method
from sgsd.methods.averages import token_weights
from sgsd.methods.method import Reduce
from sgsd.types import UserError

TESTED = "1.16.0"

#: Which of our averages each of TRL's is; m over its own mask, the whole completion.
REDUCE_OF: Mapping[str, Reduce] = {
    "grpo": "rollout",  # v = m / (B · max(1, Σ_t m))
    "dapo": "token",  # v = m / Σ_bt m
    "bnpo": "token",  # the same of each micro-batch; so of the step only where there is one
    "dr_grpo": "fixed",  # v = m / (B · max_completion_length)
}


def checked_trl() -> Any:
    """The package `trl`. Raises UserError unless it is there in the tested version: what is overridden is internal."""
    try:
        found = metadata.version("trl")
    except metadata.PackageNotFoundError as error:
        raise UserError(f"trl: is not installed; pip install trl=={TESTED}, the version tested") from error
    if found != TESTED:
        raise UserError(f"trl {found}: only {TESTED} is tested, and its internals move; pip install trl=={TESTED}")
    return importlib.import_module("trl")


def check_arguments(args: Any, method: Method) -> None:
    """Raises UserError for GRPOConfig settings under which the method's gradient would be another one."""
    loss = args.loss_type
    ours = clips(args) if method.outcome is None else clips(method.outcome)
    for wrong, said in (
        (
            args.temperature != 1,
            f"temperature: TRL's loss divides the logits by {args.temperature}, the method does not; set it to 1.0",
        ),
        (loss not in REDUCE_OF, f"loss_type: {loss} is not one of {', '.join(REDUCE_OF)}"),
        (
            loss == "bnpo" and args.gradient_accumulation_steps * args.world_size > 1,
            "loss_type: bnpo averages over each micro-batch, which is not known when advantages are computed; use dapo",
        ),
        (
            args.importance_sampling_level != "token",
            f"importance_sampling_level: {args.importance_sampling_level} mixes the tokens' advantages; use token",
        ),
        (
            args.steps_per_generation != args.gradient_accumulation_steps,
            f"steps_per_generation: is {args.steps_per_generation}; leave it at gradient_accumulation_steps,"
            f" {args.gradient_accumulation_steps}: advantages are computed for one step's rollouts at a time",
        ),
        (
            "group" in method.context.all_needs()
            and args.generation_batch_size // args.world_size % args.num_generations,
            f"num_generations: {method.name} shows siblings, so each process needs whole groups of"
            f" {args.num_generations}; change per_device_train_batch_size or gradient_accumulation_steps",
        ),
        (
            args.num_iterations != method.iterations,
            f"num_iterations: is {args.num_iterations}, the method's iterations {method.iterations}; make them alike",
        ),
        (
            clips(args) != ours,
            f"epsilon, epsilon_high: are {clips(args)}, the method's {ours}; make them alike",
        ),
    ):
        if wrong:
            raise UserError(f"GRPOConfig.{said}")


def clips(settings: Any) -> tuple[float, float]:
    """How far a ratio may fall below 1 and rise above it; TRL and the method name it alike."""
    low, high = settings.epsilon, settings.epsilon_high
    return low, low if high is None else high


def advantage_scale(
    ours_BT: Tensor,
    theirs_BT: Tensor,
    *,
    reduce: Reduce,
    loss_type: str,
    rollouts: int,
    our_tokens: int,
    their_tokens: int,
    max_tokens: int,
) -> Tensor:
    """w / v [B, T]: by how much an advantage grows so that TRL's average of the step is the method's; 0 where w is.

    `ours_BT` are the tokens of the method's loss, a part of `theirs_BT`, TRL's; the counts are of all processes.
    """
    w_BT = token_weights(ours_BT, reduce, rollouts=rollouts, tokens=our_tokens, max_tokens=max_tokens)
    v_BT = token_weights(theirs_BT, REDUCE_OF[loss_type], rollouts=rollouts, tokens=their_tokens, max_tokens=max_tokens)
    return torch.where(ours_BT, w_BT / v_BT, 0.0)
