"""Every method of the zoo: a few declarative lines whose loss is that of an independent float64 oracle."""

from __future__ import annotations

import ast
import inspect
import textwrap

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sgsd.methods import RECIPES, build
from sgsd.methods.advantages import outcome_advantages
from sgsd.methods.averages import token_weights
from sgsd.methods.method import LossInputs, LossOutputs, Method
from sgsd.methods.objectives import MatchDistribution
from zoo_oracle import ORACLES, Case, total

SMALL = {"sdpo": {"top_k": 4}, "rcsd": {"top_k": 4}}  # of eleven words


def make(name: str) -> Method:
    return build(name, **SMALL.get(name, {}))


def outputs_of(method: Method, inputs: LossInputs) -> LossOutputs:
    return method.objective.loss(inputs, method)


def make_case(seed: int, teachers: int, B: int = 6, T: int = 7, V: int = 11) -> Case:
    draw = np.random.default_rng(seed)
    student = draw.normal(size=(B, T, V)) * 1.5
    tokens = draw.integers(0, V, (B, T))
    logps = np.take_along_axis(student - np.log(np.exp(student).sum(-1, keepdims=True)), tokens[..., None], -1)[..., 0]
    mask = draw.random((B, T)) > 0.25
    mask[:, 0] = True  # a rollout of no tokens has no mean to compare
    weights = draw.random((B, max(1, teachers)))
    return Case(
        student=student,
        old=logps + 0.3 * draw.normal(size=(B, T)),
        teachers=student[:, None] + draw.normal(size=(B, max(1, teachers), T, V)),
        null=logps + 0.5 * draw.normal(size=(B, T)),
        tokens=tokens,
        mask=mask,
        weights=weights / weights.sum(-1, keepdims=True),
        outcome=np.array([1.0, -1.0, 1.0, -1.0, -1.0, 0.0]),
        group=np.array([0, 0, 0, 1, 1, 1]),
        trust=draw.uniform(-1, 1, (B, max(1, teachers))),
    )


def evidence(case: Case, method: Method) -> LossInputs:
    student = torch.tensor(case.student, requires_grad=True)
    teachers, tokens = torch.tensor(case.teachers), torch.tensor(case.tokens)
    log_s = F.log_softmax(student, -1)
    said_BKT = F.log_softmax(teachers, -1).gather(-1, tokens[:, None, :, None].expand(*teachers.shape[:3], 1))[..., 0]
    outcome = torch.tensor(case.outcome)
    divergence = None
    if isinstance(method.objective, MatchDistribution):
        divergence = torch.stack([method.objective.divergence(student, teacher) for teacher in teachers.unbind(1)], 1)
    return LossInputs(
        mask_BT=torch.tensor(case.mask),
        student_logps_BT=log_s.gather(-1, tokens[..., None])[..., 0],
        old_logps_BT=torch.tensor(case.old),
        outcome_B=outcome,
        advantages_B=outcome_advantages(method, outcome, torch.tensor(case.group)).double(),
        weights_BK=torch.tensor(case.weights),
        teacher_logps_BKT=said_BKT if method.reads_tokens else None,
        null_logps_BT=torch.tensor(case.null) if method.stance.needs_null else None,
        divergence_BKT=divergence,
        entropy_BT=-(log_s.exp() * log_s).sum(-1).detach(),
        trust_BK=torch.tensor(case.trust) if method.stance.needs_trust else None,
    )


def loss_of(case: Case, method: Method) -> torch.Tensor:
    e = evidence(case, method)
    tokens, B = int(case.mask.sum()), len(case.outcome)
    shares = token_weights(e.mask_BT, method.reduce, rollouts=B, tokens=tokens, max_tokens=9).double()
    return (shares * outputs_of(method, e).losses_BT).sum()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_loss_is_the_oracles(name: str, seed: int) -> None:
    method = make(name)
    case = make_case(seed, method.context.teachers)
    token, reduce = ORACLES[name]
    assert method.reduce == reduce
    expected = total(case, token, reduce)
    assert abs(expected) > 1e-4, "an empty loss would agree with anything"
    # Shares and advantages pass through float32, which a sum that nearly cancels shows.
    assert loss_of(case, method).item() == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_the_oracle_can_disagree() -> None:
    case = make_case(0, 8)
    token, reduce = ORACLES["sgsd"]
    assert loss_of(case, build("sgsd", tau=1.01)).item() != pytest.approx(total(case, token, reduce), rel=1e-4)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_advantages_are_the_gradient_where_the_policy_is_the_sampler(name: str) -> None:
    method = make(name)
    case = make_case(5, method.context.teachers)
    e = evidence(case, method)
    logps = e.student_logps_BT.detach().requires_grad_()
    e = LossInputs(**{**vars(e), "student_logps_BT": logps, "old_logps_BT": logps.detach()})
    judged = outputs_of(method, e)
    if judged.advantages_BT is None:
        assert isinstance(method.objective, MatchDistribution)
        return
    (gradient,) = torch.autograd.grad((judged.losses_BT * e.mask_BT).sum(), logps)
    torch.testing.assert_close(judged.advantages_BT * e.mask_BT, -gradient, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_zoo_entry_is_a_few_declarative_lines(name: str) -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(RECIPES[name])))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) in MAKERS]
    assert len(calls) == 1
    assert len(calls[0].keywords) <= 12
    assert len(tree.body[0].body) <= 3  # type: ignore[attr-defined]  # docstring, at most one name, return
    assert make(name).paper


MAKERS = ("Method", "replace")
