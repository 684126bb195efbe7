"""ZeRO, by DeepSpeed: its engine adds up gradients, clips them and steps; here is what the loop has to know of that."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sgsd.config.sections import ModelConfig, OptimizerConfig
from sgsd.distributed.replicated import Strategy
from sgsd.scorer.module import causal_lm
from sgsd.types import UserError

MOMENTS = ("exp_avg", "exp_avg_sq")


class DeepSpeed(Strategy):
    """Stage 2 shares out gradients and moments; stage 3 the weights as well."""

    def __init__(self, accelerator: Any = None) -> None:
        super().__init__(accelerator)
        self.stage = accelerator.state.deepspeed_plugin.zero_stage
        self.in_parts = self.stage == 3
        if self.stage not in (2, 3):
            raise UserError(f"accelerate: zero_stage is {self.stage}; use 2 or 3, or no DeepSpeed at all")
        # Where transformers finds this reference it loads models in parts, which no teacher could be copied from, and
        # lets processes wait for each other at every token that they sample.
        accelerator.state.deepspeed_plugin.dschf = None

    @property
    def kind(self) -> str:
        return f"zero{self.stage}"

    def can_do_again(self, kind: str) -> bool:
        return self.stage == 2 and kind == "teacher"  # elsewhere the others wait in the middle of the pass

    def prepare(
        self, scorer: nn.Module, optimizer: torch.optim.Optimizer, model: ModelConfig, settings: OptimizerConfig
    ) -> tuple[Any, Any]:
        plugin = self.accelerator.state.deepspeed_plugin
        if plugin.zero3_init_flag:
            raise UserError("accelerate: set zero3_init_flag: false; every process loads the model and then shares it")
        chosen = plugin.deepspeed_config
        chosen["train_micro_batch_size_per_gpu"] = 1  # it counts samples, which are none of its business here
        chosen["gradient_clipping"] = settings.max_grad_norm
        chosen["bf16"] = {"enabled": model.dtype == "bfloat16" or self.accelerator.mixed_precision == "bf16"}
        chosen["data_types"] = {"grad_accum_dtype": "fp32"}
        self.settings = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
        self.scorer, self.optimizer = self.accelerator.prepare(scorer, optimizer)
        if self.in_parts:
            import deepspeed  # type: ignore[import-not-found]

            lms = [causal_lm(part) for part in (scorer.model, scorer.teacher_copy) if part is not None]
            for head in (lm.get_output_embeddings() for lm in lms):  # used by the scorer, outside of its own forward
                for parameter in head.parameters():
                    deepspeed.zero.register_external_parameter(scorer, parameter)
        return self.scorer, self.optimizer

    # ── The step ───────────────────────────────────────────────────────────────────────────────────────────────────

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self.scorer.set_gradient_accumulation_boundary(is_boundary=last)
        self.scorer.backward(loss)

    def gradient_norm(self, bound: float) -> float:
        """DeepSpeed clips in its step; here it only says by what, before a bad gradient reaches a weight."""
        inner = self.scorer.optimizer
        norms = [inner.scaled_global_norm()] if self.stage == 2 else inner._get_norm_groups()
        norms = [float(norm) for norm in norms]
        # It writes -1 for a norm that is none, and would pass over the step without a word, or take it.
        return math.nan if min(norms) < 0 else math.hypot(*norms)

    def step(self) -> None:
        self.scorer.step()

    def forget_gradient(self) -> None:
        self.scorer.optimizer.zero_grad(set_to_none=True)

    # ── Whole weights ──────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        if not self.in_parts:
            yield
            return
        with self._gathered(list(self.scorer.module.parameters())), self._without_hooks():
            yield

    @contextmanager
    def _without_hooks(self) -> Iterator[None]:
        """Sampling calls the layers as often as each process likes; the hooks would gather and give away each time."""
        offload = self.scorer.optimizer.parameter_offload
        for parameter in self.scorer.module.parameters():
            parameter.ds_active_sub_modules.clear()
        for hook in (*offload.forward_hooks, *offload.backward_hooks):
            hook.remove()
        offload.forward_hooks, offload.backward_hooks = [], []
        try:
            yield
        finally:
            offload._register_deepspeed_module(offload.module)

    @contextmanager
    def _gathered(self, tensors: Sequence[Tensor], *, writing: bool = False) -> Iterator[None]:
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(tensors), modifier_rank=0 if writing else None):
            yield

    @contextmanager
    def writing(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        if not self.in_parts:
            yield
            return
        with self._gathered(tensors, writing=True):
            yield

    def read(self, tensor: Tensor) -> Tensor:
        """In full precision where DeepSpeed keeps such a copy."""
        from deepspeed.utils import safe_get_full_fp32_param  # type: ignore[import-not-found]

        if tensor.requires_grad and (exact := safe_get_full_fp32_param(tensor)) is not None:
            return exact.reshape(parameter_shape(tensor))
        if self._is_whole(tensor):
            return tensor
        with self._gathered([tensor]):
            return tensor.detach().clone()

    def write(self, tensor: Tensor, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param

        if self._is_whole(tensor):
            tensor.data.copy_(value)
        else:
            with self.writing([tensor]):
                tensor.data.copy_(value)
        if tensor.requires_grad:
            safe_set_full_fp32_param(tensor, value.to(self._device, torch.float32))

    @staticmethod
    def _is_whole(tensor: Any) -> bool:
        return not hasattr(tensor, "ds_status") or tensor.ds_status.name == "AVAILABLE"

    @property
    def _device(self) -> torch.device:
        return self.accelerator.device

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        from deepspeed.utils import safe_get_full_optimizer_state

        trained = [p for p in self.scorer.module.parameters() if p.requires_grad]
        steps = {float(s["step"]) for s in self.scorer.optimizer.optimizer.state.values() if "step" in s}
        state: dict[int, dict[str, Tensor]] = {}
        for number, parameter in enumerate(trained if steps else []):
            moments = {name: safe_get_full_optimizer_state(parameter, name) for name in MOMENTS}
            state[number] = {
                "step": torch.tensor(max(steps)),
                **{name: moment.detach().cpu().reshape(parameter_shape(parameter)) for name, moment in moments.items()},
            }
        rate = self.scorer.optimizer.param_groups[0]["lr"]
        return {"state": state, "param_groups": [{**self.settings, "lr": rate, "params": list(range(len(trained)))}]}

    def load_optimizer_state(self, optimizer: Any, saved: dict[str, Any]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        if not saved["state"]:
            return
        outer, inner = self.scorer.optimizer, self.scorer.optimizer.optimizer
        step = next(iter(saved["state"].values()))["step"]
        # Before its first step the optimizer has no moments to write into.
        for part in outer.single_partition_of_fp32_groups if self.stage == 2 else outer.fp32_partitioned_groups_flat:
            for name in MOMENTS:
                inner.state[part].setdefault(name, torch.zeros_like(part))
            inner.state[part]["step"] = step.clone() if isinstance(inner, torch.optim.AdamW) else int(step)
        if self.stage == 2:
            outer._lazy_init_hp_params_optimizer_state()
        trained = [p for p in self.scorer.module.parameters() if p.requires_grad]
        for number, parameter in enumerate(trained):
            for name in MOMENTS:
                safe_set_full_optimizer_state(parameter, saved["state"][number][name].to(self._device), name)


def parameter_shape(parameter: Tensor) -> torch.Size:
    """The shape of the whole weight, of which a process may hold nothing."""
    return getattr(parameter, "ds_shape", parameter.shape)
