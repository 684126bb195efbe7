"""What the published code computed, number by number, and the same from a plain float64 oracle in NumPy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oracle import jsd_oracle, sgsd_oracle, sgsd_topk_oracle
from sgsd.methods import LossInputs, LossOutputs, Method, build
from sgsd.methods.averages import token_weights

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "parity"
FILES = sorted(path.name for path in FOLDER.glob("*.npz"))

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not FILES, reason=f"the reference numbers are not on this machine: {FOLDER}"),
]


def load(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    with np.load(FOLDER / name) as stored:
        config = json.loads(bytes(stored["meta"]))["config"]
        return {key: torch.from_numpy(stored[key]) for key in stored.files if key != "meta"}, config


def sgsd_inputs(
    arrays: dict[str, torch.Tensor], config: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """Mask, outcome and settings as this project names them."""
    T = arrays["token_ids"].shape[1]
    mask = torch.arange(T)[None] < arrays["lengths"][:, None]
    for token in config["mask_token_ids"]:
        mask &= arrays["token_ids"] != token
    settings = {
        "tau": config["gate_tau"],
        "clip": config["polarity_clip_delta"],
        "confidence": config["confidence_threshold"],
    }
    return mask, 2 * arrays["rewards"] - 1, settings


def sampled_logps(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)


def inputs_of(
    student: torch.Tensor, mask: torch.Tensor, outcome: torch.Tensor, weights: torch.Tensor, **more: torch.Tensor
) -> LossInputs:
    return LossInputs(
        mask_BT=mask,
        student_logps_BT=student,
        old_logps_BT=student.detach(),
        outcome_B=outcome,
        advantages_B=torch.zeros_like(outcome),
        weights_BK=weights,
        **more,
    )


def step_loss(method: Method, inputs: LossInputs) -> tuple[torch.Tensor, LossOutputs]:
    """The loss of a step as a run computes it, in one micro-batch."""
    outputs, mask = method.objective.loss(inputs, method), inputs.mask_BT
    shares = token_weights(mask, method.reduce, rollouts=len(mask), tokens=int(mask.sum()), max_tokens=mask.shape[1])
    return (shares * outputs.losses_BT).sum(), outputs


def assert_matches(loss: torch.Tensor, grad: torch.Tensor, arrays: dict[str, torch.Tensor]) -> None:
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(arrays["loss"].item(), rel=1e-5)
    largest = arrays["grad"].abs().max()
    assert largest > 0
    assert (grad - arrays["grad"]).abs().max() <= 1e-5 * largest


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("sgsd_sampled")])
def test_sgsd_on_sampled_tokens(name: str) -> None:
    arrays, config = load(name)
    mask, outcome, settings = sgsd_inputs(arrays, config)
    logits = arrays["student_logits"].clone().requires_grad_()
    student = sampled_logps(logits, arrays["token_ids"])
    student.retain_grad()
    K = config["K"]
    teacher = sampled_logps(arrays["teacher_logits"], arrays["token_ids"][:, None].expand(-1, K, -1))
    inputs = inputs_of(student, mask, outcome, arrays["weights"], teacher_logps_BKT=teacher)
    loss, result = step_loss(build("sgsd", k=K, **settings), inputs)
    loss.backward()
    assert_matches(loss, logits.grad, arrays)
    assert result.advantages_BT is not None
    by_advantage = -result.advantages_BT * mask / (len(mask) * mask.sum(-1, keepdim=True).clamp(min=1))
    assert (by_advantage - student.grad).abs().max() <= 1e-6 * student.grad.abs().max()
    expected, grad = sgsd_oracle(
        student.detach().double().numpy(),
        teacher.double().numpy(),
        mask.numpy(),
        arrays["weights"].double().numpy(),
        outcome.numpy(),
        **settings,
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert np.abs(grad - student.grad.numpy()).max() <= 1e-5 * np.abs(grad).max()


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("sgsd_topk")])
def test_sgsd_on_a_local_support(name: str) -> None:
    arrays, config = load(name)
    mask, outcome, settings = sgsd_inputs(arrays, config)
    logits = arrays["student_logits"].clone().requires_grad_()
    top_k, K, tokens = config["local_support_top_k"], config["K"], arrays["token_ids"]
    method = build("sgsd_distribution", k=K, top_k=top_k, keep_sampled=True, **settings)
    values, gaps = (
        torch.stack(parts, 1)
        for parts in zip(*(method.objective.divergence(logits, t, tokens) for t in arrays["teacher_logits"].unbind(1)))
    )
    student = sampled_logps(logits.detach(), tokens)
    inputs = inputs_of(student, mask, outcome, arrays["weights"], divergence_BKT=values, local_gap_BKT=gaps)
    loss, result = step_loss(method, inputs)
    loss.backward()
    assert result.advantages_BT is None
    assert_matches(loss, logits.grad, arrays)
    expected = sgsd_topk_oracle(
        *(arrays[key].double().numpy() for key in ("student_logits", "teacher_logits")),
        arrays["token_ids"].numpy(),
        mask.numpy(),
        arrays["weights"].double().numpy(),
        outcome.numpy(),
        top_k=top_k,
        **settings,
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("opsd_jsd")])
def test_generalised_jsd(name: str) -> None:
    arrays, config = load(name)
    logits = arrays["student_logits"].clone().requires_grad_()
    mask = arrays["labels"] != -100
    settings = {
        "beta": config["beta"],
        "temperature": config["temperature"],
        "top_k": config["top_k"],
        "clip": config["token_clip"],
        "clip_level": "vocab",
    }
    method = build("opsd")
    method = replace(method, objective=replace(method.objective, **settings))
    values = method.objective.divergence(logits, arrays["teacher_logits"])
    rows = torch.ones(len(mask))
    student = torch.zeros_like(values)
    loss, _ = step_loss(method, inputs_of(student, mask, rows, rows[:, None], divergence_BKT=values[:, None]))
    loss.backward()
    assert_matches(loss, logits.grad, arrays)
    oracle = jsd_oracle(
        arrays["student_logits"].double().numpy(), arrays["teacher_logits"].double().numpy(), mask.numpy(), **settings
    )
    assert loss.item() == pytest.approx(oracle, rel=1e-5)
