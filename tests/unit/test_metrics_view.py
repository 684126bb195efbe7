"""What a step reports: shares that add up, a view for people and for logs, the learning rate, and how to stop."""

from __future__ import annotations

import io
import math
import signal
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from sgsd.config.sections import OptimizerConfig
from sgsd.methods import build
from sgsd.methods.method import LossInputs, LossOutputs
from sgsd.records.live_view import LiveView
from sgsd.records.metrics import StepMetrics
from sgsd.records.timing import Clock, listen_for_stop, throughput
from sgsd.train.loop import seed_dropout
from sgsd.types import Completion, Problem, Rollout, Status, Verdict

# ── Numbers of a step ──────────────────────────────────────────────────────────────────────────────────────────────

NATS, B, K, T = 0.5, 4, 2, 5
OUTCOMES = torch.tensor([1.0, -1.0, 0.0, 0.0])
STATUSES = [Status.CORRECT, Status.INCORRECT, Status.UNPARSED, Status.TIMEOUT]


def evidence(rows: slice = slice(None)) -> LossInputs:
    """Four rollouts; teacher 0 is half a nat above the student, teacher 1 as much below, and silent on the second."""
    mask_BT = torch.arange(T)[None, :] < torch.tensor([5, 2, 3, 4])[:, None]
    student_BT = -torch.ones(B, T)
    second_B = torch.tensor([-NATS, 0.0, -NATS, -NATS])
    teacher_BKT = torch.stack([student_BT + NATS, student_BT + second_B[:, None]], dim=1)
    return LossInputs(
        mask_BT=mask_BT[rows],
        student_logps_BT=student_BT[rows],
        old_logps_BT=student_BT[rows],
        outcome_B=OUTCOMES[rows],
        advantages_B=OUTCOMES[rows],
        weights_BK=torch.full((B, K), 0.5)[rows],
        teacher_logps_BKT=teacher_BKT[rows],
        entropy_BT=torch.arange(1.0, T + 1).expand(B, T)[rows],
    )


def rollout(index: int, length: int, finish: str) -> Rollout:
    return Rollout(Problem("p", "1+1"), (1,), Completion(index, tuple(range(length)), "", finish))


def collect(*parts: slice, method: str = "sgsd") -> StepMetrics:
    metrics = StepMetrics()
    lengths, finishes = (5, 2, 3, 4), ("stop", "stop", "length", "stop")
    for rows in parts:
        seen = evidence(rows)
        metrics.add(build(method).objective.loss(seen, build(method)), seen, torch.tensor(0.25))
        chosen = range(B)[rows]
        rollouts = [rollout(i, lengths[i], finishes[i]) for i in chosen]
        metrics.add_rollouts(rollouts, [Verdict(STATUSES[i]) for i in chosen])
    return metrics


def alone(value: Tensor) -> Tensor:
    return value


def test_shares_and_means_are_those_counted_by_hand() -> None:
    metrics = collect(slice(None))
    metrics.grad_norm = 1.5
    kept = 2 / (1 + math.exp(NATS**2 / 2))  # of a gap of half a nat; of no gap, all of it
    assert metrics.finish(alone) == pytest.approx(
        {
            "loss": 0.25,
            "grad_norm": 1.5,
            "rollouts": 4,
            "accuracy": 1 / 4,
            "ungraded": 2 / 4,
            "length": 14 / 4,
            "truncated": 1 / 4,
            "entropy": (15 + 3 + 6 + 10) / 14,
            "delta_abs": (14 + 12) * NATS / 28,
            "gate_kept": (26 * kept + 2) / 28,
            "stance/supports": 4 / 8,
            "stance/neutral": 1 / 8,
            "stance/suppresses": 3 / 8,
            "polarity/validated": 1 / 8,  # teacher 0 on the success
            "polarity/neutral": 5 / 8,  # the silent one, and both on the two rollouts that nobody could grade
            "polarity/reversed": 2 / 8,
        },
        abs=1e-6,
    )


def test_micro_batches_and_processes_add_up_to_the_whole() -> None:
    whole = collect(slice(None)).finish(alone)
    in_parts = collect(slice(0, 1), slice(1, 4)).finish(alone)
    assert in_parts == pytest.approx({**whole, "loss": 0.5}, abs=1e-6)

    def stacked(metrics: StepMetrics) -> Tensor:
        return torch.stack([metrics.sums[name] for name in sorted(metrics.sums)])

    mine, others = collect(slice(0, 3)), collect(slice(3, 4))
    assert mine.finish(lambda sums: sums + stacked(others)) == pytest.approx({**whole, "loss": 0.5}, abs=1e-6)


