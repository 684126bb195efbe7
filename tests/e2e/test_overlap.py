"""`rollout.prefetch`: the next step's rollouts are sampled while this one trains, from weights one update old.

The engine here has weights of its own, as vLLM has: a copy of the policy, brought up to date by each sync.
"""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from resumable import METHODS, assert_same_bits, lines, steps_done, stop_in
from runs import run_small, small_config
from sgsd.checkpoint.pending import read_shards
from sgsd.checkpoint.saving import MANIFEST, checkpoints
from sgsd.rollout import BackgroundEngine, EngineError, Sampling, ScriptedEngine, TransformersEngine
from sgsd.train import loop, session, setup
from sgsd.train.rollout_source import RolloutSource
from sgsd.train.sampler_mismatch import StaleSamplerError, check_gap
from sgsd.types import Completion, UserError

LR: dict[str, Any] = {"optimizer": {"lr": 1e-3, "max_grad_norm": 1.0}}
GATE_SECONDS = 60.0


class OwnWeights:
    """Samples from a copy of the policy as it was at the last sync."""

    def __init__(self, own: TransformersEngine) -> None:
        self.policy, self.copy = own.model, copy.deepcopy(own.model)
        self.engine = TransformersEngine(self.copy, own.tokenizer)
        self.calls: list[int] = []  # after how many syncs each came
        self.synced: list[dict[str, torch.Tensor]] = []
        self.before: Callable[[int], None] = lambda call: None  # is told the number of the call

    def sample(
        self, prompts: Sequence[Sequence[int]], indices: Sequence[int], sampling: Sampling, *, seed: int
    ) -> list[Completion]:
        self.calls.append(len(self.synced))
        self.before(len(self.calls))
        return self.engine.sample(prompts, indices, sampling, seed=seed)

    def sync(self) -> None:
        self.copy.load_state_dict(self.policy.state_dict())
        self.synced.append({name: value.clone() for name, value in self.copy.state_dict().items()})


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[OwnWeights]:
    """The engine of each run that is made, the newest last."""
    made: list[OwnWeights] = []

    def make_engine(config: Any, accelerator: Any, strategy: Any, policy: Any, own: Any) -> BackgroundEngine:
        made.append(OwnWeights(own))
        return BackgroundEngine(made[-1])

    monkeypatch.setattr(setup, "make_engine", make_engine)
    return made


def staleness(folder: Path) -> list[int]:
    return [record["staleness"] for record in lines(folder, "metrics")]


def test_rollouts_come_from_the_weights_before_the_last_update(engines: list[OwnWeights], tmp_path: Path) -> None:
    folder = run_small(tmp_path / "run", steps=4, checkpoint={"every": 1, "keep": 9}, **LR)
    assert staleness(folder) == [0, 1, 1, 1]
    gaps = [record["sampler_mismatch"] for record in lines(folder, "metrics")]
    assert gaps[0] < 1e-6
    assert all(gap > 1e-4 for gap in gaps[1:])
    # The rollouts of step 1, then in each step a probe of what it was given and the rollouts of the next.
    assert engines[0].calls == [1, 1, 1, 2, 2, 3, 3]
    for step, weights in enumerate(engines[0].synced[1:], start=1):
        saved = load_file(folder / "checkpoints" / f"step-{step:06d}-pending" / "weights.safetensors")
        assert saved
        for name, value in saved.items():
            assert torch.equal(value, weights[name.removeprefix("model.")]), (step, name)


