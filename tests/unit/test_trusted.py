"""Ledger-trusted SGSD against the equation, in float64 and by loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from runs import run_small
from sgsd.methods import build
from sgsd.methods.advantages import outcome_advantages
from sgsd.methods.method import LossInputs, LossOutputs, Method
from sgsd.records.run_files import Records
from sgsd.train.evidence_log import read_ledger
from sgsd.types import UserError


def outputs_of(method: Method, inputs: LossInputs) -> LossOutputs:
    return method.objective.loss(inputs, method)


def evidence(seed: int) -> LossInputs:
    draw = torch.Generator().manual_seed(seed)
    student = -torch.rand(4, 6, generator=draw) * 3
    outcome = torch.tensor([1.0, -1.0, 0.0, 1.0])
    method = build("trusted", k=3, outcome=0.7)
    return LossInputs(
        mask_BT=torch.rand(4, 6, generator=draw) > 0.2,
        student_logps_BT=student.requires_grad_(),
        old_logps_BT=student.detach(),
        outcome_B=outcome,
        advantages_B=outcome_advantages(method, outcome, torch.arange(4)),
        weights_BK=torch.softmax(torch.rand(4, 3, generator=draw), -1),
        teacher_logps_BKT=-torch.rand(4, 3, 6, generator=draw) * 8,
        trust_BK=torch.rand(4, 3, generator=draw) * 2 - 1,
    )


def oracle(e: LossInputs, clip: float, share: float, floor: float) -> np.ndarray:
    student, teacher = e.student_logps_BT.detach().double().numpy(), e.teacher_logps_BKT.double().numpy()  # type: ignore[union-attr]
    outcome, mask = e.outcome_B.double().numpy(), e.mask_BT.numpy()
    known = outcome != 0
    reward = np.where(outcome > 0, 1.0, 0.0)
    mean = reward[known].mean()
    found = np.zeros_like(student)
    for b, t in np.ndindex(*student.shape):
        found[b, t] = share * (reward[b] - mean) if known[b] else 0.0
        for k in range(teacher.shape[1]):
            gap = (teacher[b, k, t] - student[b, t]) * mask[b, t]
            trust = max(floor, float(e.trust_BK[b, k]))  # type: ignore[index]
            found[b, t] += float(e.weights_BK[b, k]) * trust * np.clip(gap, -clip, clip)
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("floor", [-1.0, -0.3, 0.0])
def test_advantages_are_those_of_the_equation_and_of_autograd(seed: int, floor: float) -> None:
    e = evidence(seed)
    outputs = outputs_of(build("trusted", k=3, outcome=0.7, floor=floor), e)
    assert outputs.advantages_BT is not None
    expected = oracle(e, clip=3.0, share=0.7, floor=floor)
    np.testing.assert_allclose(outputs.advantages_BT.numpy(), expected, atol=1e-6)
    (gradient,) = torch.autograd.grad(outputs.losses_BT.sum(), e.student_logps_BT)
    np.testing.assert_allclose(-gradient.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"clip": 0.0}, {"outcome": -1.0}, {"floor": 0.5}, {"floor": -2.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"must (be positive|lie within)"):
        build("trusted", **wrong)


def test_the_first_step_follows_the_outcome_alone_and_later_ones_the_ledger(tmp_path: Path) -> None:
    method = {"name": "trusted", "k": 2, "outcome": 0.0}
    run = run_small(tmp_path / "run", steps=4, method=method)
    metrics = Records(run).read("metrics")
    assert metrics[0]["grad_norm"] == 0.0, "an empty ledger trusts nobody"
    assert metrics[-1]["grad_norm"] > 0.0
    assert read_ledger(Records(run).read("sightings")).items