def test_a_method_without_teachers_reports_none() -> None:
    record = collect(slice(None), method="grpo").finish(alone)
    assert record.keys() == {
        "loss", "grad_norm", "rollouts", "accuracy", "ungraded", "length", "truncated", "entropy",
    }  # fmt: skip


def test_sums_keep_no_gradient() -> None:
    seen = evidence()
    loss = torch.tensor(1.0, requires_grad=True) * 2
    metrics = StepMetrics()
    metrics.add(build("sgsd").objective.loss(seen, build("sgsd")), seen, loss)
    assert not any(value.requires_grad for value in metrics.sums.values())


def test_a_share_is_never_negative() -> None:
    stance_BK = torch.tensor([[1.0] * 9 + [-1.0]])
    seen = evidence(slice(0, 1))
    outputs = LossOutputs(torch.zeros(1, T), stance_BK=stance_BK, polarity_BK=stance_BK)
    metrics = StepMetrics()
    metrics.add(outputs, seen, torch.tensor(0.0))
    metrics.add_rollouts([rollout(0, 5, "stop")], [Verdict(Status.CORRECT)])
    record = metrics.finish(alone)
    assert record["stance/supports"] == 0.9
    assert record["stance/neutral"] >= 0
    assert record["polarity/neutral"] >= 0


# ── The view ───────────────────────────────────────────────────────────────────────────────────────────────────────

RECORD = {
    "accuracy": 0.5, "length": 21.25, "truncated": 0.03, "entropy": 0.321, "gate_kept": 0.9, "loss": -0.0125,
    "stance/supports": 0.6, "stance/neutral": 0.1, "stance/suppresses": 0.3,
    "polarity/validated": 0.45, "polarity/neutral": 0.2, "polarity/reversed": 0.35, "grad_norm": 0.75,
}  # fmt: skip
TIMING = {"tokens_per_s": 1234.4}


def printed(steps: int, done: int = 0, **changes: Any) -> list[str]:
    """What a run of `steps` prints where nobody watches."""
    console = Console(file=io.StringIO(), width=60)
    with LiveView(console, "demo", steps, done) as view:
        for step in range(done + 1, steps + 1):
            view({"step": step, **RECORD, **changes}, TIMING)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "\x1b" not in text
    return text.splitlines()


def test_elsewhere_than_on_a_terminal_a_line_every_tenth_of_the_run() -> None:
    assert [int(line.split("/")[0].split()[1]) for line in printed(50)] == [1, *range(5, 51, 5)]
    assert [int(line.split("/")[0].split()[1]) for line in printed(50, done=23)] == [24, *range(25, 51, 5)]
    assert len(printed(4)) == 4
    last = printed(50)[-1]  # wider than the console, and one line nevertheless
    assert last.startswith("  step   50/50  accuracy  50% (last ten 50%)  length 21.2  validated 45% reversed 35%")
    assert last.endswith("1234 tokens/s  0:00 left")


@pytest.mark.parametrize("terminal", [False, True])
def test_a_method_without_teachers_has_no_columns_for_them(terminal: bool) -> None:
    output = io.StringIO()
    with LiveView(Console(file=output, width=120, force_terminal=terminal), "demo", 10) as view:
        view({"step": 1, "accuracy": 0.5, "length": 3.0}, TIMING)
    assert "validated" not in output.getvalue()
    assert "50%" in output.getvalue()


def test_the_last_ten_steps_are_averaged() -> None:
    console = Console(file=io.StringIO(), width=200)
    view = LiveView(console, "demo", 12)
    for step in range(1, 13):
        view({"step": step, **RECORD, "accuracy": 1.0 if step <= 4 else 0.0}, TIMING)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert "(last ten 80%)" in lines[4]
    assert "(last ten 40%)" in lines[9]
    assert "(last ten 20%)" in lines[11]


def shown(title: str = "demo: sgsd, 4 teachers", **record: Any) -> str:
    """The table that a run leaves on a terminal."""
    console = Console(file=io.StringIO(), width=120, force_terminal=True, record=True)
    with LiveView(console, title, 40) as view:
        assert view.live is not None
        view({"step": 6, **RECORD}, TIMING)
        view({"step": 7, **RECORD, **record}, TIMING)
        assert view.live.is_started
    assert not view.live.is_started
    return console.export_text()


