"""Rollouts from vLLM beside the trainer: from the weights of the last sync, whatever happens to its process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from runs import small_config
from sgsd.rollout import Sampling, VllmEngine
from sgsd.rollout.vllm_process import VllmProcess
from sgsd.scorer import Row
from sgsd.train.bank_building import _engine
from sgsd.train.batch import Batch, build_batch, grade
from sgsd.train.engines import close_engine
from sgsd.train.models import load_tokenizer
from sgsd.train.sampler_mismatch import StaleSamplerError, check_sampler, score_rows
from sgsd.train.setup import Run, build_run
from sgsd.types import Completion

pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")

ROUNDING = 1e-4  # float32 on both sides: 5e-6 was measured, and another processor may add in another order
SAMPLING = Sampling(max_tokens=64)


@pytest.fixture(scope="module", params=["adapter", "weights"])
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    lora = {"rank": 8, "alpha": 16} if request.param == "adapter" else None
    # So few at a time that the prompts of one call are more than are read in one go.
    options = {"enforce_eager": True, "max_num_seqs": 32, "max_num_batched_tokens": 640}
    rollout = {"engine": "vllm", "options": options, "start_timeout": 240.0, "timeout": 60.0}
    config = small_config(tmp_path_factory.mktemp(request.param) / "run", rollout=rollout, lora=lora)
    parts = build_run(config, Accelerator())
    yield parts
    engine_of(parts).close()
    assert not (config.folder / "engine").exists()


def engine_of(parts: Run) -> VllmEngine:
    assert isinstance(parts.engine, VllmEngine)
    return parts.engine


def prompts_of(parts: Run, count: int) -> list[tuple[int, ...]]:
    return [parts.prompts.student(problem, thinking=False) for problem in parts.problems[:count]]


def sample(parts: Run, count: int = 12) -> list[Completion]:
    return parts.engine.sample(prompts_of(parts, count), range(count), SAMPLING, seed=3)


def first_batch(parts: Run) -> Batch:
    rollouts = parts.sampler.sample(1)
    return build_batch(parts.contexts, rollouts, grade(parts.verifier, rollouts))


def gap(parts: Run, done: list[Completion]) -> float:
    """The largest one, over all tokens."""
    rows = [Row(prompt, c.token_ids) for prompt, c in zip(prompts_of(parts, len(done)), done)]
    said_N = torch.tensor([logp for c in done for logp in c.logps])
    return float((score_rows(parts.policy, rows) - said_N).abs().max())


def train(parts: Run, seed: int) -> None:
    """A step of chance, large enough to be heard."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parts.policy.bare_scorer.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)


def test_each_sync_brings_the_new_weights_and_nothing_else_does(parts: Run) -> None:
    engine = engine_of(parts)
    for seed in range(3):
        engine.sync()
        done = sample(parts)
        assert gap(parts, done) < ROUNDING
        train(parts, seed)
        stale = sample(parts)
        assert [c.token_ids for c in stale] == [c.token_ids for c in done]
        assert gap(parts, stale) > 100 * ROUNDING
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "sync", lambda: None)
        with pytest.raises(StaleSamplerError):
            check_sampler(parts.policy, parts.sampler, first_batch(parts))
    parts.engine.sync()
    check_sampler(parts.policy, parts.sampler, first_batch(parts))
    assert engine.restarts == 0


def test_a_rollout_depends_on_its_seed_and_index_alone(parts: Run) -> None:
    parts.engine.sync()
    together, prompts = sample(parts, 32), prompts_of(parts, 32)
    assert sum(map(len, prompts)) > 640
    for place in (0, 5, 31):
        (alone,) = parts.engine.sample([prompts[place]], [place], SAMPLING, seed=3)
        assert alone.token_ids == together[place].token_ids
    (other,) = parts.engine.sample([prompts[0]], [0], SAMPLING, seed=4)
    assert other.token_ids != together[0].token_ids
    for c in together:
        end = parts.tokenizer.eos_token_id
        assert (c.finish == "stop") == (c.token_ids[-1] == end)
        assert end not in c.token_ids[:-1]


@pytest.mark.parametrize("blow", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.prove)])
def test_an_engine_that_dies_or_hangs_on_the_way_is_replaced(
    parts: Run, blow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, plain, blows = engine_of(parts), VllmProcess.send, [blow]
    train(parts, 7)
    engine.sync()
    whole, before, pid = sample(parts), engine.restarts, engine.pid
    assert pid is not None

    def send(process: VllmProcess, command: Any, seconds: float) -> None:
        """Hand over the request, and strike while the engine is at it."""
        plain(process, command, seconds)
        if command["do"] == "sample" and blows:
            os.kill(process.pid, blows.pop())

    monkeypatch.setattr(VllmProcess, "send", send)
    object.__setattr__(engine.settings, "silence", 5.0 if blow == signal.SIGSTOP else 60.0)
    begun = time.monotonic()
    done = sample(parts)
    object.__setattr__(engine.settings, "silence", 60.0)
    assert engine.restarts == before + 1
    assert engine.pid != pid
    assert [c.token_ids for c in done] == [c.token_ids for c in whole]
    assert gap(parts, done) < ROUNDING
    assert time.monotonic() - begun < 360  # a start of vLLM is in it


def test_a_cold_start_samples_from_the_model_as_it_is(tmp_path: Path) -> None:
    """`sgsd bank build` with the run's engine: an adapter is configured, and there is none yet."""
    rollout = {"engine": "vllm", "options": {"enforce_eager": True, "max_num_seqs": 32}, "start_timeout": 240.0}
    config = small_config(tmp_path / "run", rollout=rollout, lora={"rank": 8, "alpha": 16})
    engine = _engine(config, load_tokenizer(config.model), tmp_path / "bank.build")
    parts = build_run(small_config(tmp_path / "own"), Accelerator())
    done = engine.sample(prompts_of(parts, 12), range(12), SAMPLING, seed=3)
    close_engine(engine)
    assert gap(parts, done) < ROUNDING
    assert not (tmp_path / "run").exists()
    assert [path.name for path in (tmp_path / "bank.build").iterdir()] == ["vllm.log"]
