"""A run whose engine breaks stops with the engine's own words and a checkpoint, and goes on from there to the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from resumable import assert_same_bits, lines, steps_done
from runs import run_small
from sgsd.checkpoint.saving import checkpoints
from sgsd.rollout import Engine, EngineError, Sampling
from sgsd.train import run
from sgsd.train.setup import Run, build_run
from sgsd.types import Completion

EVALUATED: dict[str, Any] = {
    "steps": 4,
    "evaluation": {
        "data": {"path": "lab:held-out"},
        "problems": 4,
        "samples": 2,
        "every": 2,
        "sampling": {"max_tokens": 96},
    },
}


class Breaking:
    """An engine that is no more at a certain call."""

    def __init__(self, engine: Engine, at: int) -> None:
        self.engine, self.left = engine, at

    def sample(
        self, prompts: Sequence[Sequence[int]], indices: Sequence[int], sampling: Sampling, *, seed: int
    ) -> list[Completion]:
        self.left -= 1
        if self.left == 0:
            raise EngineError("vllm", "it was ended by SIGKILL (3 tries)", 7.0, "go on by --resume")
        return self.engine.sample(prompts, indices, sampling, seed=seed)

    def sync(self) -> None:
        self.engine.sync()


def break_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    def build(*arguments: Any) -> Run:
        parts = build_run(*arguments)
        parts.engine = Breaking(parts.engine, call)  # type: ignore[assignment]
        object.__setattr__(parts.evaluator, "engine", parts.engine)
        return parts

    monkeypatch.setattr(run, "build_run", build)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_small(tmp_path_factory.mktemp("whole") / "run", **EVALUATED)


# Calls: the first evaluation (greedy, sampled), steps 1 and 2, the evaluation after step 2 (two), steps 3 and 4.
@pytest.mark.parametrize(("call", "saved"), [(7, "step-000002"), (8, "step-000003"), (6, "step-000002")])
def test_the_run_goes_on_from_where_the_engine_broke(
    call: int, saved: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        break_at(patch, call)
        with pytest.raises(EngineError, match=r"rollout.engine vllm: it was ended by SIGKILL \(3 tries\), 7 s into"):
            run_small(tmp_path / "run", **EVALUATED)
    assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")] == [saved]
    run_small(tmp_path / "run", resume=True, **EVALUATED)
    assert steps_done(tmp_path / "run") == [1, 2, 3, 4]
    assert [record["step"] for record in lines(tmp_path / "run", "evaluations")] == [0, 2, 4]
    assert_same_bits(whole, tmp_path / "run")
