"""Divergences a tile of tokens at a time, against the plain ones over whole logits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from head_cases import SIZE, TRAINS, Spy, assert_same_with_narrow_operands, gradients, problem, relative_error
from torch import Tensor
from torch.nn.functional import linear

from sgsd.scorer import divergence as divergence_module
from sgsd.scorer.divergence import tiled_divergence
from sgsd.scorer.tiles import LogitChange


def jsd(student_nV: Tensor, teacher_nV: Tensor, beta: float = 0.3) -> Tensor:
    """Generalised Jensen–Shannon divergence, a stand-in for what a method gives."""
    log_s, log_t = student_nV.log_softmax(-1), teacher_nV.log_softmax(-1)
    log_m = torch.logaddexp(log_s + math.log(1 - beta), log_t + math.log(beta))
    to_teacher = (log_t.exp() * (log_t - log_m)).sum(-1)
    return beta * to_teacher + (1 - beta) * (log_s.exp() * (log_s - log_m)).sum(-1)


def pair(n: int, v: int, dtype: torch.dtype = torch.float32) -> tuple[list[Any], list[Any]]:
    """Student and teacher as [hidden, weight, bias]; the teacher is wider."""
    return list(problem(n, 6, v, dtype=dtype)[:3]), list(problem(n, 9, v, seed=1, dtype=dtype)[:3])


def direct_jsd(student: list[Any], teacher: list[Any]) -> Tensor:
    def logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear(hidden.double(), weight.double(), None if bias is None else bias.double())

    return jsd(logits(*student), logits(*teacher))


@pytest.mark.parametrize("trains", TRAINS)
def test_divergence_values_and_gradients_equal_the_direct_ones(trains: list[bool]) -> None:
    student, teacher = pair(23, 31)

    def ours(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        t_hidden, t_weight, t_bias = teacher
        return tiled_divergence(
            h,
            t_hidden,
            w,
            t_weight,
            jsd,
            student_bias_V=b,
            teacher_bias_V=t_bias,
            max_elements=4 * 31 + 5,
        )

    values = ours(*student)
    assert values.dtype == torch.float32
    assert not values.requires_grad
    assert float((values - direct_jsd(student, teacher)).abs().max()) <= 1e-5
    found = gradients(ours, student, trains)
    expected = gradients(lambda *leaves: direct_jsd(list(leaves), teacher), student, trains)
    for mine, plain, wanted in zip(found, expected, trains):
        if wanted:
            assert relative_error(mine, plain) <= 1e-5
        else:
            assert mine is None


@pytest.mark.parametrize("trains", TRAINS)
def test_a_divergence_is_of_the_logits_as_the_models_change_them(trains: list[bool]) -> None:
    student, (t_hidden, t_weight, t_bias) = pair(23, 31)

    def changed(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return 1.5 * torch.tanh(0.7 * linear(hidden.double(), weight.double(), bias.double()) / 1.5)

    def ours(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return tiled_divergence(
            *(h, t_hidden, w, t_weight, jsd),
            student_bias_V=b,
            teacher_bias_V=t_bias,
            change=LogitChange(0.7, 1.5),
            max_elements=4 * 31 + 5,
        )

    def plain(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return jsd(changed(h, w, b), changed(t_hidden, t_weight, t_bias))

    assert float((ours(*student) - plain(*student)).abs().max()) <= 1e-5
    assert float((plain(*student) - direct_jsd(student, [t_hidden, t_weight, t_bias])).abs().max()) > 0.1
    for mine, expected, wants in zip(gradients(ours, student, trains), gradients(plain, student, trains), trains):
        if wants:
            assert relative_error(mine, expected) <= 1e-5


def test_divergence_gradcheck_in_double_precision() -> None:
    student, teacher = pair(4, 5, torch.float64)
    leaves = [t.requires_grad_() for t in student if t is not None]

    def ours(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return tiled_divergence(h, teacher[0], w, teacher[1], jsd, student_bias_V=b, max_elements=10)

    assert torch.autograd.gradcheck(ours, leaves)


def test_the_teacher_of_a_divergence_gets_no_gradient() -> None:
    student, teacher = pair(3, 5)
    tensors = [t.requires_grad_() for t in (student[0], teacher[0], teacher[1]) if t is not None]
    tiled_divergence(tensors[0], tensors[1], student[1], tensors[2], jsd).sum().backward()
    assert tensors[0].grad is not None
    assert tensors[1].grad is None
    assert tensors[2].grad is None


def test_divergence_of_a_bfloat16_head_sees_float32_logits() -> None:
    student, teacher = pair(12, 40, torch.bfloat16)
    seen: list[torch.dtype] = []

    def divergence(student_nV: Tensor, teacher_nV: Tensor) -> Tensor:
        seen.extend((student_nV.dtype, teacher_nV.dtype, (student_nV[:, :1] @ teacher_nV[:1]).dtype))
        return jsd(student_nV, teacher_nV)

    with torch.autocast("cpu", torch.bfloat16):
        values = tiled_divergence(student[0], teacher[0], student[1], teacher[1], divergence)
    assert set(seen) == {torch.float32}
    expected = direct_jsd([*student[:2], None], [*teacher[:2], None])
    assert float((values - expected).abs().max()) <= 1e-5


@pytest.mark.parametrize("trained", [False, True], ids=["frozen-head", "trained-head"])
def test_divergence_keeps_its_budget_and_a_frozen_head_needs_no_product_in_backward(
    trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, d, v = SIZE
    monkeypatch.setattr(divergence_module, "VOCAB_TILE", 100)
    hidden, weight, _, _ = problem(n, d, v)
    hidden.requires_grad_()
    weight.requires_grad_(trained)
    teacher = hidden.detach().flip(0)
    with Spy() as forward:
        values = tiled_divergence(hidden, teacher, weight, weight, jsd, max_elements=10 * v)
    with Spy() as backward:
        values.sum().backward()
    assert max(forward.largest, backward.largest) <= 10 * v
    assert forward.passes(n, d, v) == (2 if trained else 3)
    assert backward.passes(n, d, v) == (4 if trained else 0)


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen-head", "trained-head"])
def test_operands_that_stay_narrow_give_the_same_within_their_rounding(
    frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = pair(12, 40, torch.bfloat16)

    def ours(h: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return tiled_divergence(h, teacher[0], w, teacher[1], jsd, student_bias_V=b, max_elements=5 * 40)

    assert_same_with_narrow_operands(ours, student, [True, not frozen, not frozen], monkeypatch)


def test_divergence_of_no_tokens() -> None:
    student, teacher = pair(0, 5)
    found = gradients(
        lambda h, w, b: tiled_divergence(h, teacher[0], w, teacher[1], jsd),
        student,
        [True, True, False],
    )
    assert found[0] is not None
    assert found[0].shape == (0, 6)


def test_divergences_that_break_the_contract_are_refused() -> None:
    (hidden, weight, _), (t_hidden, t_weight, _) = pair(4, 5)
    assert hidden is not None
    hidden.requires_grad_()
    good = (hidden, t_hidden, weight, t_weight)
    with pytest.raises(ValueError, match=r"returned shape \[\] for 4 tokens"):
        tiled_divergence(*good, lambda s, t: jsd(s, t).sum())
    with pytest.raises(ValueError, match="does not depend on the student"):
        tiled_divergence(*good, lambda s, t: jsd(t, t))
    with pytest.raises(ValueError, match=r"\[4, 5\] for the student, \[3, 5\] for the teacher"):
        tiled_divergence(hidden, t_hidden[:3], weight, t_weight, jsd)
    with pytest.raises(ValueError, match="max_elements is 0"):
        tiled_divergence(*good, jsd, max_elements=0)


def kl_and_gap(student_nV: Tensor, teacher_nV: Tensor, sampled_n: Tensor) -> Tensor:
    """A divergence, and the gap of the sampled token beside it."""
    gap_nV = (teacher_nV.log_softmax(-1) - student_nV.log_softmax(-1)).detach()
    return torch.stack([jsd(student_nV, teacher_nV), gap_nV.gather(1, sampled_n[:, None])[:, 0]])


@pytest.mark.parametrize("trains", TRAINS)
def test_a_figure_of_the_sampled_token_comes_beside_the_values_and_has_no_gradient(trains: list[bool]) -> None:
    student, (t_hidden, t_weight, t_bias) = pair(23, 31)
    sampled_N = torch.arange(23)

    def ours(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        found = tiled_divergence(
            h,
            t_hidden,
            w,
            t_weight,
            kl_and_gap,
            student_bias_V=b,
            teacher_bias_V=t_bias,
            sampled_N=sampled_N,
            max_elements=4 * 31 + 5,
        )
        logits = [linear(x, y, z) for x, y, z in ((h, w, b), (t_hidden, t_weight, t_bias))]
        torch.testing.assert_close(found.detach(), kl_and_gap(*logits, sampled_N).detach(), atol=1e-5, rtol=1e-4)
        return found[0] + found[1]

    found = gradients(ours, student, trains)
    expected = gradients(lambda *leaves: direct_jsd(list(leaves), [t_hidden, t_weight, t_bias]), student, trains)
    for mine, plain, wanted in zip(found, expected, trains):
        assert relative_error(mine, plain) <= 1e-5 if wanted else mine is None
