"""What the tiled LM head costs: time against the bare matrix products, peak memory against full logits.

    python benchmarks/head.py            # vocabulary 151,936, 2,048 tokens, hidden 256, float32, 2 threads
    python benchmarks/head.py --quick    # a toy size, to see that it runs

Time. One process, repetitions interleaved (ours, the products, ours, …) so that other load on the machine strikes all
of them alike; the result is the median over repetitions of ours ÷ the products of the same repetition. The products
are those a mode cannot do without: with a frozen head Z = H Wᵀ and Z W; with a trained one Z twice, Z W and Zᵀ H. Each
is timed whole and in tiles, without allocating its output; per repetition the FASTER of the two counts. The same ratio
of processor seconds stands beside it: with one thread it does not feel other load, with more it counts their waiting.

Memory. Each way runs in a process of its own, forward and backward; its peak is the high-water mark of resident memory
(reset just before, where the system allows it) minus what was resident before. Gradients and outputs count. That run
also gives the seconds of the full-logits way, once and with its memory still to be paged in: only to have an idea.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from machine import Elapsed, commit, peak_extra_bytes, processor, timed
from sgsd.scorer.head import token_logps

REPOSITORY = Path(__file__).resolve().parent.parent
TARGETS = {"wall_over_products": 1.2, "peak_over_full": 1 / 8}
MODES = ("frozen", "trained")


@dataclass(frozen=True, slots=True)
class Size:
    tokens: int
    hidden: int
    vocabulary: int
    product_tiles: tuple[int, int]


FULL = Size(tokens=2048, hidden=256, vocabulary=151_936, product_tiles=(2048, 8192))
QUICK = Size(tokens=64, hidden=16, vocabulary=1000, product_tiles=(32, 256))


@dataclass(frozen=True, slots=True)
class Inputs:
    hidden_ND: Tensor
    weight_VD: Tensor
    targets_N: Tensor
    grad_N: Tensor


def make_inputs(size: Size, mode: str) -> Inputs:
    random = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(size.tokens, size.hidden, generator=random)
    weight_VD = torch.randn(size.vocabulary, size.hidden, generator=random).mul_(3 / size.hidden**0.5)
    targets_N = torch.randint(size.vocabulary, (size.tokens,), generator=random)
    grad_N = torch.randn(size.tokens, generator=random)
    return Inputs(hidden_ND.requires_grad_(), weight_VD.requires_grad_(mode == "trained"), targets_N, grad_N)


def ours(inputs: Inputs) -> None:
    token_logps(inputs.hidden_ND, inputs.weight_VD, inputs.targets_N).logps_N.backward(inputs.grad_N)


def full(inputs: Inputs) -> None:
    logps_NV = (inputs.hidden_ND @ inputs.weight_VD.t()).log_softmax(-1)
    logps_NV.gather(1, inputs.targets_N[:, None]).squeeze(1).backward(inputs.grad_N)


WAYS: dict[str, Callable[[Inputs], None]] = {"ours": ours, "full": full}


def clear_gradients(inputs: Inputs) -> None:
    inputs.hidden_ND.grad = inputs.weight_VD.grad = None


class Products:
    """The bare products of a mode, into outputs allocated and paged in beforehand (ones: zeros would be lazy)."""

    def __init__(self, inputs: Inputs, tiles: tuple[int, int]) -> None:
        self.hidden_ND, self.weight_VD = inputs.hidden_ND.detach(), inputs.weight_VD.detach()
        self.trained = inputs.weight_VD.requires_grad
        self.tiles = tiles
        self.out_ND, self.out_VD = torch.ones_like(self.hidden_ND), torch.ones_like(self.weight_VD)
        self.buffer = torch.ones(tiles[0] * tiles[1])

    def tiled(self) -> None:
        for row in range(0, self.hidden_ND.shape[0], self.tiles[0]):
            for column in range(0, self.weight_VD.shape[0], self.tiles[1]):
                rows, columns = slice(row, row + self.tiles[0]), slice(column, column + self.tiles[1])
                hidden_nD, weight_vD = self.hidden_ND[rows], self.weight_VD[columns]
                shape = hidden_nD.shape[0], weight_vD.shape[0]
                tile_nv = self.buffer[: shape[0] * shape[1]].view(shape)
                for _ in range(2 if self.trained else 1):
                    torch.mm(hidden_nD, weight_vD.t(), out=tile_nv)
                self.out_ND[rows].addmm_(tile_nv, weight_vD)
                if self.trained:
                    self.out_VD[columns].addmm_(tile_nv.t(), hidden_nD)

    def whole(self, logits_NV: Tensor) -> None:
        for _ in range(2 if self.trained else 1):
            torch.mm(self.hidden_ND, self.weight_VD.t(), out=logits_NV)
        torch.mm(logits_NV, self.weight_VD, out=self.out_ND)
        if self.trained:
            torch.mm(logits_NV.t(), self.hidden_ND, out=self.out_VD)


def time_mode(size: Size, mode: str, repetitions: int) -> dict[str, Any]:
    """Interleaved repetitions of one mode."""
    inputs = make_inputs(size, mode)
    products = Products(inputs, size.product_tiles)
    logits_NV = torch.ones(size.tokens, size.vocabulary)
    ours(make_inputs(QUICK, mode))  # starts the threads
    ways: dict[str, Callable[[], None]] = {
        "ours": lambda: ours(inputs),
        "products_tiled": products.tiled,
        "products_whole": lambda: products.whole(logits_NV),
    }
    rounds: list[dict[str, Elapsed]] = []
    for _ in range(repetitions):
        rounds.append({})
        for way, work in ways.items():
            clear_gradients(inputs)
            rounds[-1][way], _ = timed(work)
    return {
        f"{clock}_over_products": ratio_to_products([{w: getattr(e, clock) for w, e in r.items()} for r in rounds])
        for clock in ("wall", "processor")
    }


def ratio_to_products(rounds: list[dict[str, float]]) -> dict[str, Any]:
    ratios = [seconds["ours"] / min(seconds["products_tiled"], seconds["products_whole"]) for seconds in rounds]
    samples = {way: [seconds[way] for seconds in rounds] for way in rounds[0]}
    return {"median": statistics.median(ratios), "ratios": ratios, "seconds": samples}


def alone(size: Size, mode: str, way: str) -> dict[str, float]:
    """One forward and backward in a fresh process: its seconds, and peak memory beyond what was held."""
    inputs = make_inputs(size, mode)
    WAYS[way](make_inputs(QUICK, mode))  # loads threads and kernels, which are no tensor memory
    taken: list[Elapsed] = []
    peak = peak_extra_bytes(lambda: taken.append(timed(lambda: WAYS[way](inputs))[0]))
    return {"seconds": taken[0].wall, "peak_extra_bytes": peak}


def in_fresh_process(mode: str, way: str, flags: list[str]) -> dict[str, float]:
    command = [sys.executable, __file__, "--alone", mode, way, *flags]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def measure(size: Size, repetitions: int, flags: list[str]) -> dict[str, Any]:
    modes = {}
    for mode in MODES:
        fresh = {way: in_fresh_process(mode, way, flags) for way in WAYS}
        peaks = {way: found["peak_extra_bytes"] for way, found in fresh.items()}
        modes[mode] = time_mode(size, mode, repetitions) | {
            "peak_over_full": peaks["ours"] / max(1, peaks["full"]),
            "fresh_process": fresh,
        }
    return {
        "machine": f"{platform.system()} {platform.machine()}, {processor()}",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "size": asdict(size),
        "repetitions": repetitions,
        "targets": TARGETS,
        "modes": modes,
    }


def table(report: dict[str, Any]) -> str:
    size = report["size"]
    lines = [
        f"vocabulary {size['vocabulary']:,}, {size['tokens']:,} tokens, hidden {size['hidden']}, float32, "
        f"{report['threads']} threads, {report['repetitions']} interleaved repetitions",
        f"{'head':<8} {'ours s':>8} {'products s':>11} {'full s':>8} {'ours/products':>14} {'(range)':>11} {'cpu':>7} "
        f"{'ours MB':>9} {'full MB':>9} {'ours/full':>10}",
    ]
    for mode, found in report["modes"].items():
        wall, processor = found["wall_over_products"], found["processor_over_products"]
        medians = {way: statistics.median(samples) for way, samples in wall["seconds"].items()}
        spread = f"{min(wall['ratios']):.2f}–{max(wall['ratios']):.2f}"
        fresh = found["fresh_process"]
        peaks = {way: fresh[way]["peak_extra_bytes"] / 2**20 for way in fresh}
        lines.append(
            f"{mode:<8} {medians['ours']:>8.3f} {min(medians['products_tiled'], medians['products_whole']):>11.3f} "
            f"{fresh['full']['seconds']:>8.3f} {wall['median']:>14.3f} {spread:>11} {processor['median']:>7.3f} "
            f"{peaks['ours']:>9.0f} {peaks['full']:>9.0f} {found['peak_over_full']:>10.3f}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a toy size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, help="default: results/head.json, or head_quick.json with --quick")
    parser.add_argument("--alone", nargs=2, metavar=("MODE", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    size = QUICK if arguments.quick else FULL
    if arguments.alone:
        sys.stdout.write(json.dumps(alone(size, *arguments.alone)))
        return
    flags = ["--threads", str(arguments.threads), *(["--quick"] if arguments.quick else [])]
    report = measure(size, arguments.repetitions, flags)
    name = "head_quick.json" if arguments.quick else "head.json"
    out = arguments.out or REPOSITORY / "benchmarks" / "results" / name
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(table(report) + "\n")


if __name__ == "__main__":
    main()
