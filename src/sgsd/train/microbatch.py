"""A step's rows in passes: the same number on every process, and smaller ones where a process runs out of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import torch

from sgsd.notices import warn
from sgsd.scorer import Layout, PackedBatch, Row, collate, plan_layout, plan_microbatches
from sgsd.types import UserError

if TYPE_CHECKING:
    from sgsd.train.setup import Parts

MicrobatchKind = Literal["student", "teacher"]

#: What allocators say who have no exception of their own; torch's for CPUs and what its GPU libraries raise.
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


@dataclass
class Budgets:
    """Tokens in a pass, by kind; they shrink in a session and begin again as configured in the next."""

    student: int
    teacher: int


class Attempt(Protocol):
    """What is made of the passes; thrown away where one of them did not fit."""

    def __call__(self, indices: list[int], pack: PackedBatch, *, last: bool) -> None:
        """One pass; without indices it is idle, made for the other processes' sake."""


A = TypeVar("A", bound=Attempt)


def run_microbatches(
    parts: Parts,
    kind: MicrobatchKind,
    rows: Sequence[Row],
    idle: Row,
    begin: Callable[[], A],
    *,
    layout: Layout = "rows",
) -> A:
    """Every row once; returns the attempt that all processes came through with.

    Collectives inside a pass (FSDP2, ZeRO) would wait for ever for a process that makes one less, so all make the same
    number. Where a process runs out of memory all halve the budget together and begin a new attempt.

    Raises:
        UserError: even one row a pass is too much.
    """
    while True:
        plan = plan_layout(rows, getattr(parts.budgets, kind), layout)
        most = parts.all_max(len(plan))
        attempt, failed = begin(), False
        for number in range(most):
            indices = plan[number] if number < len(plan) and not failed else []
            texts = [rows[i] for i in indices] or [idle]
            if not _fits(parts, kind, attempt, indices, texts, layout, last=number == most - 1):
                failed = True
                if not parts.strategy.can_do_again(kind):
                    raise UserError(
                        f"compute.{kind}_tokens: out of memory in a pass of {getattr(parts.budgets, kind)} tokens,"
                        f" which {parts.strategy.kind} cannot make again; start a new run with a lower one"
                    )
                if not parts.strategy.in_parts:
                    break  # nobody waits for this process before the end
        if not parts.all_max(failed):
            return attempt
        del attempt
        _shrink(parts, kind, [[len(rows[i]) for i in indices] for indices in plan])


def passes(
    parts: Parts, rows: Sequence[Row], token_budget: int, *, idle: Row
) -> Iterator[tuple[list[int], PackedBatch]]:
    """Rows in passes, the same number on every process, for a caller who has no second attempt."""
    plan = plan_microbatches([len(row) for row in rows], token_budget)
    for indices in [*plan, *[[] for _ in range(parts.all_max(len(plan)) - len(plan))]]:
        pack = collate([rows[i] for i in indices] or [idle], pad_id=parts.pad_id, device=parts.accelerator.device)
        yield indices, pack


def warmup(parts: Parts) -> None:
    """The smallest pass of each kind, forward and backward; moves no weight."""
    row, device = Row((0, 0), (0,)), parts.accelerator.device
    parts.strategy.before_microbatch(microbatch_name("student", "rows"))
    logps_N = parts.scorer(collate([row], device=device), entropy=True).logps_N
    parts.strategy.backward(0.0 * logps_N.sum(), last=True)
    parts.strategy.after_warmup()
    layouts: list[Layout] = ["rows", "shared"] if parts.bare_scorer.shares_prefixes else ["rows"]
    for layout in layouts:
        parts.strategy.before_microbatch(microbatch_name("teacher", layout))
        parts.scorer(collate([row], layout=layout, device=device), role="teacher")
        parts.strategy.after_warmup()
    parts.strategy.forget_gradient()


def microbatch_name(kind: MicrobatchKind, layout: Layout) -> str:
    """Passes of one name call the model's layers alike; a shared one does so twice."""
    return f"{kind} shared" if layout == "shared" else kind


def _fits(
    parts: Parts,
    kind: MicrobatchKind,
    attempt: Attempt,
    indices: list[int],
    rows: list[Row],
    layout: Layout,
    *,
    last: bool,
) -> bool:
    try:
        pack = collate(rows, layout=layout, pad_id=parts.pad_id, device=parts.accelerator.device)
        parts.strategy.before_microbatch(microbatch_name(kind, layout))
        attempt(indices, pack, last=last)
        return True
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Here the exception is gone, and with it the frames that held the pass's tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    parts.strategy.recover_from_oom()
    return False


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)


def _shrink(parts: Parts, kind: MicrobatchKind, plan: list[list[int]]) -> None:
    """Half of what the largest pass of any process held. Raises UserError where that was a single row."""
    parts.strategy.forget_gradient()
    largest = parts.all_max(max((len(lengths) * max(lengths) for lengths in plan), default=0))
    if parts.all_max(max(map(len, plan), default=0)) <= 1:
        raise UserError(
            f"compute.{kind}_tokens: out of memory with a single row of at most {largest} tokens in a pass; lower"
            " sampling.max_tokens or prompts.max_tokens, set model.gradient_checkpointing, or use more memory"
        )
    before = getattr(parts.budgets, kind)
    setattr(parts.budgets, kind, max(1, min(before, largest) // 2))
    warn(
        f"compute.{kind}_tokens: out of memory; passes hold {getattr(parts.budgets, kind)} tokens from now on"
        f" (configured: {getattr(parts.config.compute, f'{kind}_tokens')}), and the step is done again"
    )