def test_sampling_and_training_are_under_way_at_once(
    engines: list[OwnWeights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rollouts of step 2 wait for the scores of step 1, which come after: in turns this would end in no way."""
    scored, waited = threading.Event(), []
    plain_score, plain_sample = loop.score_teachers, RolloutSource.sample

    def score_teachers(*arguments: Any) -> Any:
        found = plain_score(*arguments)
        scored.set()
        return found

    def wait(call: int) -> None:
        if call == 3:  # after the rollouts of step 1 and a probe, the rollouts of step 2
            waited.append(scored.wait(GATE_SECONDS))

    def sample(*arguments: Any) -> Any:
        engines[0].before = wait
        return plain_sample(*arguments)

    monkeypatch.setattr(RolloutSource, "sample", sample)
    monkeypatch.setattr(loop, "score_teachers", score_teachers)
    run_small(tmp_path / "run", steps=2)
    assert waited == [True]


STOPS = [("grade", 2), ("grade", 3), ("score_teachers", 1), ("score_teachers", 2), ("score_teachers", 3)]
EVALUATION: dict[str, Any] = {
    "data": {"path": "lab:held-out"},
    "problems": 4,
    "samples": 2,
    "every": 2,
    "sampling": {"max_tokens": 96},
}


@pytest.mark.parametrize("name", ["sgsd-ema-full", "grpo-lora"])
def test_a_stop_anywhere_changes_nothing(
    name: str, engines: list[OwnWeights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**METHODS[name], "steps": 4, "evaluation": EVALUATION, **LR}
    whole = run_small(tmp_path / "whole", **settings)
    for phase, step in STOPS:
        folder = tmp_path / f"{phase}-{step}"
        with monkeypatch.context() as patch:
            stop_in(patch, phase, step)
            run_small(folder, **settings)
        (saved,) = checkpoints(folder / "checkpoints")
        kept = read_shards(saved)
        assert kept is not None
        assert kept.staleness == 1
        assert steps_done(folder) == list(range(1, step + (phase == "score_teachers")))
        run_small(folder, resume=True, **settings)
        assert staleness(folder) == [0, 1, 1, 1]
        assert_same_bits(whole, folder)


def test_a_kill_after_a_checkpoint_goes_on_with_the_rollouts_it_holds(
    engines: list[OwnWeights], tmp_path: Path
) -> None:
    settings = {"steps": 4, "checkpoint": {"every": 1, "keep": 9}, **LR}
    folder = run_small(tmp_path / "run", **settings)
    whole = run_small(tmp_path / "whole", **settings)
    for saved in checkpoints(folder / "checkpoints")[2:]:  # as if killed in step 3
        (saved / MANIFEST).unlink()
    run_small(folder, resume=True, **settings)
    assert_same_bits(whole, folder)


def test_sampling_that_fails_in_the_background_stops_the_run_where_it_is_needed(
    engines: list[OwnWeights],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(call: int) -> None:
        if call == 5:  # the rollouts of step 3, asked for in step 2
            raise EngineError("vllm", "it was ended by SIGKILL (3 tries)", 7.0, "go on by --resume")

    made = setup.make_engine

    def failing(*arguments: Any) -> Any:
        engine: Any = made(*arguments)
        engine.engine.before = fail
        return engine

    with monkeypatch.context() as patch:
        patch.setattr(setup, "make_engine", failing)
        with pytest.raises(EngineError, match="ended by SIGKILL"):
            run_small(tmp_path / "run", steps=4, checkpoint={"every": 2})
    assert "the checkpoint is without the rollouts of step 3: rollout.engine vllm: it was ended" in caplog.text
    (saved,) = checkpoints(tmp_path / "run" / "checkpoints")
    assert (saved.name, read_shards(saved)) == ("step-000002", None)
    run_small(tmp_path / "run", resume=True, steps=4, checkpoint={"every": 2})
    assert staleness(tmp_path / "run") == [0, 1, 0, 1]  # what was lost is sampled anew, from newer weights


def test_weights_that_never_arrive_are_found_before_the_samples_are_used(
    engines: list[OwnWeights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = OwnWeights.sync

    def sync(self: OwnWeights) -> None:
        if not self.synced:
            plain(self)

    monkeypatch.setattr(OwnWeights, "sync", sync)
    with pytest.raises(StaleSamplerError, match="is what rounding explains"):
        run_small(tmp_path / "run", steps=4, **LR)
    assert steps_done(tmp_path / "run") == [1]  # in step 2 the weights of step 1 were not to be seen
    assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")] == ["step-000001-pending"]


def test_a_sync_that_fails_takes_no_whole_step_with_it(
    engines: list[OwnWeights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = OwnWeights.sync

    def sync(self: OwnWeights) -> None:
        if len(self.synced) == 2:
            raise EngineError("vllm", "while taking over the weights it was ended", 7.0, "go on by --resume")
        plain(self)

    with monkeypatch.context() as patch:
        patch.setattr(OwnWeights, "sync", sync)
        with pytest.raises(EngineError, match="taking over the weights"):
            run_small(tmp_path / "run", steps=4)
    assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")] == ["step-000002-pending"]
    run_small(tmp_path / "run", steps=4, resume=True)
    assert_same_bits(run_small(tmp_path / "whole", steps=4), tmp_path / "run")


def test_stale_rollouts_that_say_no_number_are_refused(engines: list[OwnWeights], tmp_path: Path) -> None:
    parts = setup.build_run(small_config(tmp_path / "run"), Accelerator())
    check_gap(parts.policy, parts.engine, 0.5, staleness=1)
    with pytest.raises(StaleSamplerError):
        check_gap(parts.policy, parts.engine, float("nan"), staleness=1)


def test_a_stop_spares_the_checkpoint_that_says_the_same(
    engines: list[OwnWeights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"steps": 3, "checkpoint": {"every": 1, "keep": 1}}
    saved: list[int] = []
    plain = session.save_checkpoint

    def save(root: Path, position: Any, *arguments: Any, **more: Any) -> Path:
        saved.append(position.step)
        return plain(root, position, *arguments, **more)

    monkeypatch.setattr(session, "save_checkpoint", save)
    with monkeypatch.context() as patch:
        stop_in(patch, "grade", 2)
        run_small(tmp_path / "run", **settings)
    assert saved == [1]
    run_small(tmp_path / "run", resume=True, **settings)
    assert_same_bits(run_small(tmp_path / "whole", **settings), tmp_path / "run")


@pytest.mark.parametrize("evaluated", [False, True])
def test_teachers_that_ask_the_policy_get_the_same_answers_after_a_resume(
    evaluated: bool, engines: list[OwnWeights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy reasons first: its words come from the weights of their step, whoever synced the engine before."""
    method = {"name": "opsd", "reason_first": True}
    settings = {**LR, "method": method, "data": {"solution": "solution"}, "steps": 3, "teacher": {"reason_tokens": 16}}
    whole = run_small(tmp_path / "whole", **settings)
    if evaluated:
        again = run_small(tmp_path / "again", **settings, evaluation={**EVALUATION, "every": 1})
        assert (again / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
        return
    with monkeypatch.context() as patch:
        stop_in(patch, "score_teachers", 1)
        run_small(tmp_path / "run", **settings)
    run_small(tmp_path / "run", resume=True, **settings)
    assert_same_bits(whole, tmp_path / "run")


@pytest.mark.parametrize(
    ("rollout", "refusal"),
    [
        ({"prefetch": True}, "rollout.prefetch: means something to vllm and server, not to engine transformers"),
        (
            {"prefetch": True, "engine": "vllm", "sleep": 1},
            "rollout.sleep: with rollout.prefetch the engine is never idle",
        ),
    ],
)
def test_engines_that_cannot_sample_meanwhile_are_refused(
    rollout: dict[str, Any], refusal: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=refusal):
        small_config(tmp_path / "run", rollout=rollout, lora={"rank": 4, "alpha": 8})


# ── The engine by itself ───────────────────────────────────────────────────────────────────────────────────────────


def test_only_the_same_request_fetches_what_was_begun() -> None:
    asked: list[tuple[int, ...]] = []

    def script(prompt: Sequence[int], index: int) -> Sequence[int]:
        asked.append(tuple(prompt))
        return [*prompt, index]

    engine = BackgroundEngine(ScriptedEngine(script, str))
    engine.begin([(1, 2), (3,)], [7, 8], Sampling(), seed=0)
    other = engine.sample([(1, 2), (3,)], [7, 8], Sampling(), seed=1)
    assert engine.sample([[1, 2], [3]], [7, 8], Sampling(), seed=0) == other
    assert engine.sample([[1, 2], [3]], [7, 8], Sampling(), seed=0) == other
    assert asked == [(1, 2), (3,), (1, 2), (3,)]  # begun, and the one with another seed
    assert engine.dtype is None
    engine.close()


def test_nobody_waits_at_the_end_for_a_call_that_hangs() -> None:
    program = (
        "import threading\n"
        "from sgsd.rollout import BackgroundEngine, Sampling, ScriptedEngine\n"
        "engine = BackgroundEngine(ScriptedEngine(lambda prompt, index: threading.Event().wait(), str))\n"
        "engine.begin([(1,)], [0], Sampling(), seed=0)\n"
        "engine.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=GATE_SECONDS, check=False)
    assert done.returncode == 0


def test_a_stop_is_heard_while_the_trainer_waits_for_samples(
    engines: list[OwnWeights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = setup.make_engine

    def slow(*arguments: Any) -> Any:
        engine: Any = made(*arguments)
        engine.engine.before = lambda call: os.kill(os.getpid(), signal.SIGTERM) if call == 5 else None
        return engine

    monkeypatch.setattr(setup, "make_engine", slow)
    folder = run_small(tmp_path / "run", steps=4)
    assert 0 < len(steps_done(folder)) < 4
