"""Devices by the figures that bound a step, and the one that is here by measurement."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from sgsd.methods.zoo import nearest
from sgsd.plan.meta_pass import Cost, counting
from sgsd.types import UserError

#: What of a GPU's figures a run is taken to reach. Assumed, not measured.
UTILISATION, BANDWIDTH_SHARE = 0.5, 0.7
#: What of its fastest a processor is taken to reach in a run; set by the three runs of benchmarks/plan.py.
CPU_SHARE = 0.7
DISPATCH = 10e-6  # seconds that Python and torch take to start a kernel
TOUCHED = 3  # bytes moved for each byte that an operation writes: two read, one written


@dataclass(frozen=True, slots=True)
class Device:
    """Floating-point operations, bytes and kernels a second, and bytes of memory."""

    name: str
    flops: float
    bandwidth: float
    memory: float
    utilisation: float = UTILISATION  # of `flops`
    bandwidth_share: float = BANDWIDTH_SHARE
    dispatch: float = DISPATCH
    queues: bool = True  # whether kernels are started while others run
    source: str = "the vendor's dense bfloat16 figures; no GPU figure has been checked by us"

    @property
    def kind(self) -> str:
        return "cuda" if self.queues else "cpu"

    def seconds(self, operations: float, cost: Cost, passes: float = 1, *, read: float = 0.0) -> float:
        """Of passes that multiply `operations` in all, with `read` bytes of weights, and cost the rest each."""
        products = max(operations / (self.flops * self.utilisation), self.moving(read))
        work = products + self.moving(cost.written * passes * TOUCHED)
        starting = cost.operations * passes * self.dispatch
        return max(work, starting) if self.queues else work + starting

    def moving(self, size: float) -> float:
        return size / (self.bandwidth * self.bandwidth_share)


GPUS = {
    device.name: device
    for device in (
        Device("h200", 989e12, 4.8e12, 141e9),
        Device("h100", 989e12, 3.35e12, 80e9),
        Device("a100-80g", 312e12, 2.039e12, 80e9),
        Device("a100-40g", 312e12, 1.555e12, 40e9),
        Device("l40s", 362e12, 0.864e12, 48e9),
        Device("rtx4090", 165e12, 1.008e12, 24e9),
    )
}


def device_named(name: str, *, dtype: torch.dtype = torch.float32, width: int = 1024) -> Device:
    """From the table, or "cpu", which is measured here and now. Raises UserError, naming the nearest."""
    if name == "cpu":
        return measured_cpu(dtype, width)
    if name not in GPUS:
        raise UserError(f"--on: there is no device {name!r}; {nearest(name, [*GPUS, 'cpu'])}")
    return GPUS[name]


def measured_cpu(dtype: torch.dtype, width: int) -> Device:
    """This machine: matrix products of a model this wide, results written, and calls of a tiny layer."""
    threads = torch.get_num_threads()
    once, calls = _tiny_layer()
    a, b = torch.randn(1024, width).to(dtype), torch.randn(width, 3 * width).to(dtype)
    x, y = torch.randn(2**21), torch.randn(2**21)
    size = x.numel() * x.element_size()
    return Device(
        name="cpu",
        flops=2 * 1024 * width * 3 * width / _usual(lambda: a @ b, threads),
        bandwidth=size * TOUCHED / _usual(lambda: x * y, threads),
        memory=_physical_memory(),
        utilisation=CPU_SHARE,
        bandwidth_share=CPU_SHARE,
        dispatch=_usual(once, 1) / calls,
        queues=False,
        source=f"measured here just now, {threads} threads; the shares reached are those of three runs on one machine",
    )


def _usual(work: Callable[[], object], threads: int, *, budget: float = 0.3) -> float:
    """Seconds of each thread's processor, the median of as many tries as the time allows.

    By the processor and not by the wall: what waits for other programs is not slow.
    """
    work()
    found: list[float] = []
    end = time.perf_counter() + budget
    while not found or time.perf_counter() < end:
        start = time.process_time()
        work()
        found.append((time.process_time() - start) / threads)
    return median(found)


def _tiny_layer() -> tuple[Callable[[], object], float]:
    """A model whose products and results take no time, and how many kernels it calls."""
    settings = Qwen3Config(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    with torch.random.fork_rng():
        model = AutoModelForCausalLM.from_config(settings).eval()
    with torch.device("meta"):
        ghost = AutoModelForCausalLM.from_config(settings).eval()
    with torch.no_grad(), counting(ghost) as count:
        ghost(input_ids=torch.empty(1, 4, dtype=torch.long, device="meta"), use_cache=False)
    ids = torch.zeros(1, 4, dtype=torch.long)

    def once() -> None:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)

    return once, count.cost.operations


def _physical_memory() -> float:
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):  # not every system tells
        return float("inf")
