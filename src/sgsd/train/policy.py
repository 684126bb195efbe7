"""The policy: the model that trains or is asked, and how it lies on the processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator

from sgsd.distributed.replicated import Strategy
from sgsd.scorer import Scorer
from sgsd.types import RunFailure


class NonFiniteError(RunFailure):
    """A weight, a loss or a gradient is no number; no other weight has been touched by it."""


@dataclass
class Budgets:
    """Tokens in a micro-batch, by kind; they shrink in a session and begin again as configured in the next."""

    student: int
    teacher: int
    configured: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.configured = {"student": self.student, "teacher": self.teacher}


@dataclass
class Policy:
    """Everything that a forward and a backward pass need; the strategy also holds the optimizer, where there is one."""

    scorer: Any  # the Scorer as `accelerator.prepare` returned it
    tokenizer: Any
    accelerator: Accelerator
    strategy: Strategy
    budgets: Budgets  # a process that runs out of memory halves them for all
    exact: bool  # float32 throughout: log-probs computed twice agree to 1e-3 nats
    updates: int = 0  # made in this session

    @property
    def bare_scorer(self) -> Scorer:
        """The Scorer itself, without what a launch has put around it."""
        return self.accelerator.unwrap_model(self.scorer)

    @property
    def model(self) -> Any:
        return self.bare_scorer.model

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    def step(self, lr: float) -> None:
        """Move the weights along the gradient and forget it."""
        for group in self.strategy.optimizer.param_groups:
            group["lr"] = lr
        self.strategy.step()
        self.updates += 1
