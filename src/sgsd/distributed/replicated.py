"""How a run lies on its processes: the strategy where each holds it whole, which `fsdp2` and `deepspeed` derive from.

The loop asks a `Strategy` for whatever depends on that: who adds up gradients, where a whole weight is to be had, how
the state of an optimizer is read and written. A checkpoint never knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sgsd.config.sections import ModelConfig, OptimizerConfig
from sgsd.rollout import Engine, Sampling
from sgsd.types import Completion

BUCKET = 2**25  # numbers of a gradient that are added up in one go


class Strategy:
    """One process, or several with all weights on each; what other strategies do differently they override.

    Several processes add their gradients up once a step and not in every pass, as a DDP wrapper would: that is less to
    send, and a process that runs out of memory in a pass leaves nobody waiting in the middle of one.
    """

    in_parts = False  # whether a process holds only a part of the weights

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        self.accelerator: Any = accelerator
        self.scorer: Any = None
        self.optimizer: Any = None

    @property
    def name(self) -> str:
        """The launch as records name it; empty for a single process."""
        count = self.accelerator.num_processes if self.accelerator else 1
        return "" if count == 1 else f"{count} processes, {self.kind}"

    @property
    def kind(self) -> str:
        return "replicated"

    # ── The step ───────────────────────────────────────────────────────────────────────────────────────────────────

    def prepare(
        self, scorer: nn.Module, optimizer: torch.optim.Optimizer, model: ModelConfig, settings: OptimizerConfig
    ) -> tuple[Any, Any]:
        """The scorer to call and the optimizer to step, on the device."""
        if self.accelerator.num_processes == 1:
            self.scorer, self.optimizer = self.accelerator.prepare(scorer, optimizer)
        else:
            self.scorer = self.accelerator.prepare_model(scorer, evaluation_mode=True)  # no DDP wrapper
            self.optimizer = self.accelerator.prepare_optimizer(optimizer)
            for tensor in self.scorer.parameters():
                torch.distributed.broadcast(tensor.detach(), 0)
        return self.scorer, self.optimizer

    def start(self, warmup: Callable[[], None]) -> None:
        """Once, before anything is sampled or scored; `warmup()` makes the smallest pass of each kind."""

    def can_do_again(self, kind: str) -> bool:
        """Whether a process that ran out of memory in such a pass finds back to the others."""
        return True

    def before_microbatch(self, kind: str) -> None:
        """A pass begins; those of one name send the same messages, a student's on its way back as well."""

    def after_warmup(self) -> None:
        """The pass just made was the smallest of its kind."""

    def recover_from_oom(self) -> None:
        """This process ran out of memory in the pass: let the others come to its end."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add to the gradient; `last` says that no other pass of the update follows."""
        self.accelerator.backward(loss)

    def gradient_norm(self, bound: float) -> float:
        """The norm of the whole gradient, all processes' together, which is cut to `bound`."""
        trained = [p for p in self.scorer.parameters() if p.requires_grad]
        if self.accelerator.num_processes > 1 and not self.in_parts:
            average([p.grad for p in trained if p.grad is not None], self.accelerator.num_processes)
        return float(whole(self.accelerator.clip_grad_norm_(trained, bound)))

    def step(self) -> None:
        """Move the weights, forget the gradient."""
        self.optimizer.step()
        self.forget_gradient()

    def forget_gradient(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    # ── Whole weights ──────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """For as long as it lasts every process has every weight, to sample by or to save."""
        yield

    @contextmanager
    def writing(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """For as long as it lasts these may be read and written by `read` and `write`, on all processes alike."""
        yield

    def read(self, tensor: Tensor) -> Tensor:
        """The whole of a weight; all processes ask for it together."""
        return whole(tensor)

    def write(self, tensor: Tensor, value: Tensor) -> None:
        """Put a whole weight in place; the first process's value counts."""
        put(tensor, value)

    def settle(self) -> None:
        """Before weights are read or written other than by a pass, for a pass may leave some gathered."""

    def whole_state(self, model: nn.Module) -> dict[str, Tensor] | None:
        """The whole state of a model that lies in parts, on the first process; none where it can be saved as it is."""
        if not self.in_parts:
            return None
        self.settle()
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        saved = set(model.state_dict())
        found = {}
        for name, tensor in tensors.items():
            value = self.read(tensor).detach() if name in saved else None
            if value is not None and self.accelerator.is_main_process:
                found[name] = value.cpu().clone()
        return found

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The optimizer's state as torch writes it for one process, on the CPU where it had to be gathered."""
        state = optimizer.state_dict()
        return {**state, "state": {key: _each(values, whole) for key, values in state["state"].items()}}

    def load_optimizer_state(self, optimizer: Any, saved: dict[str, Any]) -> None:
        """Put back what `optimizer_state` gave, from whatever launch."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        state = {
            key: {name: like(value, parameters[key]) for name, value in values.items()}
            for key, values in saved["state"].items()
        }
        optimizer.load_state_dict({**saved, "state": state})


def average(gradients: Sequence[Tensor], count: int) -> None:
    """The mean over all processes, in place, many small tensors in one message."""
    waiting: list[Tensor] = []
    for place, gradient in enumerate(gradients):
        waiting.append(gradient)
        after = gradients[place + 1] if place + 1 < len(gradients) else None
        size = sum(g.numel() for g in waiting)
        if after is not None and after.dtype == gradient.dtype and size + after.numel() <= BUCKET:
            continue
        flat = torch.cat([g.reshape(-1) for g in waiting])
        torch.distributed.all_reduce(flat)
        flat /= count
        for g, part in zip(waiting, flat.split([g.numel() for g in waiting])):
            g.copy_(part.view_as(g))
        waiting = []


def whole(tensor: Tensor) -> Tensor:
    """A tensor that lies in parts, gathered; any other as it is."""
    parts: Any = tensor
    return parts.full_tensor() if _in_parts(parts) else tensor


def like(value: Any, parameter: Tensor) -> Any:
    """A whole tensor laid out over the processes as the parameter is; numbers and scalars as they are."""
    if not isinstance(value, Tensor) or value.dim() == 0 or not _in_parts(parameter):
        return value
    from torch.distributed.tensor import distribute_tensor

    local: Any = parameter
    return distribute_tensor(value.to(local.device), local.device_mesh, local.placements)


def put(tensor: Tensor, value: Tensor) -> None:
    tensor.copy_(like(value.to(tensor.dtype), tensor))


def _in_parts(tensor: Any) -> bool:
    return hasattr(tensor, "full_tensor")


def _each(values: dict[str, Any], change: Any) -> dict[str, Any]:
    return {name: change(value) if isinstance(value, Tensor) else value for name, value in values.items()}


class WholeEngine:
    """Samples with whole weights: what a process holds in parts is gathered for the time of it."""

    def __init__(self, engine: Engine, strategy: Strategy) -> None:
        self.engine, self.strategy = engine, strategy

    def sample(
        self, prompts: Sequence[Sequence[int]], indices: Sequence[int], sampling: Sampling, *, seed: int
    ) -> list[Completion]:
        with self.strategy.whole_weights():
            return self.engine.sample(prompts, indices, sampling, seed=seed)

    def sync(self) -> None:
        self.engine.sync()
