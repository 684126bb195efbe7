"""What only the first process finds out reaches all of them, mistakes included; and small parts of resuming."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sgsd.distributed import processes
from sgsd.distributed.processes import check_processes, from_first
from sgsd.records.metrics import StepMetrics
from sgsd.train.resume_run import differences
from sgsd.types import UserError


def find() -> str:
    raise UserError("the file is gone")


def test_the_first_process_s_mistake_is_everyone_s(monkeypatch: pytest.MonkeyPatch) -> None:
    wire: list[list[Any]] = []

    def broadcast(message: list[Any]) -> list[Any]:
        wire.append(message)
        return wire[0]

    monkeypatch.setattr(processes, "broadcast_object_list", broadcast)
    first, second = (SimpleNamespace(num_processes=2, is_main_process=main) for main in (True, False))
    for accelerator in (first, second):
        with pytest.raises(UserError, match="the file is gone"):
            from_first(accelerator, find)
    wire.clear()
    answers = iter([7])
    assert [from_first(accelerator, lambda: next(answers)) for accelerator in (first, second)] == [7, 7]


def test_one_process_needs_no_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "broadcast_object_list", None)
    alone = SimpleNamespace(num_processes=1, is_main_process=True)
    assert from_first(alone, lambda: 7) == 7
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="started 2 processes, but each runs alone"):
        check_processes(1)


def test_differences_are_dotted_names_of_all_that_differs() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": None}, "e": {"f": 1}}
    new = {"a": 1, "b": {"c": [1, 3], "d": {"x": 1}}, "g": 2}
    expected = {"b.c": ([1, 2], [1, 3]), "b.d": (None, {"x": 1}), "e": ({"f": 1}, None), "g": (None, 2)}
    assert differences(old, new) == expected


def test_the_sampler_s_gap_is_over_the_tokens_that_teach() -> None:
    metrics = StepMetrics()
    metrics.sums = {
        name: torch.tensor(1.0)
        for name in ("loss", "rollouts", "correct", "ungraded", "reward", "with_reward", "length", "truncated")
    }
    metrics.sums["tokens"] = torch.tensor(3.0)
    said = [torch.tensor([-1.0, -2.0]), torch.tensor([-3.0, -4.0])]
    scored = [torch.tensor([-1.5, -2.0]), torch.tensor([-9.0, -3.75])]
    masks = [torch.tensor([True, True]), torch.tensor([False, True])]
    metrics.add_sampler(said, scored, masks)
    record = metrics.finish(lambda sums: sums, lambda mine: max(mine, 0.6))  # another process had a larger one
    assert (record["sampler_mismatch"], record["sampler_mismatch_max"]) == (0.25, 0.6)
    metrics.add_sampler(said[:1], said[:1], [torch.tensor([False, False])])  # no token teaches
    assert metrics.sampler_mismatch_max == 0.0
