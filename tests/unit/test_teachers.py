"""Teachers that trail the student: the average is of products, exact while the rank allows it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_scorer import tiny

from sgsd.config.sections import LoraConfig, TeacherConfig
from sgsd.methods import build
from sgsd.scorer import TEACHER_ADAPTER
from sgsd.train.models import make_scorer
from sgsd.train.teachers import TeacherUpdater, lora_layers, low_rank_sum

LORA = LoraConfig(rank=4, alpha=8, target_modules=["q_proj", "down_proj"])


def adapters(scorer: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(student's, teacher's) product of every adapted layer."""
    return [
        tuple(
            layer.scaling[name] * layer.lora_B[name].weight.detach() @ layer.lora_A[name].weight.detach()
            for name in ("default", TEACHER_ADAPTER)
        )
        for layer in lora_layers(scorer.model)
    ]


def wander(scorer: Any, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    for name, p in scorer.model.named_parameters():
        if ".default." in name:
            p.data += 0.1 * torch.randn(p.shape, generator=g)


def test_ema_of_an_adapter_averages_products() -> None:
    scorer = make_scorer(tiny(), build("sgsd", teacher="ema"), LORA, seed=0)
    teacher_updater = TeacherUpdater("ema", TeacherConfig(ema_decay=0.7), scorer.model, None)
    dense = [torch.zeros_like(student) for student, _ in adapters(scorer)]
    for step in range(1, 3):  # two students of rank 4 fit into the teacher's rank 8 exactly
        wander(scorer, step)
        teacher_updater.after_step(step)
        dense = [0.7 * d + 0.3 * student for d, (student, _) in zip(dense, adapters(scorer))]
    for d, (student, teacher) in zip(dense, adapters(scorer)):
        torch.testing.assert_close(teacher, d, rtol=1e-4, atol=1e-5)
        assert (teacher - student).abs().max() > 0.01


def test_beyond_its_rank_the_average_is_the_best_approximation() -> None:
    g = torch.Generator().manual_seed(0)
    b1, a1, b2, a2 = (torch.randn(s, generator=g) for s in ((20, 6), (6, 30), (20, 3), (3, 30)))
    b, a = low_rank_sum(b1, a1, b2, a2)
    whole = b1 @ a1 + b2 @ a2
    u, s, vh = torch.linalg.svd(whole)
    torch.testing.assert_close(b @ a, u[:, :6] * s[:6] @ vh[:6], rtol=1e-4, atol=1e-4)


def test_periodic_copies_every_period_steps() -> None:
    scorer = make_scorer(tiny(), build("sgsd", teacher="periodic"), LORA, seed=0)
    teacher_updater = TeacherUpdater("periodic", TeacherConfig(period=3), scorer.model, None)
    for step in range(1, 4):
        wander(scorer, step)
        before = [teacher for _, teacher in adapters(scorer)]
        teacher_updater.after_step(step)
        for old, (student, teacher) in zip(before, adapters(scorer)):
            assert torch.equal(teacher, student if step == 3 else old)


@pytest.mark.parametrize("kind", ["frozen", "ema", "periodic"])
def test_without_an_adapter_the_teacher_is_a_frozen_copy(kind: Any) -> None:
    model = tiny()
    scorer = make_scorer(model, build("sgsd", teacher=kind), None, seed=0)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    teacher_updater = TeacherUpdater(kind, TeacherConfig(ema_decay=0.9, period=1), scorer.model, scorer.teacher_copy)
    for p in model.parameters():
        p.data += 1
    teacher_updater.after_step(1)
    moved = {"frozen": 0.0, "ema": 0.1, "periodic": 1.0}[kind]
    for name, p in scorer.teacher_copy.named_parameters():
        assert not p.requires_grad
        torch.testing.assert_close(p, start[name] + moved)


def test_only_the_student_s_adapter_trains() -> None:
    scorer = make_scorer(tiny(), build("sgsd", teacher="ema"), LORA, seed=0)
    trained = [name for name, p in scorer.named_parameters() if p.requires_grad]
    assert trained
    assert all(".default." in name for name in trained)
