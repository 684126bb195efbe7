"""A step's rows in micro-batches: as many on every process, and smaller ones where a process runs out of memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeVar

import torch

from sgsd.distributed.processes import all_max
from sgsd.notices import warn
from sgsd.scorer import Layout, PackedBatch, Row, collate, plan_layout
from sgsd.train.policy import Policy
from sgsd.types import UserError

MicrobatchKind = Literal["student", "teacher"]

#: What allocators say who have no exception of their own; torch's for CPUs and what its GPU libraries raise.
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


class Attempt(Protocol):
    """The results of the passes; thrown away where one of them did not fit."""

    def __call__(self, indices: list[int], pack: PackedBatch, *, last: bool) -> None:
        """One pass; without indices it is idle, made for the other processes' sake."""


A = TypeVar("A", bound=Attempt)


def run_microbatches(
    policy: Policy,
    kind: MicrobatchKind,
    rows: Sequence[Row],
    idle: Row,
    begin: Callable[[], A],
    *,
    layout: Layout = "rows",
) -> A:
    """Every row once; returns the attempt that all processes came through with.

    Collectives inside a pass (FSDP2, ZeRO) would wait for ever for a process that makes one less, so all make the same
    number. Where a process runs out of memory all halve the budget together and begin a new attempt. Raises UserError:
    even one row a pass is too much.
    """
    while True:
        plan = plan_layout(rows, getattr(policy.budgets, kind), layout)
        most = all_max(policy.accelerator, len(plan))
        attempt, failed = begin(), False
        for number in range(most):
            indices = plan[number] if number < len(plan) and not failed else []
            texts = [rows[i] for i in indices] or [idle]
            if not _fits(policy, kind, attempt, indices, texts, layout, last=number == most - 1):
                failed = True
                if not policy.strategy.can_do_again(kind):
                    raise UserError(
                        f"compute.{kind}_tokens: out of memory in a pass of {getattr(policy.budgets, kind)} tokens,"
                        f" which {policy.strategy.kind} cannot make again; start a new run with a lower one"
                    )
                if not policy.strategy.in_parts:
                    break  # nobody waits for this process before the end
        if not all_max(policy.accelerator, failed):
            return attempt
        del attempt
        _shrink(policy, kind, [[len(rows[i]) for i in indices] for indices in plan])


def warmup(policy: Policy) -> None:
    """The smallest pass of each kind, forward and backward; moves no weight."""
    row, device = Row((0, 0), (0,)), policy.device
    policy.strategy.before_microbatch(microbatch_name("student", "rows"))
    logps_N = policy.scorer(collate([row], device=device), entropy=True).logps_N
    policy.strategy.backward(0.0 * logps_N.sum(), last=True)
    policy.strategy.after_warmup()
    layouts: list[Layout] = ["rows", "shared"] if policy.bare_scorer.shares_prefixes else ["rows"]
    for layout in layouts:
        policy.strategy.before_microbatch(microbatch_name("teacher", layout))
        policy.scorer(collate([row], layout=layout, device=device), role="teacher")
        policy.strategy.after_warmup()
    policy.strategy.forget_gradient()


def microbatch_name(kind: MicrobatchKind, layout: Layout) -> str:
    """Passes of one name call the model's layers alike; a shared one does so twice."""
    return f"{kind} shared" if layout == "shared" else kind


def _fits(
    policy: Policy,
    kind: MicrobatchKind,
    attempt: Attempt,
    indices: list[int],
    rows: list[Row],
    layout: Layout,
    *,
    last: bool,
) -> bool:
    try:
        pack = collate(rows, layout=layout, pad_id=policy.pad_id, device=policy.device)
        policy.strategy.before_microbatch(microbatch_name(kind, layout))
        attempt(indices, pack, last=last)
        return True
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Here the exception is gone, and with it the frames that held the pass's tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    policy.strategy.recover_from_oom()
    return False


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)


def _shrink(policy: Policy, kind: MicrobatchKind, plan: list[list[int]]) -> None:
    """Half of what the largest pass of any process held. Raises UserError where that was a single row."""
    policy.strategy.forget_gradient()
    largest = all_max(policy.accelerator, max((len(lengths) * max(lengths) for lengths in plan), default=0))
    if all_max(policy.accelerator, max(map(len, plan), default=0)) <= 1:
        raise UserError(
            f"compute.{kind}_tokens: out of memory with a single row of at most {largest} tokens in a pass; lower"
            " sampling.max_tokens or prompts.max_tokens, set model.gradient_checkpointing, or use more memory"
        )
    before = getattr(policy.budgets, kind)
    setattr(policy.budgets, kind, max(1, min(before, largest) // 2))
    warn(
        f"compute.{kind}_tokens: out of memory; passes hold {getattr(policy.budgets, kind)} tokens from now on"
        f" (configured: {policy.budgets.configured[kind]}), and the step is done again"
    )
