"""FSDP2: every process holds a part of every weight, and whole ones only as long as they are computed with.

A process that runs out of memory in a pass has left it, while the others wait in one of its messages for what it owes
them. The messages of a pass are the same for every pass of its kind, whatever the tokens. So they are noted when the
smallest pass is made once (`warmup`), and a process that has fallen out sends the rest of them, with nothing in them;
then all find that one has failed, throw the attempt away and begin anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather, ReduceScatter
from torch.distributed.fsdp._fully_shard._fsdp_common import TrainingState

from sgsd.config.sections import ModelConfig, OptimizerConfig
from sgsd.distributed.replicated import Strategy
from sgsd.scorer.module import causal_lm
from sgsd.types import UserError

Shape = tuple[torch.Size, torch.dtype, torch.device]


@dataclass(frozen=True)
class Message:
    """One collective of a pass, without its content."""

    send: Callable[..., Any]
    out: Shape
    into: Shape
    settings: dict[str, Any]  # between whom, and how it is added up

    def send_empty(self) -> None:
        made = (torch.zeros(size, dtype=dtype, device=device) for size, dtype, device in (self.out, self.into))
        self.send(*made, **self.settings)


@dataclass
class Trail:
    """The messages that a pass has sent so far, and those that passes of each kind send in all."""

    kind: str = ""
    sent: list[Message] = field(default_factory=list)
    known: dict[str, list[Message]] = field(default_factory=dict)

    def begin(self, kind: str) -> None:
        self.kind, self.sent = kind, []

    def keep(self) -> None:
        self.known[self.kind] = list(self.sent)  # sampling sends more before the next pass begins

    def rest(self) -> list[Message]:
        return self.known.get(self.kind, [])[len(self.sent) :]


@dataclass
class Noted(AllGather, ReduceScatter):
    """FSDP2's way to plug in a collective of one's own: torch's, noted in the trail."""

    trail: Trail
    send: Callable[..., Any]

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, **settings: Any) -> Any:  # type: ignore[override]
        out, into = ((t.shape, t.dtype, t.device) for t in (output_tensor, input_tensor))
        kept = {name: value for name, value in settings.items() if name in ("group", "op")}
        self.trail.sent.append(Message(self.send, out, into, kept))
        return self.send(output_tensor, input_tensor, **settings)


class Fsdp2(Strategy):
    """The scorer is the root, and each of the model's layers a unit of its own."""

    in_parts = True
    kind = "fsdp2"

    def prepare(
        self, scorer: nn.Module, optimizer: torch.optim.Optimizer, model: ModelConfig, settings: OptimizerConfig
    ) -> tuple[Any, Any]:
        plugin = self.accelerator.state.fsdp_plugin
        if plugin.fsdp_version != 2:
            raise UserError("accelerate: fsdp_version is 1; set 2, as configs/accelerate/fsdp2.yaml does")
        if plugin.cpu_ram_efficient_loading:
            raise UserError("accelerate: set fsdp_cpu_ram_efficient_loading: false; every process loads the model")
        plugin.transformer_cls_names_to_wrap = layer_names(causal_lm(scorer.model))
        if self.accelerator.mixed_precision == "bf16":
            # Accelerate's own policy would round log-probabilities and sums of gradients to bfloat16 as well.
            plugin.mixed_precision_policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
        self.scorer, self.optimizer = self.accelerator.prepare(scorer, optimizer)
        self.units = [module for module in self.scorer.modules() if isinstance(module, FSDPModule)]
        self.trail = Trail()
        for unit in self.units:
            unit.set_custom_all_gather(Noted(self.trail, distributed.all_gather_single))
            unit.set_custom_reduce_scatter(Noted(self.trail, distributed.reduce_scatter_single))
        return self.scorer, self.optimizer

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        inner = [unit for unit in self.units if unit is not self.scorer]
        usual = self.accelerator.state.fsdp_plugin.reshard_after_forward
        for unit in self.units:
            unit.unshard()
        for unit in inner:  # processes sample answers of unequal lengths: nothing may be gathered on the way
            unit.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for unit in inner:
                unit.set_reshard_after_forward(usual, recurse=False)
            self.settle()

    def before_microbatch(self, kind: str) -> None:
        self.settle()
        self.trail.begin(kind)

    def after_warmup(self) -> None:
        self.trail.keep()

    def recover_from_oom(self) -> None:
        self._forget_pass()
        for message in self.trail.rest():
            message.send_empty()
        self.forget_gradient()

    def _forget_pass(self) -> None:
        """Do what FSDP2 does at the end of a backward, which was not reached, without adding up gradients."""
        root = self.scorer._get_fsdp_state()
        for state in root._state_ctx.all_states:
            for group in state._fsdp_param_groups:
                group._training_state = TrainingState.POST_BACKWARD
                for parameter in group.fsdp_params:
                    if hasattr(parameter, "_unsharded_param"):
                        parameter._unsharded_param.grad = None
                    parameter.unsharded_accumulated_grad = None
        root._root_post_backward_final_callback()
        root._comm_ctx.all_gather_state = None
        self.settle()

    def settle(self) -> None:
        """A pass without a gradient leaves the root whole, where it would grow older than its parts."""
        for unit in self.units:
            unit.reshard()

    def start(self, warmup: Callable[[], None]) -> None:
        warmup()  # the units find out who is the root in the first forward, which sampling would not be


def layer_names(lm: Any) -> list[str]:
    """Classes of the model's layers; transformers says what must not be torn apart."""
    present = {type(module).__name__ for module in lm.modules()}
    return [name for name in (getattr(lm, "_no_split_modules", None) or []) if name in present]
