"""The processes of a run: checked at the start, told what the first one finds, and summed over.

Every process calls these functions, in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from sgsd.types import UserError

T = TypeVar("T")


def check_processes(seen: int) -> None:
    """Raises UserError where a launcher started several processes that do not know of each other."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != seen:
        raise UserError(
            f"the launcher started {launched} processes, but each runs alone ({seen}) and all would write one folder;"
            " without GPUs set ACCELERATE_USE_CPU=true"
        )


def from_first(accelerator: Accelerator, find: Callable[[], T]) -> T:
    """Return on every process what `find` gives on the first: files are read and changed by one of them only.

    Its UserError is raised on all of them, so that nobody waits for ever for the others.
    """
    if accelerator.num_processes == 1:
        return find()
    message: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            message = [find(), None]
        except UserError as error:
            message = [None, str(error)]
    found, refusal = broadcast_object_list(message)
    if refusal is not None:
        raise UserError(refusal)
    return found


def all_sum(accelerator: Accelerator, value: Any) -> Tensor:
    """Sum a number or a list of numbers over the processes, in float64, on the CPU."""
    tensor = torch.as_tensor(value, dtype=torch.float64, device=accelerator.device)
    summed: Any = accelerator.reduce(tensor, "sum")
    return summed.cpu()


def largest(accelerator: Accelerator, value: float) -> float:
    """The largest value of any process."""
    tensor = torch.tensor([value], dtype=torch.float64, device=accelerator.device)
    gathered: Any = accelerator.gather(tensor)
    return float(gathered.max())


def all_max(accelerator: Accelerator, value: int) -> int:
    """The largest whole number of any process; with a truth value, whether it holds on any of them."""
    return int(largest(accelerator, value))
