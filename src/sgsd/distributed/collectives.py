"""Sums and maxima over all processes; every process calls them together, in the same order."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor


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
