"""Which kernel should make the log-probs: the project's tiles, or that of a library that is installed here?

    python benchmarks/head_kernels.py            # CPU: 2,048 tokens × 256 in float32; CUDA: 8,192 × 2,048 in bfloat16
    python benchmarks/head_kernels.py --quick    # a toy size, to see that it runs

Three calls, over a vocabulary of 151,936: the teacher's (nothing needs a gradient), the student's under LoRA (the
gradient of the hidden states) and the student's in full training (the head's too). Kernels take turns, so that other
load strikes all alike; a ratio is that of one turn, reported is the median. The largest error of a log-prob is against
float64 logits of the first tokens; a gradient's is relative, of its norm, against the project's own in float64. Peak
memory is that of a fresh process each. The project's student also sums entropies, which no library gives.

A library that is not installed, or has no kernel for this device, is listed as such. The rule, fixed beforehand: a
kernel is worth using when it is faster by a tenth, holds no more memory and has at most twice the error.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from machine import REPOSITORY, commit, peak_extra_bytes, processor, timed
from sgsd.scorer.head import token_logps

# (hidden [N, D], weight [V, D], targets [N]) → log p [N]
Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
CALLS = {"teacher": (False, False), "student": (True, False), "trained": (True, True)}  # what needs a gradient
CHECKED = 256  # tokens whose log-probs are compared with float64
TORCH_CHUNK = 512  # tokens; its own choice (`chunking_method="auto"`) took about 20 times as long on two CPU cores


class Absent(Exception):
    """Why a kernel cannot be measured here."""


@dataclass(frozen=True, slots=True)
class Size:
    tokens: int
    hidden: int
    vocabulary: int
    dtype: str


CPU = Size(tokens=2048, hidden=256, vocabulary=151_936, dtype="float32")
CUDA = Size(tokens=8192, hidden=2048, vocabulary=151_936, dtype="bfloat16")
QUICK = Size(tokens=64, hidden=32, vocabulary=1000, dtype="float32")


# ── Kernels ────────────────────────────────────────────────────────────────────────────────────────────────────────


def tiles(device: str) -> Kernel:
    def call(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        return token_logps(hidden_ND, weight_VD, targets_N, entropy=hidden_ND.requires_grad).logps_N

    return call


def full(device: str) -> Kernel:
    """Every logit at once: what a kernel is there to avoid."""

    def call(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        logits_NV = (hidden_ND @ weight_VD.t()).float()
        return -torch.nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")

    return call


def torch_chunks(device: str) -> Kernel:
    options: Any = getattr(torch.nn, "LinearCrossEntropyOptions", None)
    if options is None:
        raise Absent(f"torch {torch.__version__} has no LinearCrossEntropyOptions")
    return negated(torch.nn.functional.linear_cross_entropy, options=options(batch_chunk_size=TORCH_CHUNK))


def cut_cross_entropy(device: str) -> Kernel:
    """Its Triton kernels on a GPU; elsewhere what it compiles with torch."""
    function = imported("cut_cross_entropy").linear_cross_entropy
    return negated(function, impl="cce" if device == "cuda" else "torch_compile")


def liger(device: str) -> Kernel:
    function = imported("liger_kernel.transformers.functional").liger_fused_linear_cross_entropy
    if device != "cuda":
        raise Absent("its kernels are Triton's, which need a GPU")
    return negated(function)


def negated(nll: Callable[..., Tensor], **options: Any) -> Kernel:
    """Log-probs from a library's negative ones, a number a token."""

    def call(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        return -nll(hidden_ND, weight_VD, targets_N, reduction="none", **options)

    return call


def imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Absent(f"not installed: {error}") from error


KERNELS: dict[str, Callable[[str], Kernel]] = {
    "tiles": tiles,
    "full logits": full,
    "torch, in chunks": torch_chunks,
    "cut-cross-entropy": cut_cross_entropy,
    "Liger": liger,
}
OURS = "tiles"


def available(device: str) -> tuple[dict[str, Kernel], dict[str, str]]:
    """The kernels that run here, and why each of the others does not."""
    found: dict[str, Kernel] = {}
    absent: dict[str, str] = {}
    for name, make in KERNELS.items():
        try:
            found[name] = make(device)
        except Absent as error:
            absent[name] = str(error)
    return found, absent


# ── Measuring ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Inputs:
    hidden_ND: Tensor
    weight_VD: Tensor
    targets_N: Tensor
    grad_N: Tensor


def make_inputs(size: Size, call: str, device: str) -> Inputs:
    """Logits of the spread that trained models have: standard deviation 3."""
    random = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(size.tokens, size.hidden, generator=random)
    weight_VD = torch.randn(size.vocabulary, size.hidden, generator=random).mul_(3 / size.hidden**0.5)
    targets_N = torch.randint(size.vocabulary, (size.tokens,), generator=random).to(device)
    grad_N = torch.randn(size.tokens, generator=random).to(device)
    dtype, (hidden, weight) = getattr(torch, size.dtype), CALLS[call]
    return Inputs(
        hidden_ND.to(device, dtype).requires_grad_(hidden),
        weight_VD.to(device, dtype).requires_grad_(weight),
        targets_N,
        grad_N,
    )


def run(kernel: Kernel, inputs: Inputs) -> Tensor:
    """One call, with its backward where something needs one."""
    inputs.hidden_ND.grad = inputs.weight_VD.grad = None
    with torch.set_grad_enabled(inputs.hidden_ND.requires_grad):
        logps_N = kernel(inputs.hidden_ND, inputs.weight_VD, inputs.targets_N)
    if inputs.hidden_ND.requires_grad:
        logps_N.backward(inputs.grad_N.to(logps_N.dtype))
    return logps_N.detach()


def gradients(inputs: Inputs) -> list[Tensor]:
    return [t.grad.double() for t in (inputs.hidden_ND, inputs.weight_VD) if t.grad is not None]


def errors(kernel: Kernel, size: Size, call: str, device: str) -> dict[str, float]:
    """Of the first tokens, against float64."""
    few = Size(min(CHECKED, size.tokens), size.hidden, size.vocabulary, size.dtype)
    inputs = make_inputs(few, call, device)
    logps_N = run(kernel, inputs)
    hidden_ND, weight_VD = (t.detach().double() for t in (inputs.hidden_ND, inputs.weight_VD))
    logits_NV = hidden_ND @ weight_VD.t()
    exact_N = logits_NV.log_softmax(1).gather(1, inputs.targets_N[:, None]).squeeze(1)
    found = {"logp": float((logps_N.double() - exact_N).abs().max())}
    if inputs.hidden_ND.requires_grad:
        exact = Inputs(
            hidden_ND.requires_grad_(),
            weight_VD.requires_grad_(inputs.weight_VD.requires_grad),
            inputs.targets_N,
            inputs.grad_N,
        )
        run(tiles(device), exact)
        pairs = list(zip(gradients(inputs), gradients(exact), strict=True))
        found["gradient"] = max(float((mine - theirs).norm() / theirs.norm()) for mine, theirs in pairs)
    return found


def measure_call(size: Size, call: str, device: str, repetitions: int, peak: Callable[..., int]) -> dict[str, Any]:
    kernels, _ = available(device)
    inputs = make_inputs(size, call, device)
    for kernel in kernels.values():
        run(kernel, inputs)  # compiles, and starts the threads
    rounds = [
        {name: timed(partial(run, kernel, inputs))[0].wall for name, kernel in kernels.items()}
        for _ in range(repetitions)
    ]
    return {
        name: {
            "seconds": [one[name] for one in rounds],
            "over_tiles": [one[name] / one[OURS] for one in rounds],
            "peak_extra_bytes": peak(call, name),
            "errors": errors(kernel, size, call, device),
        }
        for name, kernel in kernels.items()
    }


def alone(size: Size, device: str, call: str, name: str) -> int:
    """Bytes that one call of one kernel holds at its worst moment, in this fresh process."""
    kernel = KERNELS[name](device)
    run(kernel, make_inputs(Size(QUICK.tokens, size.hidden, QUICK.vocabulary, size.dtype), call, device))
    inputs = make_inputs(size, call, device)
    return peak_extra_bytes(lambda: run(kernel, inputs))


def in_fresh_process(flags: Sequence[str], call: str, name: str) -> int:
    command = [sys.executable, __file__, *flags, "--alone", call, name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} alone: {done.stderr[-2000:]}")
    return int(done.stdout.splitlines()[-1])


# ── Saying so ──────────────────────────────────────────────────────────────────────────────────────────────────────


def verdict(found: dict[str, Any]) -> list[str]:
    """The libraries' kernels that the rule would use for a call."""
    mine = found[OURS]
    return [
        name
        for name, other in found.items()
        if statistics.median(other["over_tiles"]) <= 0.9
        and other["peak_extra_bytes"] <= mine["peak_extra_bytes"]
        and all(other["errors"][of] <= 2 * mine["errors"][of] for of in mine["errors"])
    ]


def table(report: dict[str, Any]) -> str:
    size = report["size"]
    lines = [f"{report['machine']}; {size}", ""]
    lines.append(f"{'call':<9}{'kernel':<20}{'seconds':>9}{'÷ tiles':>9}{'MiB':>9}{'error log p':>13}{'gradient':>11}")
    for call, found in report["calls"].items():
        for name, one in found.items():
            gradient = one["errors"].get("gradient")
            lines.append(
                f"{call:<9}{name:<20}{statistics.median(one['seconds']):>9.3f}"
                f"{statistics.median(one['over_tiles']):>9.2f}{one['peak_extra_bytes'] / 2**20:>9.0f}"
                f"{one['errors']['logp']:>13.1e}" + (f"{gradient:>11.1e}" if gradient is not None else "")
            )
        lines.append(f"{'':<9}worth using: {', '.join(report['worth_using'][call]) or 'none'}")
    lines += [f"{name}: {why}" for name, why in report["absent"].items()]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a toy size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, help="default: results/head_kernels_DEVICE.json, or none with --quick")
    parser.add_argument("--alone", nargs=2, metavar=("CALL", "KERNEL"), help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    torch.set_num_threads(asked.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = QUICK if asked.quick else CUDA if device == "cuda" else CPU
    if asked.alone:
        sys.stdout.write(f"{alone(size, device, *asked.alone)}\n")
        return
    peak = partial(in_fresh_process, ["--threads", str(asked.threads), *(["--quick"] if asked.quick else [])])
    calls = {call: measure_call(size, call, device, asked.repetitions, peak) for call in CALLS}
    report = {
        "command": f"python benchmarks/head_kernels.py --threads {asked.threads} --repetitions {asked.repetitions}",
        "machine": torch.cuda.get_device_name() if device == "cuda" else f"{platform.system()} {processor()}",
        "torch": torch.__version__,
        "commit": commit(),
        "size": asdict(size),
        "absent": available(device)[1],
        "worth_using": {call: verdict(found) for call, found in calls.items()},
        "calls": calls,
    }
    out = asked.out or (None if asked.quick else REPOSITORY / "benchmarks/results" / f"head_kernels_{device}.json")
    if out is not None:
        out.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(table(report) + "\n")


if __name__ == "__main__":
    main()
