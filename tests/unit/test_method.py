"""Methods: declared, built by name, refused where components do not fit, and equal to their objectives."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sgsd import contexts as C
from sgsd.methods import RECIPES, build, registry, sgsd_loss
from sgsd.methods.averages import token_weights
from sgsd.methods.method import LossInputs, LossOutputs, Method, PolicyGradient, Reduce
from sgsd.methods.objectives import MatchSampledToken
from sgsd.types import UserError


def outputs_of(method: Method, inputs: LossInputs) -> LossOutputs:
    return method.objective.loss(inputs, method)


def evidence(seed: int = 0, B: int = 5, K: int = 3, T: int = 8) -> LossInputs:
    g = torch.Generator().manual_seed(seed)
    student = -torch.rand(B, T, generator=g) * 2
    return LossInputs(
        mask_BT=torch.arange(T)[None] < torch.randint(1, T + 1, (B, 1), generator=g),
        student_logps_BT=student.clone().requires_grad_(),
        old_logps_BT=student,
        outcome_B=torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0]),
        advantages_B=torch.randn(B, generator=g),
        weights_BK=torch.rand(B, K, generator=g).softmax(-1),
        teacher_logps_BKT=student[:, None] + torch.randn(B, K, T, generator=g),
    )


def weighted(method: Method, e: LossInputs) -> torch.Tensor:
    tokens = int(e.mask_BT.sum())
    shares = token_weights(e.mask_BT, method.reduce, rollouts=5, tokens=tokens, max_tokens=8)
    return (shares * outputs_of(method, e).losses_BT).sum()


def test_the_declared_sgsd_is_the_published_loss() -> None:
    e = evidence()
    assert e.teacher_logps_BKT is not None
    loss, direct = sgsd_loss(
        student_logps_BT=e.student_logps_BT,
        teacher_logps_BKT=e.teacher_logps_BKT,
        mask_BT=e.mask_BT,
        weights_BK=e.weights_BK,
        outcome_B=e.outcome_B,
    )
    assert weighted(build("sgsd"), e).item() == pytest.approx(loss.item(), rel=1e-6)
    judged = outputs_of(build("sgsd"), e)
    assert torch.equal(judged.polarity_BK, direct.polarity_BK)
    assert torch.equal(judged.advantages_BT, direct.advantages_BT)


def test_micro_batches_add_up_to_the_step() -> None:
    e, method = evidence(), build("sgsd")
    whole = weighted(method, e)
    parts = 0.0
    for rows in (slice(0, 2), slice(2, 5)):
        piece = LossInputs(**{k: None if v is None else v[rows] for k, v in vars(e).items()})
        parts += weighted(method, piece).item()
    assert parts == pytest.approx(whole.item(), rel=1e-6)


def test_grpo_follows_the_outcome_advantage() -> None:
    e, method = evidence(), build("grpo")
    weighted(method, e).backward()
    expected = -e.advantages_B[:, None] * e.mask_BT / (5 * e.mask_BT.sum(-1, keepdim=True))
    torch.testing.assert_close(e.student_logps_BT.grad, expected)


def test_opsd_averages_the_divergence_over_tokens() -> None:
    e, method = evidence(), build("opsd")
    divergence = torch.rand(5, 1, 8)
    e = LossInputs(**{**vars(e), "weights_BK": torch.ones(5, 1), "divergence_BKT": divergence})
    expected = divergence[:, 0][e.mask_BT].mean().item()
    assert weighted(method, e).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("reduce", ["rollout", "token", "fixed"])
def test_token_shares(reduce: Reduce) -> None:
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).bool()
    shares = token_weights(mask, reduce, rollouts=3, tokens=6, max_tokens=10)
    assert shares[0, 0].item() == pytest.approx({"rollout": 1 / 6, "token": 1 / 6, "fixed": 1 / 30}[reduce])
    assert shares[1, 0].item() == pytest.approx({"rollout": 1 / 12, "token": 1 / 6, "fixed": 1 / 30}[reduce])
    assert not shares[~mask].any()


def test_a_misspelt_method_or_option_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'sgsd'"):
        build("sgds")
    with pytest.raises(UserError, match="did you mean 'confidence'"):
        build("sgsd", confidense=1)
    with pytest.raises(UserError, match="cannot be imported"):
        build("no_such_module:thing")


def test_what_a_context_shows_of_the_reference() -> None:
    assert build("sgsd").context == C.SkillPairs(8)
    both = build("sgsd", k=4, also="answer").context
    assert both == C.Joined((C.SkillPairs(4), C.Answer("answer")))
    assert both.teachers == 4
    answers = {name: build(name).part(C.Answer) for name in ("sgsd", "grpo", "opsd")}
    assert answers == {"sgsd": None, "grpo": None, "opsd": C.Answer("solution_or_answer")}


def test_a_solution_that_is_to_be_shown_needs_its_column() -> None:
    from sgsd.train import make_config

    data = {"path": "problems.jsonl"}
    for method in ({"name": "opsd", "show": "solution"}, {"name": "sgsd", "also": "solution"}):
        raw = {"method": method, "bank": {"path": "lab"}, "data": data}
        with pytest.raises(UserError, match=r"data\.solution: .* shows the reference solution; name its column"):
            make_config(raw)
        make_config({**raw, "data": {**data, "solution": "worked"}})
    with pytest.raises(UserError, match=r"method\.also: input should be 'answer', 'solution' or 'solution_or_answer'"):
        make_config({"method": {"name": "sgsd", "also": "hint"}, "bank": {"path": "lab"}})


def test_a_method_of_ones_own_by_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flat_method.py").write_text(
        "from dataclasses import replace\nfrom sgsd.methods import build\nfrom sgsd.methods.method import Uniform\n"
        "def flat(k: int = 2):\n    return replace(build('sgsd', k=k), name='flat', weights=Uniform())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert build("flat_method:flat", k=3).context == C.SkillPairs(3)


@pytest.mark.parametrize("name", ["losses", "advantages", "averages"])
def test_the_maths_imports_torch_and_its_own_room_only(name: str) -> None:
    allowed = {"__future__", "collections", "math", "dataclasses", "typing", "torch", "sgsd"}
    imported = _imports(Path(registry.__file__).with_name(f"{name}.py"))
    assert {found.split(".")[0] for found in imported} <= allowed
    assert all(found.startswith("sgsd.methods.") for found in imported if found.startswith("sgsd"))


def test_declarations_need_no_torch() -> None:
    """A config is read and a method is made before anything heavy is imported."""
    code = "import sys, sgsd.methods as m; [m.build(name) for name in m.RECIPES]; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert registry.RECIPES is RECIPES


def test_words_of_before_are_still_read() -> None:
    with pytest.warns(DeprecationWarning, match=r"^Method\(direction=…\) is now Method\(objective=…\)$"):
        old = Method(name="old", context=C.Answer(), direction=MatchSampledToken())  # type: ignore[call-arg]
    assert old == Method(name="old", context=C.Answer(), objective=MatchSampledToken())
    with pytest.warns(DeprecationWarning, match=r"Method\(student_context=…\)"):
        Method(**{**vars(old), "inject": C.SkillPairs(2)})
    with pytest.raises(TypeError, match="outcomes"):
        Method(name="m", context=C.Answer(), objective=MatchSampledToken(), outcomes=PolicyGradient())  # type: ignore[call-arg]


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found
