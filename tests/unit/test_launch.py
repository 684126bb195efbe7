"""Ways to launch that are refused, gradients that are averaged, and passes that shrink when memory runs out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator, DistributedType

from resumable import METHODS, lines, numbers
from runs import run_small, small_config
from sgsd.distributed import replicated as whole
from sgsd.distributed.launcher import make_strategy
from sgsd.distributed.replicated import average
from sgsd.records.metrics import StepMetrics
from sgsd.train import microbatch as passes
from sgsd.train.batch import build_batch, grade
from sgsd.train.checks import check_strategy
from sgsd.train.microbatch import is_out_of_memory
from sgsd.train.setup import build_run
from sgsd.train.step import StudentPasses, score_teachers, update
from sgsd.types import UserError


def accelerator(kind: DistributedType, **more: Any) -> Any:
    return SimpleNamespace(distributed_type=kind, mixed_precision="no", num_processes=2, **more)


def test_launches_that_cannot_be_done_right_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"MULTI_XPU is not supported; see configs/accelerate"):
        make_strategy(accelerator(DistributedType.MULTI_XPU))
    with pytest.raises(UserError, match="mixed_precision fp16"):
        make_strategy(SimpleNamespace(distributed_type=DistributedType.NO, mixed_precision="fp16"))  # type: ignore[arg-type]
    state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=1))
    with pytest.raises(UserError, match="zero_stage is 1"):
        make_strategy(accelerator(DistributedType.DEEPSPEED, state=state))
    config = small_config(tmp_path, rollouts=4, **METHODS["grpo-lora"])
    with pytest.raises(UserError, match="1 groups cannot be shared by 2 processes"):
        check_strategy(config, config.build_method(), accelerator(DistributedType.MULTI_CPU))
    config = small_config(tmp_path, skills={"every": 1}, writer={"kind": "policy"})
    check_strategy(config, config.build_method(), accelerator(DistributedType.MULTI_CPU))
    with pytest.raises(UserError, match=r"writer.kind: policy .* under fsdp2"):
        check_strategy(config, config.build_method(), accelerator(DistributedType.FSDP))


def test_gradients_are_averaged_in_few_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []

    def all_reduce(flat: torch.Tensor) -> None:
        sent.append(flat.numel())
        flat.mul_(3.0)  # as if two others had the same, and twice that

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(whole, "BUCKET", 10)
    shapes = [(2, 3), (4,), (3,), (20,), (1,)]
    gradients = [torch.full(shape, float(i + 1)) for i, shape in enumerate(shapes)]
    gradients.append(torch.ones(2, dtype=torch.float64))
    average(gradients, 3)
    assert sent == [10, 3, 20, 1, 2]
    for i, shape in enumerate(shapes):
        torch.testing.assert_close(gradients[i], torch.full(shape, float(i + 1)))


def test_what_out_of_memory_looks_like() -> None:
    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ):
        assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def bursting(monkeypatch: pytest.MonkeyPatch, fits: int) -> list[int]:
    """Passes of more tokens than `fits` run out of memory, on the way back; returns the sizes of those that did not."""
    plain, made = StudentPasses.__call__, []

    def call(self: StudentPasses, indices: list[int], pack: Any, *, last: bool) -> None:
        plain(self, indices, pack, last=last)
        if pack.input_ids_RL.numel() > fits:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        made.append(pack.input_ids_RL.numel())

    monkeypatch.setattr(StudentPasses, "__call__", call)
    return made


def test_smaller_passes_give_the_same_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"steps": 2, **METHODS["grpo-full"], "method": {"name": "grpo", "group": 4, "iterations": 2}}
    plain = run_small(tmp_path / "plain", **settings)
    made = bursting(monkeypatch, 300)
    small = run_small(tmp_path / "small", **settings)
    for a, b in zip(lines(plain, "metrics"), lines(small, "metrics"), strict=True):
        assert numbers(a) == pytest.approx(numbers(b), rel=1e-3, abs=1e-6)
    assert max(made) <= 300
    assert "compute.student_tokens: out of memory; passes hold" in caplog.text


def test_one_row_that_does_not_fit_stops_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bursting(monkeypatch, 0)
    with pytest.raises(UserError, match=r"^compute.student_tokens: out of memory with a single row of at most \d+ tok"):
        run_small(tmp_path / "run", steps=1)


def test_an_error_that_is_none_of_memory_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "is_out_of_memory", lambda error: False)
    bursting(monkeypatch, 0)
    with pytest.raises(RuntimeError, match="can't allocate"):
        run_small(tmp_path / "run", steps=1)


def test_a_launch_that_cannot_make_a_pass_again_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = build_run(small_config(tmp_path / "run"), Accelerator())
    monkeypatch.setattr(parts.policy.strategy, "can_do_again", lambda kind: False)
    with parts.verifier:
        rollouts = parts.sampler.sample(1)
        batch = build_batch(parts.contexts, rollouts, grade(parts.verifier, rollouts))
    bursting(monkeypatch, 0)
    with pytest.raises(UserError, match="which replicated cannot make again; start a new run with a lower one"):
        update(parts.learner, batch, score_teachers(parts.learner, batch), StepMetrics(), 1e-4)
