"""What `sgsd plan` makes of what it has measured, with figures worked by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from runs import small_config
from sgsd.plan.gauges import EngineCall, LengthCounter, MemoryGauge, Step, StepTimer, TimedEngine
from sgsd.plan.measured import EvaluationShare, Measured, evaluations, further_steps, measure, timed_engine, token_line
from sgsd.plan.sizes import Lengths
from sgsd.rollout import BackgroundEngine, Sampling, ScriptedEngine
from sgsd.scorer import Row, collate
from sgsd.train.session import evaluation_due
from sgsd.types import UserError

EVALUATION: dict[str, Any] = {"data": {"path": "lab:held-out"}, "problems": 8, "sampling": {"max_tokens": 96}}


def step(wall: float, tokens: float = 100.0, **phases: float) -> Step:
    return Step(wall, wall / 2, phases or {"sample": wall / 2, "update": wall / 4}, tokens)


def measured(folder: Path, **changes: Any) -> Measured:
    return Measured(
        config=small_config(folder, **changes),
        first=step(9.0),
        steps=[step(2.0, 90.0), step(4.0, 110.0)],
        setup=5.0,
        save=0.5,
        evaluation=7.0,
        evaluation_share=(8, 8, False),
        peak=1.0,
        on_cpu=True,
        lengths=Lengths(40, 80, 24, 48),
        teacher_rows=16.0,
        disk={},
    )


def test_the_first_step_counts_once(tmp_path: Path) -> None:
    found = measured(tmp_path, steps=10)
    assert found.step == 3.0
    assert found.run == {"loading": 5.0, "steps": 9.0 + 9 * 3.0, "evaluations": 0.0, "checkpoints": 0.5}
    assert found.tokens == 10 * 100
    assert found.teacher_tokens == 10 * 16 * (80 + 24)
    assert found.phases["rest"] == [0.5, 1.0]


@pytest.mark.parametrize(("steps", "every"), [(10, 0), (10, 3), (10, 5), (10, 10), (9, 3), (1, 1), (4, 9)])
def test_checkpoints_and_evaluations_as_the_loop_makes_them(steps: int, every: int, tmp_path: Path) -> None:
    config = small_config(tmp_path, steps=steps, evaluation={**EVALUATION, "every": every})
    between = sum(evaluation_due(config, number) for number in range(1, steps + 1))
    assert evaluations(config) == between + 2
    found = measured(tmp_path, steps=steps, checkpoint={"every": every})
    saved = sum(number == steps or bool(every and number % every == 0) for number in range(1, steps + 1))
    assert found.run["checkpoints"] == 0.5 * saved


def test_a_run_without_evaluations_makes_none(tmp_path: Path) -> None:
    assert evaluations(small_config(tmp_path)) == 0
    assert evaluations(small_config(tmp_path, steps=0, evaluation=EVALUATION)) == 1


def test_longer_completions_take_longer(tmp_path: Path) -> None:
    found = measured(tmp_path)
    assert found.at_full_length() > found.step
    there = replace(found, lengths=found.lengths.at(96))
    assert there.at_full_length() == pytest.approx(found.step)
    # Sampling goes by the longest of a batch, from 48 to 96: its half of a step doubles at the least.
    assert found.at_full_length() > found.step * 1.5


# ── The evaluation ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_takes_a_start_and_something_a_row() -> None:
    calls = [EngineCall(rows, 10, 20, 20 * (0.5 + 0.1 * rows)) for rows in (2, 8, 32)]
    assert token_line(calls) == pytest.approx((0.5, 0.1))
    assert token_line([EngineCall(10, 5, 4, 8.0)]) == (0.0, pytest.approx(0.2))
    falling = [EngineCall(2, 5, 1, 3.0), EngineCall(8, 5, 1, 2.0)]
    assert token_line(falling) == (2.5, 0.0)


def share(**changes: Any) -> EvaluationShare:
    fields: dict[str, Any] = {
        "measured": 10,
        "problems": 40,
        "samples": 4,
        "per_batch": 40.0,
        "greedy": EngineCall(10, 20, 30, 30 * (0.5 + 0.1 * 10)),
        "sampled": EngineCall(40, 20, 30, 30 * (0.5 + 0.1 * 40)),
        "grading": 2.0,
        "most": 96,
        "cut_off": False,
    }
    return EvaluationShare(**fields | changes)


def test_an_evaluation_is_its_batches() -> None:
    some = share()
    # 40 greedy rows in one batch, 160 samples in four; grading by the share.
    expected = 30 * (0.5 + 0.1 * 40) + 30 * (4 * 0.5 + 0.1 * 160) + 4 * 2.0
    assert some.whole([some.greedy, some.sampled]) == pytest.approx(expected)
    whole = share(problems=10)
    assert whole.whole([whole.greedy, whole.sampled]) == pytest.approx(whole.greedy.seconds + whole.sampled.seconds + 2)


def test_answers_that_were_cut_off_are_taken_to_run_on() -> None:
    cut = share(problems=10, cut_off=True, most=90)
    assert cut.whole([cut.greedy, cut.sampled]) == pytest.approx(3 * (cut.greedy.seconds + cut.sampled.seconds) + 2)


# ── Watching ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_passes_are_seen_with_their_lengths() -> None:
    watch, prompt = LengthCounter(), tuple(range(30))
    rows = [Row(prompt, (1, 2, 3, 4)), Row(prompt, (5, 6, 7, 8))]
    watch(None, (collate(rows),), {})
    watch(None, (collate(rows, layout="shared"),), {"role": "teacher"})
    assert watch.rows == {"student": 2, "teacher": 2}
    found = watch.lengths(4)
    assert (found.student_prompt, found.completion, found.longest) == (30, 4, 4)
    assert found.teacher_prompt == 29  # a prompt's last token begins each row that shares the others


def test_an_engines_calls_are_timed() -> None:
    engine = TimedEngine(ScriptedEngine(lambda prompt, index: (1,) * (index + 1), lambda ids: ""))
    done = engine.sample([(5, 6), (7,)], [0, 2], Sampling(max_tokens=9), seed=0)
    assert len(done) == 2
    (call,) = engine.calls
    assert (call.rows, call.prompt) == (2, 2)
    assert call.longest == 3
    engine.sample([], [], Sampling(), seed=0)
    assert len(engine.calls) == 1


def test_steps_are_told_apart() -> None:
    watch = StepTimer()
    watch({}, {"step": 1, "sample": 0.25, "tokens": 7, "tokens_per_s": 1.0})
    watch({}, {"step": 2, "tokens": 8})
    assert [step.tokens for step in watch.steps] == [7, 8]
    assert watch.steps[0].phases == {"sample": 0.25}
    assert all(step.wall >= 0 for step in watch.steps)


def test_the_gauge_sees_what_is_gone_again() -> None:
    gauge = MemoryGauge(torch.device("cpu"))
    torch.ones(2**25).sum()  # 128 MiB, given back at once
    assert gauge.peak() > 100 * 2**20


def test_short_steps_are_followed_by_further_ones(tmp_path: Path) -> None:
    """Two steps were asked for; the seconds are not reached before the run is over."""
    found = measure(small_config(tmp_path, steps=5), 2, seconds=600.0)
    assert len(found.steps) == 4
    assert found.teacher_rows == 16.0  # a step, whatever their number
    whole = measure(small_config(tmp_path, steps=5), 2)
    assert len(whole.steps) == 1
    assert found.disk["checkpoints"] == pytest.approx(whole.disk["checkpoints"], rel=0.01)


@pytest.mark.parametrize(("seconds", "steps", "more"), [(6.0, 40, 0), (12.0, 40, 2), (12.0, 4, 1), (13.0, 40, 3)])
def test_how_many_follow(seconds: float, steps: int, more: int) -> None:
    assert further_steps([step(9.0), step(2.0), step(4.0)], steps, seconds) == more


def test_the_clock_is_before_the_engine_that_samples_in_the_background() -> None:
    inner = ScriptedEngine(lambda prompt, index: [1], str)
    parts: Any = SimpleNamespace(engine=BackgroundEngine(inner))
    engine = timed_engine(parts)
    assert (parts.engine.engine, engine.engine) == (engine, inner)
    inner.dtype = "bfloat16"  # type: ignore[attr-defined]
    assert parts.engine.dtype == "bfloat16"  # what the sampler's gap is judged by
    inner.close = lambda: closed.append(inner)  # type: ignore[attr-defined]
    closed: list[Any] = []
    parts.engine.close()
    assert closed == [inner]


# ── Refusals ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_measured_of_too_few_steps(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--steps: 1 leaves none after the warm-up"):
        measure(small_config(tmp_path), 1)
    with pytest.raises(UserError, match="steps: 0 trains nothing"):
        measure(small_config(tmp_path, steps=0, evaluation=EVALUATION), 2)
