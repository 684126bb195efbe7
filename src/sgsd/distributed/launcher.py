"""The launch that a launcher's settings ask for."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import FullyShardedDataParallelPlugin, InitProcessGroupKwargs

from sgsd.distributed.replicated import Strategy
from sgsd.types import UserError

REPLICATED = (DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
#: How long processes wait for one another. NCCL's own ten minutes are less than the first may need to write a large
#: checkpoint or a bank's update, or one of them until its engine is back.
PATIENCE = timedelta(hours=2)


def make_accelerator() -> Accelerator:
    """The accelerator that the launcher's settings ask for. Raises UserError where a library for them is missing."""
    by_deepspeed = _asked("ACCELERATE_USE_DEEPSPEED")
    # Without a GPU DeepSpeed has to be told which library speaks between processes.
    backend = {"backend": "gloo"} if by_deepspeed and not torch.cuda.is_available() else {}
    told = InitProcessGroupKwargs(**backend, timeout=PATIENCE)
    try:
        # Apple's GPUs have no float64, which the sampler and the sums need.
        accelerator = Accelerator(cpu=torch.backends.mps.is_available(), kwargs_handlers=[told])
    except ImportError as error:
        raise UserError(f"accelerate: {' '.join(str(error).split())[:240]}") from error
    if _asked("ACCELERATE_USE_FSDP") and accelerator.distributed_type == DistributedType.MULTI_CPU:
        # On CPUs Accelerate passes over the setting without a word; the sharding itself works there.
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator


def leave() -> None:
    """End what processes share before the program ends.

    Threads of the group that are still there then may abort the process (gloo, seldom), and a launcher that sees one
    process fail ends the others, the first of them perhaps in the middle of writing the model.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"


def make_strategy(accelerator: Accelerator) -> Strategy:
    """Raises UserError for a launch that cannot be done right."""
    kind = accelerator.distributed_type
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise UserError(f"accelerate: mixed_precision {accelerator.mixed_precision} is not supported; use bf16 or no")
    if kind == DistributedType.FSDP:
        from sgsd.distributed.fsdp2 import Fsdp2

        return Fsdp2(accelerator)
    if kind == DistributedType.DEEPSPEED:
        from sgsd.distributed.deepspeed import DeepSpeed

        return DeepSpeed(accelerator)
    if kind != DistributedType.NO and kind not in REPLICATED:
        raise UserError(f"accelerate: distributed_type {kind.value} is not supported; see configs/accelerate")
    return Strategy(accelerator)
