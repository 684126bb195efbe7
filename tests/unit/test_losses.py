"""The objectives against the float64 oracle, their gradients, and the corners of their definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle import jsd_oracle, sgsd_oracle
from sgsd.evaluation.probe import ProbedRollout, TeacherSupport, teacher_observations
from sgsd.methods import build
from sgsd.methods import losses as L
from sgsd.methods.advantages import group_advantages
from sgsd.methods.averages import masked_mean
from sgsd.methods.gates import Bounded
from sgsd.methods.method import LossInputs, LossOutputs, Method
from sgsd.methods.objectives import MatchDistribution
from sgsd.methods.stances import VerifiedSupport


def outputs_of(method: Method, inputs: LossInputs) -> LossOutputs:
    return method.objective.loss(inputs, method)


def mean_jsd(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor, **options: Any) -> torch.Tensor:
    values = L.generalized_jsd(student_logits=student, teacher_logits=teacher, **options)
    return masked_mean(values.flatten(), mask.bool().flatten())


def case(seed: int, B: int = 4, K: int = 3, T: int = 9) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    student = -torch.rand(B, T, generator=g, dtype=torch.float64) * 3
    return {
        "student_logps_BT": student.requires_grad_(),
        "teacher_logps_BKT": student.detach()[:, None] + torch.randn(B, K, T, generator=g, dtype=torch.float64),
        "mask_BT": torch.rand(B, T, generator=g) > 0.3,
        "weights_BK": torch.rand(B, K, generator=g, dtype=torch.float64).softmax(-1),
        "outcome_B": torch.randint(-1, 2, (B,), generator=g).double(),
    }


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10_000),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 12),
    st.floats(0.1, 5),
    st.floats(0.2, 4),
    st.floats(0, 0.5),
)
def test_sgsd_is_its_equation(seed: int, B: int, K: int, T: int, tau: float, clip: float, confidence: float) -> None:
    arrays = case(seed, B, K, T)
    value, result = L.sgsd_loss(**arrays, tau=tau, clip=clip, confidence=confidence)
    plain = [tensor.detach().numpy() for tensor in arrays.values()]
    loss, grad = sgsd_oracle(*plain, tau=tau, clip=clip, confidence=confidence)
    assert value.item() == pytest.approx(loss, rel=1e-9, abs=1e-12)
    (by_autograd,) = torch.autograd.grad(value, arrays["student_logps_BT"])
    np.testing.assert_allclose(by_autograd.numpy(), grad, rtol=1e-9, atol=1e-12)
    mask = arrays["mask_BT"]
    by_advantage = -result.advantages_BT * mask / (B * mask.sum(-1, keepdim=True).clamp(min=1))
    np.testing.assert_allclose(by_advantage.numpy(), grad, rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10_000),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 12),
    st.floats(0.1, 5),
    st.floats(0.2, 4),
    st.floats(0, 0.5),
)
def test_what_a_run_makes_of_sgsd_is_the_equation_to_the_last_bit(
    seed: int, dtype: torch.dtype, B: int, K: int, T: int, tau: float, clip: float, confidence: float
) -> None:
    """The declared method and the public function lead to one equation; neither may move alone."""
    arrays = {
        key: array if array.dtype == torch.bool else array.to(dtype) for key, array in case(seed, B, K, T).items()
    }
    student, mask = arrays["student_logps_BT"].detach().requires_grad_(), arrays["mask_BT"]
    arrays["student_logps_BT"] = student
    loss, alone = L.sgsd_loss(**arrays, tau=tau, clip=clip, confidence=confidence)
    evidence = LossInputs(**arrays, old_logps_BT=student.detach(), advantages_B=torch.zeros(B))
    judged = outputs_of(build("sgsd", k=K, tau=tau, clip=clip, confidence=confidence), evidence)
    declared = masked_mean(judged.losses_BT, mask).mean()
    assert torch.equal(declared, loss)
    for name in ("polarity_BK", "support_BK", "advantages_BT"):
        assert torch.equal(getattr(judged, name), getattr(alone, name))
    assert torch.equal(*(torch.autograd.grad(total, student)[0] for total in (declared, loss)))


@pytest.mark.parametrize("options", [{"beta": 0.0}, {"beta": 0.5, "clip": 0.05}, {"beta": 1.0, "top_k": 3}])
def test_what_a_run_makes_of_a_divergence_is_the_equation_to_the_last_bit(options: dict[str, Any]) -> None:
    g = torch.Generator().manual_seed(4)
    student, teacher = (torch.randn(2, 5, 7, generator=g, dtype=torch.float64) * 2 for _ in range(2))
    mask = torch.rand(2, 5, generator=g) > 0.3
    divergence = MatchDistribution(**{"clip": None, **options}).divergence(student, teacher)
    assert torch.equal(masked_mean(divergence.flatten(), mask.flatten()), mean_jsd(student, teacher, mask, **options))


def test_an_unknown_outcome_teaches_nothing() -> None:
    arrays = case(0)
    arrays["outcome_B"] = torch.zeros(4, dtype=torch.float64)
    loss, result = L.sgsd_loss(**arrays)
    assert loss == 0
    assert not result.polarity_BK.any()
    assert not result.advantages_BT.any()


def test_masked_tokens_may_hold_anything() -> None:
    arrays = case(1)
    clean, _ = L.sgsd_loss(**arrays)
    hole = ~arrays["mask_BT"]
    dirty = dict(arrays)
    dirty["teacher_logps_BKT"] = arrays["teacher_logps_BKT"].masked_fill(hole[:, None], -math.inf)
    loss, _ = L.sgsd_loss(**dirty)
    assert torch.equal(loss, clean)
    (grad,) = torch.autograd.grad(loss, arrays["student_logps_BT"])
    assert torch.isfinite(grad).all()
    assert not grad[hole].any()


def test_polarity_is_outcome_times_stance() -> None:
    gap = torch.tensor([[[0.2], [-0.2], [0.04]]], dtype=torch.float64)  # supports, suppresses, says nothing
    for outcome in (1.0, -1.0):
        _, result = L.sgsd_loss(
            student_logps_BT=torch.zeros(1, 1, dtype=torch.float64),
            teacher_logps_BKT=gap,
            mask_BT=torch.ones(1, 1, dtype=torch.bool),
            weights_BK=torch.full((1, 3), 1 / 3, dtype=torch.float64),
            outcome_B=torch.tensor([outcome], dtype=torch.float64),
        )
        assert result.polarity_BK.tolist() == [[outcome, -outcome, 0.0]]


def test_the_support_is_clipped_token_by_token() -> None:
    delta = torch.tensor([[[10.0, -1.0]]])
    assert VerifiedSupport(clip=3.0).support(delta, torch.ones(1, 2, dtype=torch.bool)).item() == pytest.approx(1.0)


def test_one_teacher_pulls_at_most_0_393_at_tau_1() -> None:
    delta = torch.linspace(-6, 6, 24_001, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    _, result = L.sgsd_loss(
        student_logps_BT=torch.zeros(1, len(delta), dtype=torch.float64),
        teacher_logps_BKT=delta[None, None] + 1e-3,  # so that the mean is a support
        mask_BT=torch.ones(1, len(delta), dtype=torch.bool),
        weights_BK=one[None],
        outcome_B=one,
        confidence=0.0,
    )
    pull = result.advantages_BT[0]
    best = pull.argmax()
    assert pull[best].item() == pytest.approx(0.393, abs=5e-4)
    assert delta[best].item() == pytest.approx(1.22, abs=0.01)


def test_the_gate_is_bounded_and_keeps_uncertain_and_extreme_gaps_out() -> None:
    gaps = torch.tensor([0.0, 1.0, -1e3])
    values = Bounded().loss(gaps)
    assert values[0] == pytest.approx(0, abs=1e-7)
    assert values[2] == pytest.approx(math.log(2))
    assert Bounded().kept(gaps).tolist() == pytest.approx([0.5, 1 / (1 + math.exp(0.5)), 0.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights_BK": torch.ones(4, 2)}, r"weights_BK has shape \[4, 2\]; it has to be \[B, K\] = \[4, 3\]"),
        ({"mask_BT": torch.ones(4, 8)}, r"mask_BT has shape \[4, 8\]; it has to be \[B, T\] = \[4, 9\]"),
        ({"outcome_B": torch.ones(3)}, r"outcome_B has shape \[3\]; it has to be \[B\] = \[4\]"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        L.sgsd_loss(**{**case(0), **change})


@pytest.mark.parametrize("bad", [{"tau": 0.0}, {"clip": -1.0}, {"confidence": -0.1}])
def test_bounds_are_checked(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        L.sgsd_loss(**case(0), **bad)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
    st.sampled_from([None, 1, 4]),
    st.sampled_from([None, 0.05]),
    st.sampled_from(["token", "vocab"]),
)
def test_jsd_is_its_equation(seed: int, beta: float, top_k: int | None, clip: float | None, level: str) -> None:
    g = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(2, 5, 7, generator=g, dtype=torch.float64) * 2 for _ in range(2))
    mask = torch.rand(2, 5, generator=g) > 0.2
    mask[0, 0] = True
    options = {"beta": beta, "temperature": 1.3, "top_k": top_k, "clip": clip, "clip_level": level}
    value = mean_jsd(student, teacher, mask, **options)
    assert value.item() == pytest.approx(
        jsd_oracle(student.numpy(), teacher.numpy(), mask.numpy(), **options), abs=1e-12
    )


def test_jsd_gradient_by_finite_differences() -> None:
    g = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(2, 3, 5, generator=g, dtype=torch.float64) for _ in range(2))
    mask = torch.ones(2, 3, dtype=torch.bool)
    for beta in (0.0, 0.4, 1.0):
        assert torch.autograd.gradcheck(
            lambda s, b=beta: mean_jsd(s, teacher, mask, beta=b), (student.clone().requires_grad_(),)
        )


def test_vocabulary_clipping_can_reverse_a_logit_gradient() -> None:
    """Why whole-token clipping is the default: clipped entry by entry, a token the teacher prefers is pushed down."""
    student = torch.tensor([[[0.0, 0.0, 0.0]]], dtype=torch.float64)
    teacher = torch.tensor([[[2.0, 0.3, -3.0]]], dtype=torch.float64)
    signs = {}
    for level in ("token", "vocab"):
        logits = student.clone().requires_grad_()
        clip = 0.3 if level == "vocab" else 10.0
        mean_jsd(logits, teacher, torch.ones(1, 1), beta=0.0, clip=clip, clip_level=level).backward()
        signs[level] = logits.grad[0, 0, 0].sign().item()
    assert signs == {"token": -1.0, "vocab": 1.0}


def test_group_advantages() -> None:
    outcome = torch.tensor([1.0, -1.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    group = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    found = group_advantages(outcome_B=outcome, group_B=group)
    rewards = np.array([1.0, -1.0, 1.0])
    expected = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
    np.testing.assert_allclose(found[:3].numpy(), expected, rtol=1e-5)
    # Alone among known outcomes, unknown, and a group that agrees: nothing to learn.
    assert found[3:].tolist() == [0.0, 0.0, 0.0, 0.0]


def test_group_advantages_by_batch_and_unscaled() -> None:
    outcome, group = torch.tensor([1.0, -1.0, -1.0, -1.0]), torch.tensor([0, 0, 1, 1])
    np.testing.assert_allclose(group_advantages(outcome_B=outcome, group_B=group, scale="none").numpy(), [1, -1, 0, 0])
    std = np.array([1.0, -1, -1, -1]).std(ddof=1) + 1e-4
    np.testing.assert_allclose(
        group_advantages(outcome_B=outcome, group_B=group, scale="batch").numpy(), [1 / std, -1 / std, 0, 0], rtol=1e-5
    )


def test_the_policy_gradient_is_clipped_only_where_it_would_go_too_far() -> None:
    old = torch.zeros(2, 3)
    new = torch.tensor([[0.0, 0.5, -0.5], [0.0, 0.5, -0.5]], requires_grad=True)
    L.clipped_policy_losses(
        logps_BT=new, old_logps_BT=old, advantages_BT=torch.tensor([[1.0], [-1.0]])
    ).sum().backward()
    ratio = new.detach().exp()
    assert new.grad[0].tolist() == pytest.approx([-1.0, 0.0, -ratio[0, 2].item()])
    assert new.grad[1].tolist() == pytest.approx([1.0, ratio[1, 1].item(), 0.0])


@pytest.mark.parametrize("confidence", [0.0, 0.05, 0.4])
def test_the_probe_repeats_the_rule_of_the_loss_on_plain_numbers(confidence: float) -> None:
    supports = [-1.0, -0.4, -0.05, -0.01, 0.0, 0.01, 0.05, 0.4, 1.0]
    for outcome in (1, 0, -1):
        stance_K = torch.where(torch.tensor(supports).abs() > confidence, torch.tensor(supports).sign(), 0.0)
        o = ProbedRollout(0, "p", outcome, {"bank": tuple(TeacherSupport(("i",), 1.0, {"raw": a}) for a in supports)})
        found = [seen.polarity for seen in teacher_observations([o], "bank", "raw", confidence)]
        assert found == (outcome * stance_K).tolist()
