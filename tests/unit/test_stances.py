"""Calibrated stances: the equations once more in float64 NumPy, what they do to the bias, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle import polarity, sgsd_oracle
from runs import small_config
from sgsd import contexts as C
from sgsd.methods import build
from sgsd.methods import losses as L
from sgsd.methods import stances as S
from sgsd.methods.averages import masked_mean
from sgsd.methods.gates import Bounded, NoGate
from sgsd.methods.method import LossInputs, LossOutputs, Method, Uniform
from sgsd.methods.objectives import MatchDistribution
from sgsd.types import UserError

KINDS: tuple[S.StanceKind, ...] = ("raw", "contrast", "ratio")


def outputs_of(method: Method, inputs: LossInputs) -> LossOutputs:
    return method.objective.loss(inputs, method)


def support_oracle(kind: str, gap: np.ndarray, null_gap: np.ndarray, clip: float) -> float:
    """Of one teacher on one rollout, over the tokens that count."""
    if not gap.size:
        return 0.0
    if kind == "ratio":
        return float(np.mean([np.exp(min(max(g, -clip), clip)) - 1.0 for g in gap]))
    moved = gap - null_gap if kind == "contrast" else gap
    return float(np.mean([min(max(g, -clip), clip) for g in moved]))


def evidence(seed: int, B: int = 4, K: int = 3, T: int = 9) -> LossInputs:
    g = torch.Generator().manual_seed(seed)
    student = -torch.rand(B, T, generator=g, dtype=torch.float64) * 3
    return LossInputs(
        mask_BT=torch.rand(B, T, generator=g) > 0.3,
        student_logps_BT=student.clone().requires_grad_(),
        old_logps_BT=student,
        outcome_B=torch.randint(-1, 2, (B,), generator=g).double(),
        advantages_B=torch.zeros(B, dtype=torch.float64),
        weights_BK=torch.rand(B, K, generator=g, dtype=torch.float64).softmax(-1),
        teacher_logps_BKT=student[:, None] + 1.5 * torch.randn(B, K, T, generator=g, dtype=torch.float64),
        null_logps_BT=student + torch.randn(B, T, generator=g, dtype=torch.float64),
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.floats(0.2, 4), st.floats(0, 0.5))
def test_every_stance_is_its_equation(seed: int, kind: S.StanceKind, clip: float, confidence: float) -> None:
    e = evidence(seed)
    judged = outputs_of(build("sgsd", k=3, clip=clip, confidence=confidence, stance=kind), e)
    student, mask, outcome = e.student_logps_BT.detach().numpy(), e.mask_BT.numpy(), e.outcome_B.numpy()
    assert e.teacher_logps_BKT is not None
    assert e.null_logps_BT is not None
    for b in range(4):
        null_gap = (e.null_logps_BT[b].numpy() - student[b])[mask[b]]
        for k in range(3):
            gap = (e.teacher_logps_BKT[b, k].numpy() - student[b])[mask[b]]
            expected = support_oracle(kind, gap, null_gap, clip)
            assert judged.support_BK[b, k].item() == pytest.approx(expected, abs=1e-12)
            if abs(abs(expected) - confidence) < 1e-9:
                continue  # the last bits decide on which side of the threshold it falls
            assert judged.polarity_BK[b, k].item() == polarity(expected, outcome[b], confidence)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_the_gate_keeps_the_gap_whatever_the_stance(seed: int) -> None:
    e = evidence(seed)
    raw = outputs_of(build("sgsd", k=3), e)
    assert raw.polarity_BK is not None
    for kind in KINDS:
        judged = outputs_of(build("sgsd", k=3, stance=kind), e)
        assert torch.equal(judged.delta_BKT, raw.delta_BKT)
        assert torch.equal(judged.gate_BKT, raw.gate_BKT)
        same = judged.polarity_BK == raw.polarity_BK
        expected = L.sum_teachers(e.weights_BK * judged.polarity_BK, Bounded().loss(raw.delta_BKT))
        assert torch.equal(judged.losses_BT.detach(), expected)
        if same.all():
            assert torch.equal(judged.losses_BT, raw.losses_BT)


def test_the_null_teacher_is_no_part_of_the_gradient() -> None:
    e = evidence(5)
    assert e.null_logps_BT is not None
    e = replace(e, null_logps_BT=e.null_logps_BT.requires_grad_())
    judged = outputs_of(build("sgsd", k=3, stance="contrast"), e)
    (grad,) = torch.autograd.grad(judged.losses_BT.sum(), e.student_logps_BT, retain_graph=True)
    torch.testing.assert_close(grad[e.mask_BT], -judged.advantages_BT[e.mask_BT])
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        torch.autograd.grad(judged.losses_BT.sum(), e.null_logps_BT)


def test_raw_is_untouched_by_a_null_teacher_and_equals_the_published_loss() -> None:
    e = evidence(3)
    with_null, without = (
        outputs_of(build("sgsd", k=3), e),
        outputs_of(build("sgsd", k=3), replace(e, null_logps_BT=None)),
    )
    assert torch.equal(with_null.losses_BT, without.losses_BT)
    plain = [
        t.detach().numpy() for t in (e.student_logps_BT, e.teacher_logps_BKT, e.mask_BT, e.weights_BK, e.outcome_B)
    ]
    loss, _ = sgsd_oracle(*plain, tau=1.0, clip=3.0, confidence=0.05)
    by_rollout = masked_mean(without.losses_BT, e.mask_BT).mean()
    assert by_rollout.item() == pytest.approx(loss, rel=1e-9)


def test_what_all_teachers_share_drops_out_of_a_contrast_and_of_nothing_else() -> None:
    """A template that costs a third of a nat a token turns every raw stance to "suppress"."""
    e = evidence(7)
    mode = torch.full_like(e.old_logps_BT, -1 / 3)
    assert e.teacher_logps_BKT is not None
    assert e.null_logps_BT is not None
    shifted = replace(e, teacher_logps_BKT=e.teacher_logps_BKT + mode[:, None], null_logps_BT=e.null_logps_BT + mode)
    for kind in KINDS:
        method = build("sgsd", k=3, clip=9.0, stance=kind)
        moved = outputs_of(method, shifted).support_BK - outputs_of(method, e).support_BK
        assert torch.allclose(moved, torch.zeros_like(moved), atol=1e-12) == (kind == "contrast")


def test_on_the_students_own_samples_the_ratio_has_hardly_any_bias() -> None:
    rng = np.random.default_rng(0)
    logits_V = torch.from_numpy(rng.normal(size=50))
    teacher_V = (logits_V + torch.from_numpy(rng.normal(size=50))).log_softmax(-1)
    student_V = logits_V.log_softmax(-1)
    tokens_T = torch.from_numpy(rng.choice(50, size=40_000, p=student_V.exp().numpy() / student_V.exp().sum().item()))
    delta_11T = (teacher_V - student_V)[tokens_T][None, None]
    mask_1T = torch.ones(1, len(tokens_T), dtype=torch.bool)
    kl = (student_V.exp() * (student_V - teacher_V)).sum().item()
    assert S.VerifiedSupport(clip=3.0).support(delta_11T, mask_1T).item() == pytest.approx(-kl, abs=0.02)
    assert kl > 0.3
    assert abs(S.VerifiedSupport(clip=3.0, kind="ratio").support(delta_11T, mask_1T).item()) < 0.02
    clipped_ratio = delta_11T.exp().clamp(max=2.0) - 1  # the clip on the wrong side of the exponential
    assert clipped_ratio.mean().item() < -0.08


def test_a_teacher_that_was_left_out_takes_no_stance_by_any_kind() -> None:
    e = evidence(2)
    assert e.teacher_logps_BKT is not None
    present = torch.tensor([[True, False, True]] * 4)
    silent = torch.where(present[:, :, None], e.teacher_logps_BKT, e.old_logps_BT[:, None])
    e = replace(e, teacher_logps_BKT=silent, present_BK=present, outcome_B=torch.ones(4, dtype=torch.float64))
    for kind in KINDS:
        judged = outputs_of(build("sgsd", k=3, stance=kind, confidence=0.0), e)
        assert judged.stance_BK[:, 1].tolist() == [0.0] * 4
        assert judged.stance_BK[:, 0].abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {"stance": S.VerifiedSupport(kind="contrast"), "context": C.Answer(), "weights": Uniform()},
            "irrelevant skill",
        ),
        (
            {"stance": S.VerifiedSupport(kind="ratio"), "context": C.NoContext(), "weights": Uniform()},
            "needs a context",
        ),
        (
            {"stance": S.VerifiedSupport(kind="contrast"), "objective": MatchDistribution(), "gate": NoGate()},
            "without a gate has no bound",
        ),
    ],
)
def test_stances_that_do_not_go_with_the_rest_say_why(change: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Method(**{**vars(build("sgsd")), **change})


def test_a_ratio_of_an_answers_teacher_is_a_method() -> None:
    answer = {"context": C.Answer(), "weights": Uniform(), "stance": S.VerifiedSupport(kind="ratio")}
    assert not Method(**{**vars(build("sgsd")), **answer}).stance.needs_null


def test_stances_that_mean_nothing_are_refused_when_the_config_is_read(tmp_path: Any) -> None:
    with pytest.raises(UserError, match=r"method\.stance: input should be 'raw', 'contrast' or 'ratio', not 'odds'"):
        small_config(tmp_path, method={"name": "sgsd", "stance": "odds"})
    with pytest.raises(UserError, match="one token would weigh e\\^11; use clip ≤ 10"):
        small_config(tmp_path, method={"name": "sgsd", "stance": "ratio", "clip": 11.0})
    with pytest.raises(ValueError, match="raw, contrast or ratio, not 'odds'"):
        S.VerifiedSupport(kind="odds")  # type: ignore[arg-type]
    assert small_config(tmp_path, method={"name": "sgsd"}).method["stance"] == "raw"


def test_the_gate_that_is_told_of_is_the_one_that_acted() -> None:
    """On distributions the gate holds back large divergences, however large the gap of the sampled token is."""
    e = replace(evidence(3), divergence_BKT=torch.full((4, 3, 9), 0.1, dtype=torch.float64))
    judged = outputs_of(build("sgsd_distribution", k=3), e)
    assert judged.delta_BKT is not None
    assert judged.delta_BKT.abs().max() > 1
    assert judged.gate_BKT is not None
    assert judged.gate_BKT.numpy() == pytest.approx(1 / (1 + np.exp(0.1**2 / 2)))  # σ(−Δ²/2τ) at τ = 1