def test_on_a_terminal_one_table_with_every_number_explained() -> None:
    text = shown(accuracy=0.75)
    assert "demo: sgsd, 4 teachers · step 7 of 40" in text
    for row in (
        ("Accuracy", "75%", "the verifier called correct"),
        ("Completion length", "21.2", "tokens"),
        ("Truncated", "3%", "length limit"),
        ("Entropy", "0.321", "nats a token"),
        ("Stance: supports", "60%", "likelier"),
        ("Stance: neutral", "10%", "threshold"),
        ("Stance: suppresses", "30%", "less likely"),
        ("Polarity: validated", "45%", "agrees"),
        ("Polarity: reversed", "35%", "disagrees"),
        ("Gate kept", "90%", "lets through"),
        ("Loss", "-0.01250", "depend on the method"),
        ("Gradient norm", "0.7500", "before clipping"),
        ("Throughput", "1234", "tokens a second"),
    ):
        assert [line for line in text.splitlines() if all(cell in line for cell in row)], row


@pytest.mark.parametrize("name", ["run [b]", "run [/b]"])
def test_a_run_may_have_any_name(name: str) -> None:
    assert f"{name}: sgsd · step 7" in shown(title=f"{name}: sgsd")


def test_the_time_left_is_measured_from_where_this_run_began() -> None:
    output = io.StringIO()
    view = LiveView(Console(file=output), "demo", 10)
    view.started -= 3661
    view({"step": 5, **RECORD}, TIMING)
    assert output.getvalue().strip().endswith(" 1:01:01 left")
    assert view.seconds_left(5) == pytest.approx(3661, abs=1)
    assert view.seconds_left(10) == 0
    resumed = LiveView(Console(file=io.StringIO()), "demo", 10, done=4)
    resumed.started -= 10
    assert resumed.seconds_left(5) == pytest.approx(50, abs=1)


# ── The learning rate ──────────────────────────────────────────────────────────────────────────────────────────────


def rates(steps: int, **options: Any) -> list[float]:
    return [OptimizerConfig(lr=2.0, **options).rate(step, steps) for step in range(1, steps + 1)]


def test_schedules_at_their_ends() -> None:
    assert rates(5) == [2.0] * 5
    assert rates(5, warmup_steps=2) == [1.0, 2.0, 2.0, 2.0, 2.0]
    assert rates(4, schedule="linear") == [2.0, 1.5, 1.0, 0.5]
    assert rates(6, schedule="linear", warmup_steps=2) == [1.0, 2.0, 2.0, 1.5, 1.0, 0.5]
    assert rates(4, schedule="cosine") == pytest.approx([2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5)])
    assert rates(1, schedule="cosine") == rates(1, schedule="linear") == [2.0]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 7, 20, 30])
def test_a_rate_rises_falls_and_is_never_negative_nor_zero(schedule: str, warmup: int) -> None:
    found = rates(20, schedule=schedule, warmup_steps=warmup)
    top = min(20, max(1, warmup))
    assert all(0 < rate <= 2.0 for rate in found)
    assert found[:top] == sorted(found[:top])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert max(found) == (2.0 if warmup <= 20 else pytest.approx(2.0 * 20 / 30))


# ── Dropout, stopping, and the clock ──────────────────────────────────────────────────────────────────────────────


def test_every_step_of_every_process_has_a_seed_of_its_own() -> None:
    seeds = {}
    for place in product(range(3), range(1, 4), range(3)):
        seed_dropout(*place)
        seeds[place] = torch.initial_seed()
        seed_dropout(*place)
        assert torch.initial_seed() == seeds[place]
    assert len(set(seeds.values())) == 27


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_a_second_ctrl_c_stops_at_once(first: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with listen_for_stop() as request:
        assert not request.asked
        try:
            signal.raise_signal(first)
            signal.raise_signal(signal.SIGTERM)  # a scheduler that repeats itself is patient
        except KeyboardInterrupt:
            pytest.fail("only a second Ctrl-C stops at once")
        assert request.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_handlers_before_come_back_after_an_error() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(RuntimeError), listen_for_stop():
        raise RuntimeError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_clock_adds_up_its_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, now = Clock(), iter([0.0, 1.0, 5.0, 7.5, 8.0, 8.5])
    tick: Callable[[], float] = lambda: next(now)  # noqa: E731
    monkeypatch.setattr("sgsd.records.timing.time.perf_counter", tick)
    for name in ("sample", "score", "sample"):
        with clock.phase(name):
            pass
    assert clock.seconds == {"sample": 1.5, "score": 2.5}
    assert throughput({"length": 10.0, "rollouts": 4}, clock) == {"tokens": 40.0, "tokens_per_s": 10.0}
