"""The benchmark of a step: its ways compute the same thing, and every preset runs in miniature."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

import step
import step_growth
import step_measure
from step_ways import direct, make_bench, ours


@pytest.fixture(autouse=True)
def without_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak is measured here and not in a process of its own, which takes seconds to begin."""

    def here(case: Any, way: str, threads: int) -> Any:
        request = {"case": step.asdict(case), "way": way, "threads": threads}
        return step_measure.alone(json.dumps(request))["peak_extra_bytes"]

    monkeypatch.setattr(step, "peak_extra", here)
    monkeypatch.setattr(step_growth, "peak_extra", here)


@pytest.fixture(autouse=True)
def as_loud_as_before() -> Iterator[None]:
    """The benchmark quietens our log, which tests after these listen to."""
    log = logging.getLogger("sgsd")
    level = log.level
    yield
    log.setLevel(level)


def run(tmp_path: Path, preset: str, **options: int) -> dict[str, Any]:
    out = tmp_path / "found.json"
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    step.main(["--preset", preset, "--toy", "--threads", "1", "--out", str(out), *flags])
    return json.loads(out.read_text())


def test_ours_and_the_direct_way_have_one_loss_and_one_gradient() -> None:
    bench = make_bench(replace(step_measure.toy(step.CPU), group=2))
    found: list[torch.Tensor] = []
    trained = [p for p in bench.run.policy.bare_scorer.parameters() if p.requires_grad]
    bench.run.policy.strategy.optimizer.optimizer.register_step_pre_hook(
        lambda *_: found.extend(p.grad.clone() for p in trained)
    )
    mine = ours(bench)
    loss, gradient = direct(bench, range(bench.case.rollouts))
    assert abs(loss) > 1e-5
    assert mine.loss == pytest.approx(loss, abs=1e-7)
    norms = [torch.cat([g.flatten() for g in some]).norm() for some in (found, gradient)]
    assert mine.grad_norm == pytest.approx(float(norms[1]), rel=1e-4)
    for a, b in zip(found, gradient, strict=True):  # ours is cut to optimizer.max_grad_norm by now
        assert (a / norms[0] - b / norms[1]).abs().max() <= 1e-5


def test_repetitions_deal_out_the_rollouts_of_the_direct_way(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, seen = make_bench(step_measure.toy(step.CPU)), []
    monkeypatch.setattr(step_measure, "direct", lambda b, share: seen.append(list(share)) or direct(b, share))
    found = step_measure.in_turns(bench, 3)
    assert sorted(i for share in seen for i in share) == [0, 1, 2, 3]
    assert len(seen) == 3
    assert found["agreement"]["loss_difference"] <= 1e-6
    assert found["agreement"]["gradient_norm_relative_difference"] <= 1e-4


def test_ratios_are_of_whole_steps_on_equal_work() -> None:
    rounds = [{"ours": 2.0, "direct": 5.0, "floor": 1.0}, {"ours": 3.0, "direct": 6.0, "floor": 2.0}, {"ours": 2.0}]
    found = step_measure.ratios(rounds, rollouts=4)
    assert found["direct_over_ours"]["each"] == [10.0, 8.0]
    assert found["ours_over_floor"]["each"] == [2.0, 1.5]
    assert found["seconds_a_step"] == {"ours": 2.0, "direct": 22.0, "floor": 1.5}


def test_a_straight_line_is_found() -> None:
    line = step_growth.line_through([1, 2, 4], [5.0, 7.0, 11.0])
    assert (line.start, line.slope) == pytest.approx((3.0, 2.0))
    assert line.off == pytest.approx((0.0, 0.0, 0.0))


def test_the_gpu_preset_runs_in_miniature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(tmp_path, "gpu", repetitions=2)
    cases = [comparison["case"] for comparison in found["comparisons"]]
    assert [case["checkpointing"] for case in cases] == [True, False]
    assert {case["dtype"] for case in cases} == {"bfloat16"}
    assert (step.GPU.shape.hidden, step.GPU.shape.layers, step.GPU.lora_rank, step.GPU.max_tokens) == (
        2048,
        28,
        64,
        1024,
    )
    assert found["versions"]["torch"] == torch.__version__
    assert "checkpointing" in capsys.readouterr().out


def test_growth_and_parts_run_in_miniature(tmp_path: Path) -> None:
    curves = run(tmp_path, "curves", repetitions=1)["curves"]
    assert curves["teachers"]["x"] == [1, 2]
    assert len(curves["tokens"]["processor"]["seconds"]) == 2
    (point,) = run(tmp_path, "sharing", repetitions=1)["points"]
    assert point["largest_difference"] <= 1e-5
    parts = run(tmp_path, "parts", repetitions=1)
    assert set(parts["seconds"]) == set(step_growth.PHASES)
    assert parts["checkpoint_seconds"]
    assert parts["retrieval_seconds"] > 0


def test_one_and_two_processes_run_in_miniature(tmp_path: Path) -> None:
    one, two = run(tmp_path, "processes", repetitions=1)["points"]
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["faster"] == 1.0
    assert two["seconds"]["score"] > 0


def test_what_was_measured_is_drawn(tmp_path: Path) -> None:
    docs = Path(__file__).parents[2] / "docs"
    found = importlib.util.spec_from_file_location("performance_plots", docs / "performance_plots.py")
    assert found is not None
    assert found.loader is not None
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    curve = {"x": [1, 2], "peak_extra_bytes": [2**20, 2**21]}
    curve["processor"] = {"seconds": [1.0, 3.0], "line": {"start": -1.0, "slope": 2.0, "off": [0.0, 0.0]}}
    (tmp_path / "step_curves.json").write_text(json.dumps({"curves": {"teachers": curve, "tokens": curve}}))
    (drawn,) = script.main(tmp_path, tmp_path)
    assert drawn.name == "performance_growth.svg"
    dots = [e for e in ElementTree.parse(drawn).iter() if e.tag.endswith("circle")]
    assert len(dots) == 8  # two curves, seconds and memory, two points each
    page = (docs / "performance.md").read_text(encoding="utf-8")
    for file in docs.glob("performance_*.svg"):
        assert f"]({file.name})" in page
