"""Runs the tasks of a file on one of several processes; see `processes.run_tasks`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from runs import quiet, small_config
from sgsd.distributed.launcher import leave
from sgsd.scorer import PackedBatch, Scorer, Scores
from sgsd.train import run_training


class Burst(torch.autograd.Function):
    """Runs out of memory on the way back."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor) -> torch.Tensor:
        return states.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. (a test)")


@contextmanager
def bursting(rank: int | None, where: str, wide: int = 60) -> Iterator[list[str]]:
    """One process runs out of memory once, in the middle of its second pass that is wider than a token or two."""
    plain, seen = Scorer.forward, [0]
    burst: list[str] = []

    def forward(self: Scorer, pack: PackedBatch, **more: Any) -> Scores:
        role = more.get("role", "student")
        mine = torch.distributed.get_rank() == rank and role == ("teacher" if where == "teacher" else "student")
        # The student is also scored without a gradient, for the sampler's proof.
        if mine and not burst and pack.input_ids_RL.numel() > wide and (role == "teacher" or torch.is_grad_enabled()):
            seen[0] += 1
            if seen[0] == 2:
                burst.append(where)
                layer = next(m for n, m in self.model.named_modules() if n.endswith("layers.1"))

                def once(module: Any, args: Any, kwargs: Any) -> Any:
                    hook.remove()
                    if where != "backward":
                        raise torch.OutOfMemoryError("CUDA out of memory. (a test)")
                    return (Burst.apply(args[0]), *args[1:]), kwargs

                hook = layer.register_forward_pre_hook(once, with_kwargs=True)
        return plain(self, pack, **more)

    Scorer.forward = forward  # type: ignore[method-assign]
    yield burst
    Scorer.forward = plain  # type: ignore[method-assign]


def main() -> None:
    for task in json.loads(Path(sys.argv[1]).read_text()):
        config = small_config(Path(task["folder"]), **task["settings"])
        rank, where = task.get("burst", (None, ""))
        with bursting(rank, where) as burst:
            run_training(config, quiet(), resume=task.get("resume", False))
        assert bool(burst) == (torch.distributed.get_rank() == rank), "the memory never ran out"
    leave()


if __name__ == "__main__":
    main()
