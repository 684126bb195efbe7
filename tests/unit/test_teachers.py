"""Teachers that trail the student: the average is of products, exact while the rank allows it."""

from __future__ import annotations

from typing import Any

import architectures
import pytest
import torch
from architectures import wander
from test_scorer import rows, tiny

from sgsd.checkpoint.saving import stateful_parameters
from sgsd.config.sections import LoraConfig, TeacherConfig
from sgsd.methods import build
from sgsd.scorer import TEACHER_ADAPTER, collate
from sgsd.train import models, teachers
from sgsd.train.models import make_scorer
from sgsd.train.teachers import TeacherUpdater, lora_layers, low_rank_sum
from sgsd.types import UserError

LORA = LoraConfig(rank=4, alpha=8, target_modules=["q_proj", "down_proj"])


def adapters(scorer: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(student's, teacher's) product of every adapted layer."""
    return [
        tuple(layer.get_delta_weight(name).detach() for name in ("default", TEACHER_ADAPTER))
        for layer in lora_layers(scorer.model)
    ]


#: Layers of every kind that an adapter can sit on.
KINDS = {
    "linear": ("llama", ["q_proj", "down_proj"]),
    "stacked experts": ("qwen3-moe", ["auto"]),
    "stacked experts, by their old names": ("qwen3-moe", ["q_proj", "gate_proj", "up_proj", "down_proj"]),
    "experts stored the other way round": ("gpt-oss", ["auto"]),
    "a shared expert": ("qwen3-next", ["auto"]),
    "embeddings and a head": ("llama", ["embed_tokens", "lm_head", "v_proj"]),
    "scaled embeddings, tied head": ("gemma-2", ["embed_tokens", "lm_head"]),
    "transposed linear": ("gpt-2", ["auto", "wte", "wpe"]),
    "linear attention": ("qwen3.5", ["auto"]),
}


def of_kind(kind: str, teacher: Any, dtype: torch.dtype = torch.float32) -> Any:
    architecture, targets = KINDS[kind]
    lora = LoraConfig(rank=4, alpha=8, target_modules=targets)
    return make_scorer(architectures.model(architecture).to(dtype), build("sgsd", teacher=teacher), lora, seed=0)


@pytest.mark.parametrize("teacher", ["ema", "periodic"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_that_keeps_nothing_of_its_own_is_the_student(kind: str, teacher: Any) -> None:
    scorer = of_kind(kind, teacher).eval()
    wander(scorer)
    pack = collate(rows(3, [(5, 9), (2, 4)]))
    with torch.no_grad():
        student, before = scorer(pack).logps_N, scorer(pack, role="teacher").logps_N
        TeacherUpdater(teacher, TeacherConfig(ema_decay=0.0, period=1), scorer.model, None).after_step(1)
        assert (scorer(pack, role="teacher").logps_N - student).abs().max() <= 1e-5
        assert torch.equal(scorer(pack).logps_N, student)
    assert (before - student).abs().max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_on_every_kind_of_layer_the_average_is_of_products(kind: str) -> None:
    scorer = of_kind(kind, "ema")
    updater = TeacherUpdater("ema", TeacherConfig(ema_decay=0.7), scorer.model, None)
    dense = [torch.zeros_like(student) for student, _ in adapters(scorer)]
    for step in range(1, 3):  # two students fit into twice the rank
        wander(scorer, step)
        updater.after_step(step)
        dense = [0.7 * d + 0.3 * student for d, (student, _) in zip(dense, adapters(scorer))]
    for d, (student, teacher) in zip(dense, adapters(scorer), strict=True):
        torch.testing.assert_close(teacher, d, rtol=1e-4, atol=1e-5)
        assert (teacher - student).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["linear", "stacked experts", "embeddings and a head"])
def test_in_bfloat16_the_teacher_is_the_student_but_for_rounding(kind: str) -> None:
    scorer = of_kind(kind, "ema", torch.bfloat16).eval()
    wander(scorer)
    pack = collate(rows(3, [(5, 9), (2, 4)]))
    TeacherUpdater("ema", TeacherConfig(ema_decay=0.0), scorer.model, None).after_step(1)
    for student, teacher in adapters(scorer):
        assert (student - teacher).abs().max() <= 2**-6 * student.abs().max()
    with torch.no_grad():
        assert (scorer(pack).logps_N - scorer(pack, role="teacher").logps_N).abs().max() <= 3e-2


@pytest.mark.parametrize(
    ("wrong", "kind", "named"),
    [
        ("by_expert", "stacked experts", r"gate_up_proj \(ParamWrapper\)|down_proj \(ParamWrapper\)"),
        ("low_rank_sum", "linear", r"q_proj \(Linear\)"),
        ("low_rank_sum", "embeddings and a head", r"embed_tokens \(Embedding\)"),
    ],
)
def test_a_teacher_that_would_be_another_model_stops_the_run(
    wrong: str, kind: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_layout(b: Any, a: Any, experts: int) -> Any:
        return (
            (b, a) if experts == 1 else (b.unflatten(1, (experts, -1)).transpose(0, 1), a.unflatten(0, (experts, -1)))
        )

    def average_of_factors(b_left: Any, a_left: Any, b_right: Any, a_right: Any) -> Any:
        room = b_left.shape[-1] - b_right.shape[-1]
        b_right, a_right = (
            torch.nn.functional.pad(b_right, (0, room)),
            torch.nn.functional.pad(a_right, (0, 0, 0, room)),
        )
        return b_left + b_right, (a_left + a_right) / 3

    monkeypatch.setattr(teachers, wrong, {"by_expert": other_layout, "low_rank_sum": average_of_factors}[wrong])
    with pytest.raises(
        UserError, match=rf"method\.teacher: ema: on ({named}) .* is off by .* leave .* out of"
    ) as refused:
        of_kind(kind, "ema")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_check_leaves_the_adapters_and_the_generator_as_they_were(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = {name: p.clone() for name, p in of_kind(kind, "ema").named_parameters()}
    after = torch.get_rng_state()
    monkeypatch.setattr(models, "check_blending", lambda *_: None)
    for name, parameter in of_kind(kind, "ema").named_parameters():
        assert torch.equal(parameter, checked[name]), name
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("kind", ["embeddings and a head", "stacked experts"])
def test_a_checkpoint_holds_the_teacher_of_every_kind_of_layer(kind: str) -> None:
    kept = stateful_parameters(of_kind(kind, "ema"))
    owners = {name: name.replace(".default", f".{TEACHER_ADAPTER}") for name in kept if ".default" in name}
    assert len(owners) * 2 == len(kept)
    assert {*owners.values()} <= {*kept}
    assert all(parameter.requires_grad == (name in owners) for name, parameter in kept.items())


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
