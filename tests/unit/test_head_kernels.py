"""The comparison of kernels for the head: it runs, names what is missing, and chooses by its rule."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "head_kernels.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The script, measuring memory in this process: a fresh one for each would take longer than all other tests."""
    script = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
    names = script.main.__globals__
    monkeypatch.setitem(names, "in_fresh_process", lambda flags, *which: script.alone(script.QUICK, "cpu", *which))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    yield script
    torch.set_num_threads(threads)


def test_it_compares_what_is_installed_and_names_what_is_not(
    benchmark: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def linear_cross_entropy(e: Tensor, c: Tensor, targets: Tensor, *, reduction: str, impl: str) -> Tensor:
        assert (reduction, impl) == ("none", "torch_compile")
        return -(e @ c.t()).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)

    def imported(module: str) -> Any:
        if module == "cut_cross_entropy":
            return SimpleNamespace(linear_cross_entropy=linear_cross_entropy)
        raise benchmark.Absent("not installed: a test says so")

    monkeypatch.setitem(benchmark.main.__globals__, "imported", imported)
    target = tmp_path / "kernels.json"
    benchmark.main(["--quick", "--repetitions", "2", "--threads", "1", "--out", str(target)])
    report = json.loads(target.read_text())
    assert report["absent"] == {"Liger": "not installed: a test says so"}
    assert "Liger: not installed: a test says so" in capsys.readouterr().out
    for call, found in report["calls"].items():
        assert set(found) == {"tiles", "full logits", "torch, in chunks", "cut-cross-entropy"}
        for one in found.values():
            assert len(one["seconds"]) == len(one["over_tiles"]) == 2
            assert 0 < one["errors"]["logp"] < 1e-4
            assert ("gradient" in one["errors"]) == (call != "teacher")
            assert one["errors"].get("gradient", 0) < 1e-5


def test_a_kernel_that_is_wrong_is_seen(benchmark: SimpleNamespace) -> None:
    found = benchmark.errors(
        lambda hidden, weight, targets: 1.5 * benchmark.tiles("cpu")(hidden, weight, targets),
        benchmark.QUICK,
        "trained",
        "cpu",
    )
    assert found["logp"] > 1
    assert found["gradient"] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("over_tiles", "memory", "error", "chosen"),
    [(0.8, 5, 1e-6, True), (0.95, 5, 1e-6, False), (0.8, 20, 1e-6, False), (0.8, 5, 1e-4, False)],
)
def test_the_rule(benchmark: SimpleNamespace, over_tiles: float, memory: int, error: float, chosen: bool) -> None:
    mine = {"over_tiles": [1.0, 1.0], "peak_extra_bytes": 10, "errors": {"logp": 1e-6}}
    other = {"over_tiles": [over_tiles, over_tiles], "peak_extra_bytes": memory, "errors": {"logp": error}}
    assert benchmark.verdict({"tiles": mine, "other": other}) == (["other"] if chosen else [])
