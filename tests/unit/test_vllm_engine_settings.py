"""Which engine a configuration means, what it refuses, and how far a sampler may be from the trainer."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from runs import LORA, small_config
from sgsd.methods.losses import importance_weights
from sgsd.records.metrics import StepMetrics
from sgsd.rollout import ServerEngine, TransformersEngine, VllmEngine
from sgsd.rollout.engine import Engine, request_seed
from sgsd.train import sampler_mismatch as gap
from sgsd.train.batch import build_batch, grade
from sgsd.train.policy import NonFiniteError
from sgsd.train.sampler_mismatch import StaleSamplerError, check_gap, draws_dropout, sampler_rounding
from sgsd.train.setup import Run, build_run
from sgsd.train.step import score_teachers, update
from sgsd.types import UserError

VLLM: dict[str, Any] = {"engine": "vllm"}
SERVER: dict[str, Any] = {"engine": "server", "base_url": "http://127.0.0.1:8000/v1"}


# ── The configuration ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_default_is_as_it_was(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    assert config.rollout.engine == "transformers"
    assert config.rollout.importance_cap is None


@pytest.mark.parametrize(
    ("rollout", "changes", "said"),
    [
        (
            {"gpu_memory_utilization": 0.5},
            {},
            "rollout.gpu_memory_utilization: means something to vllm, not to engine transformers",
        ),
        ({"timeout": 5.0}, {}, "rollout.timeout: means something to vllm and server, not to engine transformers"),
        ({**VLLM, "base_url": "http://x"}, {}, "rollout.base_url: means something to server, not to engine vllm"),
        ({**SERVER, "sleep": 1}, {}, "rollout.sleep: means something to vllm, not to engine server"),
        ({**SERVER, "options": {"a": 1}}, {}, "rollout.options: means something to vllm"),
        ({"engine": "server"}, {}, "rollout.base_url: where is the server?"),
        ({**VLLM, "sleep": 2}, {"lora": LORA}, "rollout.sleep: 2 forgets the weights under the adapter; use 1"),
        (
            {**VLLM, "max_model_len": 600},
            {},
            "prompts.max_tokens and sampling.max_tokens together are 608, 600 is less",
        ),
        ({**VLLM, "options": {"logprobs_mode": "x"}}, {}, "rollout.options: logprobs_mode is set by the engine itself"),
        ({**VLLM, "gpu_memory_utilization": 1.5}, {}, "rollout.gpu_memory_utilization"),
        ({"engine": "sglang"}, {}, "rollout.engine"),
    ],
)
def test_mixes_that_mean_nothing_are_refused(
    rollout: dict[str, Any], changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        small_config(tmp_path, rollout=rollout, **changes)
    assert said in str(caught.value)


def parts_with(tmp_path: Path, **changes: Any) -> Run:
    return build_run(small_config(tmp_path / "never", **changes), Accelerator())


def test_each_engine_is_made_and_nothing_is_started(tmp_path: Path) -> None:
    assert isinstance(parts_with(tmp_path).engine, TransformersEngine)
    own = {"gpu_memory_utilization": 0.3, "sleep": 1, "tensor_parallel": 2, "options": {"max_num_seqs": 7}}
    parts = parts_with(tmp_path, rollout={**VLLM, **own}, lora={"rank": 12, "alpha": 8})
    engine = parts.engine
    assert isinstance(engine, VllmEngine)
    assert parts.evaluator is None or parts.evaluator.engine is engine
    told = engine.settings.llm_arguments()
    assert told["gpu_memory_utilization"] == 0.3
    assert told["tensor_parallel_size"] == 2
    assert told["enable_sleep_mode"] is True
    assert told["max_num_seqs"] == 7
    assert told["max_lora_rank"] == 16  # of vLLM's sizes the next one
    assert told["max_model_len"] == 512 + 96
    assert told["dtype"] == "float32"
    assert engine.pid is None
    server = parts_with(tmp_path, rollout=SERVER).engine
    assert isinstance(server, ServerEngine)
    assert server.urls == ["http://127.0.0.1:8000"]
    assert server.dtype == "bfloat16"  # it does not say
    assert not (tmp_path / "never").exists()
    with pytest.raises(UserError, match=r"lora.rank: vLLM takes adapters up to rank 512, this one has 1024"):
        parts_with(tmp_path, rollout=VLLM, lora={"rank": 1024, "alpha": 8})


def test_the_launcher_s_words_are_not_meant_for_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    from sgsd.train.engines import environment

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert environment(torch.device("cuda:1"), 1)["CUDA_VISIBLE_DEVICES"] == "6"
    assert "CUDA_VISIBLE_DEVICES" not in environment(torch.device("cuda:0"), 2)
    assert environment(torch.device("cpu"), 1)["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_a_seed_is_a_function_of_seed_and_index() -> None:
    seeds = {request_seed(seed, index) for seed in range(30) for index in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert request_seed(3, 2**47) == request_seed(3, 2**47)


# ── The gap ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return parts_with(tmp_path_factory.mktemp("gap"))


class Says:
    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(gap, "warn", said.append)
    return said


def test_both_precisions_count(parts: Run, heard: list[str]) -> None:
    policy, engine, coarse = parts.policy, parts.engine, cast(Engine, Says("bfloat16"))
    assert sampler_rounding(policy, engine) == 1e-3
    assert sampler_rounding(policy, coarse) == 3e-2
    assert sampler_rounding(policy, cast(Engine, object())) == 1e-3
    check_gap(policy, coarse, 1e-2)  # what a bfloat16 engine may be off a float32 trainer
    with pytest.raises(StaleSamplerError, match=r"off by 0.01 nats a token, 0.001 is what rounding explains"):
        check_gap(policy, engine, 1e-2)
    with pytest.raises(StaleSamplerError):
        check_gap(policy, coarse, 4e-2)
    for nothing in (math.nan, math.inf):
        with pytest.raises(StaleSamplerError, match="are no numbers, though all of the trainer's weights are"):
            check_gap(policy, coarse, nothing)
    assert not heard


@pytest.mark.parametrize("stale", [0, 1])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_weight_that_is_no_number_is_no_stale_sampler(parts: Run, number: float, stale: int) -> None:
    name, weight = next((n, p) for n, p in parts.policy.model.named_parameters() if n.endswith("mlp.down_proj.weight"))
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[3, 5] = number
        with pytest.raises(NonFiniteError, match=rf"the policy's weight {name} is NaN or infinite in 1 of"):
            check_gap(parts.policy, parts.engine, math.nan, staleness=stale)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_half_of_what_stops_the_run_is_worth_a_warning_or_what_is_set(parts: Run, heard: list[str]) -> None:
    check_gap(parts.policy, parts.engine, 4e-4)
    assert not heard
    check_gap(parts.policy, parts.engine, 6e-4)
    assert heard == [
        "sampler_mismatch: the engine's log-probabilities are off by 0.0006 nats a token"
        " (rollout.mismatch_warning 0.0005)"
    ]
    check_gap(parts.policy, parts.engine, 2e-4, alarm=1e-4)
    assert len(heard) == 2


def test_a_dropout_hides_the_gap(tmp_path: Path, parts: Run) -> None:
    assert not draws_dropout(parts.policy.model)
    assert draws_dropout(parts_with(tmp_path, lora={**LORA, "dropout": 0.1}).policy.model)


# ── Importance weights ─────────────────────────────────────────────────────────────────────────────────────────────


def test_importance_weights_are_the_capped_ratio_and_have_no_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    logps_BT = torch.randn(3, 5, generator=generator).requires_grad_()
    sampler_BT = torch.randn(3, 5, generator=generator)
    weights_BT = importance_weights(logps_BT, sampler_BT, cap=1.5)
    student, sampler = np.exp(logps_BT.detach().numpy()), np.exp(sampler_BT.numpy())
    np.testing.assert_allclose(weights_BT.numpy(), np.minimum(student / sampler, 1.5), rtol=1e-6)
    assert (weights_BT == 1.5).any()
    assert (weights_BT < 1.5).any()
    assert not weights_BT.requires_grad
    (weights_BT * -logps_BT).sum().backward()
    torch.testing.assert_close(logps_BT.grad, -weights_BT)
    with pytest.raises(ValueError, match="cap must be positive"):
        importance_weights(logps_BT, sampler_BT, cap=0.0)


def test_weighing_makes_the_mean_gradient_the_student_s() -> None:
    """Over all tokens, each as often as the sampler draws it: E_sampler[w ∇log p] = E_student[∇log p] = 0."""
    generator = torch.Generator().manual_seed(1)
    logits_V = torch.randn(7, generator=generator, dtype=torch.float64).requires_grad_()
    sampler_V = torch.randn(7, generator=generator, dtype=torch.float64).log_softmax(-1)
    logps_V = logits_V.log_softmax(-1)
    reward_V = torch.arange(7.0, dtype=torch.float64)
    weights_V = importance_weights(logps_V, sampler_V, cap=1e9)
    (found,) = torch.autograd.grad(
        (sampler_V.exp() * weights_V * reward_V * logps_V).sum(), logits_V, retain_graph=True
    )
    (expected,) = torch.autograd.grad((logps_V.exp() * reward_V).sum(), logits_V)
    torch.testing.assert_close(found, expected)


def gradient(
    parts: Run, batch: Any, monkeypatch: pytest.MonkeyPatch, metrics: StepMetrics | None = None
) -> torch.Tensor:
    """Of one update, which is not made."""
    grads: list[torch.Tensor] = []

    def keep(*_: Any) -> float:
        trained = [p for p in parts.policy.scorer.parameters() if p.grad is not None]
        grads.append(torch.cat([p.grad.flatten().clone() for p in trained]))
        parts.policy.strategy.forget_gradient()
        return 0.0

    monkeypatch.setattr("sgsd.train.step.apply_gradient", keep)
    monkeypatch.setattr("sgsd.train.step.check_gap", lambda *_, **__: None)
    update(parts.learner, batch, score_teachers(parts.learner, batch), metrics or StepMetrics(), 1e-4)
    return grads[0]


def test_the_update_weighs_every_token_by_it(parts: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts = parts.sampler.sample(1)
    batch = build_batch(parts.contexts, rollouts, grade(parts.verifier, rollouts))
    plain = gradient(parts, batch, monkeypatch)
    capped = copy.copy(parts)
    capped.learner = replace(
        parts.learner,
        config=parts.config.model_copy(
            update={"rollout": parts.config.rollout.model_copy(update={"importance_cap": 2.0})}
        ),
    )
    torch.testing.assert_close(gradient(capped, batch, monkeypatch), plain, rtol=1e-3, atol=1e-7)  # it was the student

    def shifted(by: float) -> Any:
        rollouts = [
            replace(r, completion=replace(r.completion, logps=tuple(x - by for x in r.completion.logps)))
            for r in batch.rollouts
        ]
        return replace(batch, rollouts=rollouts)

    half = gradient(capped, shifted(math.log(0.5)), monkeypatch)  # the sampler was twice as sure of each token
    torch.testing.assert_close(half, 0.5 * plain, rtol=1e-3, atol=1e-7)
    metrics = StepMetrics()
    cut = gradient(capped, shifted(math.log(8.0)), monkeypatch, metrics)
    torch.testing.assert_close(cut, 2.0 * plain, rtol=1e-3, atol=1e-7)
    tokens = float(metrics.sums["tokens"])
    assert (metrics.sums["importance_weight"], metrics.sums["importance_capped"]) == (2 * tokens, tokens)
