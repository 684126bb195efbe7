"""Log-probs as they were sampled, completions that were cut off, and what an outcome's loss can have besides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from resumable import lines
from runs import LORA, run_small, small_config
from sgsd.methods import build
from sgsd.methods.losses import clipped_policy_losses, outcome_token_losses
from sgsd.methods.method import LossInputs, PolicyGradient
from sgsd.scorer import Row, Scorer, collate
from sgsd.scorer.tiles import LogitChange
from sgsd.train.setup import build_run
from sgsd.train.step import update
from sgsd.types import Completion, UserError


@pytest.mark.parametrize("temperature", [0.5, 0.7, 1.0, 1.3, 2.0])
def test_the_scorer_at_a_temperature_is_the_softmax_of_divided_logits(temperature: float, lab_model: Any) -> None:
    row = Row((1, 5, 9, 2), (7, 3, 11))
    scores = Scorer(lab_model, temperature=temperature)(collate([row]), entropy=True)
    ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
    logits = lab_model(input_ids=ids).logits[0, 3:6].double() / temperature
    logps = logits.log_softmax(-1)
    torch.testing.assert_close(
        scores.logps_N.double(), logps[torch.arange(3), list(row.completion_ids)], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(scores.entropy_N.double(), -(logps.exp() * logps).sum(-1), atol=1e-5, rtol=0)


def test_a_cap_is_before_the_temperature() -> None:
    logits = torch.linspace(-90, 90, 19)
    changed = LogitChange(0.5, 30.0).at_temperature(0.7).apply_(logits.clone())
    torch.testing.assert_close(changed, 30 * torch.tanh(0.5 * logits / 30) / 0.7)


@pytest.mark.parametrize("logprobs", ["raw", "processed"])
@pytest.mark.parametrize("temperature", [0.6, 1.4])
def test_sampler_and_trainer_mean_the_same(logprobs: str, temperature: float, tmp_path: Path) -> None:
    sampling = {"temperature": temperature, "max_tokens": 40}
    folder = run_small(tmp_path / "run", steps=2, lora=LORA, sampling=sampling, rollout={"logprobs": logprobs})
    assert all(record["sampler_mismatch"] < 1e-5 for record in lines(folder, "metrics"))


def test_at_temperature_1_the_setting_moves_no_bit(tmp_path: Path) -> None:
    raw, processed = (
        lines(run_small(tmp_path / mode, steps=2, rollout={"logprobs": mode}), "metrics")
        for mode in ("raw", "processed")
    )
    assert raw == processed


def test_the_gradient_is_the_tempered_policys(tmp_path: Path) -> None:
    """GRPO at q = 1: the gradient of A log p_T(y) and not of A log p_1(y)."""
    config = small_config(
        tmp_path,
        method={"name": "grpo", "group": 4, "iterations": 1},
        sampling={"temperature": 0.5, "max_tokens": 40},
        rollout={"logprobs": "processed"},
        optimizer={"max_grad_norm": 1e9},
    )
    run = build_run(config, Accelerator())
    rollouts = run.sampler.sample(1)
    from sgsd.train.batch import build_batch, grade
    from sgsd.train.step import StepMetrics, outcome_advantages, score_teachers

    batch = build_batch(run.contexts, rollouts, grade(run.verifier, rollouts))
    advantages_B = outcome_advantages(run.learner, batch)
    assert advantages_B.abs().max() > 0
    model, loss = run.policy.model, torch.zeros(())
    for rollout, advantage in zip(rollouts, advantages_B):
        ids = torch.tensor([[*rollout.prompt_ids, *rollout.completion.token_ids]])
        at = len(rollout.prompt_ids) - 1
        logps = (model(input_ids=ids).logits[0, at:-1].double() / 0.5).log_softmax(-1)
        own = logps.gather(-1, torch.tensor(rollout.completion.token_ids)[:, None]).mean()
        loss = loss - advantage * own / len(rollouts)
    weight = model.get_output_embeddings().weight
    (expected,) = torch.autograd.grad(loss, weight)
    before = weight.detach().clone()
    seen: list[torch.Tensor] = []
    plain = type(run.policy).step
    type(run.policy).step = lambda policy, lr: seen.append(weight.grad.clone())  # type: ignore[method-assign]
    try:
        update(run.learner, batch, score_teachers(run.learner, batch), StepMetrics(), 1e-3)
    finally:
        type(run.policy).step = plain  # type: ignore[method-assign]
    assert torch.equal(weight, before)
    torch.testing.assert_close(seen[0].double(), expected.double(), atol=1e-5 * float(expected.abs().max()), rtol=1e-4)


@pytest.mark.parametrize(
    ("sampling", "key"),
    [
        ({"top_p": 0.9}, "top_p"),
        ({"top_k": 20}, "top_k"),
        ({"min_p": 0.1}, "min_p"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_what_has_no_log_prob_is_refused_with_the_reason(sampling: dict[str, Any], key: str, tmp_path: Path) -> None:
    small_config(tmp_path, sampling=sampling)
    with pytest.raises(
        UserError, match=rf"sampling\.{key}: .*rollout\.logprobs|sampling\.{key}: with rollout\.logprobs"
    ):
        small_config(tmp_path, sampling=sampling, rollout={"logprobs": "processed"})


# ── Cut-off completions ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "method", [{"name": "sgsd", "k": 2, "confidence": 0.01}, {"name": "grpo", "group": 4}], ids=str
)
def test_cut_off_completions_teach_nothing_where_asked(method: dict[str, Any], tmp_path: Path) -> None:
    changes: dict[str, Any] = {"method": method, "steps": 1, "sampling": {"max_tokens": 22}, "logged_rollouts": 8}
    rows = lines(run_small(tmp_path / "all", **changes), "rollouts")
    masked = lines(run_small(tmp_path / "masked", mask_truncated=True, **changes), "rollouts")
    cut = [len(row["tokens"]) == 22 and not row["completion"].rstrip().endswith("}") for row in rows]
    assert 0 < sum(cut) < len(rows)
    for was_cut, before, after in zip(cut, rows, masked, strict=True):
        assert before["tokens"] == after["tokens"]
        assert any(after["mask"]) is not was_cut
        assert any(before["mask"])


def test_where_nothing_is_cut_off_the_setting_moves_no_bit(tmp_path: Path) -> None:
    first, second = (
        lines(run_small(tmp_path / str(on), steps=2, mask_truncated=on), "metrics") for on in (False, True)
    )
    assert first[0]["truncated"] == 0
    assert first == second


def test_a_mask_is_of_a_whole_completion(tmp_path: Path) -> None:
    learner = build_run(small_config(tmp_path, mask_truncated=True), Accelerator()).learner
    assert learner.token_mask(Completion(0, (5, 6, 7), "", "length")).tolist() == [False] * 3
    assert any(learner.token_mask(Completion(0, (5, 6, 7), "", "stop")).tolist())


# ── Divergence from the start, and the second clip ─────────────────────────────────────────────────────────────────


def test_the_second_clip_bounds_what_a_bad_token_can_weigh() -> None:
    old, new = torch.tensor([[-5.0] * 6]), torch.tensor([[-5.0, -4.9, -4.0, -2.0, -0.1, -9.0]])
    for advantage in (-1.0, 1.0):
        A = torch.full((1, 6), advantage)
        found = clipped_policy_losses(logps_BT=new, old_logps_BT=old, advantages_BT=A, dual_clip=3.0)
        ratio = (new - old).exp().double()
        plain = torch.minimum(ratio * A, ratio.clamp(0.8, 1.2) * A)
        expected = -torch.maximum(plain, 3.0 * A) if advantage < 0 else -plain
        torch.testing.assert_close(found.double(), expected)
        assert found.max() <= 3.0


def test_the_divergence_from_the_start_is_k3_with_its_gradient() -> None:
    torch.manual_seed(0)
    student, ref = torch.randn(2, 5).sub(2).requires_grad_(), torch.randn(2, 1, 5).sub(2)
    method = build("grpo", group=2, kl=0.3)
    inputs = LossInputs(
        mask_BT=torch.ones(2, 5, dtype=torch.bool),
        student_logps_BT=student,
        old_logps_BT=student.detach(),
        outcome_B=torch.tensor([1.0, -1.0]),
        advantages_B=torch.zeros(2),
        weights_BK=torch.ones(2, 1),
        teacher_logps_BKT=ref,
    )
    outputs = outcome_token_losses(inputs, method)
    d = student.detach().double() - ref[:, 0].double()
    torch.testing.assert_close(outputs.losses_BT.double(), 0.3 * ((-d).exp() + d - 1), rtol=1e-5, atol=1e-6)
    outputs.losses_BT.sum().backward()
    torch.testing.assert_close(student.grad.double(), 0.3 * (1 - (-d).exp()), rtol=1e-5, atol=1e-6)


def test_a_run_is_held_near_its_start(tmp_path: Path) -> None:
    def moved(kl: float) -> float:
        changes: dict[str, Any] = {"steps": 6, "rollouts": 16, "optimizer": {"lr": 3e-3}, "lora": LORA}
        folder = run_small(tmp_path / str(kl), method={"name": "grpo", "group": 4, "kl": kl}, **changes)
        from safetensors.torch import load_file

        weights = load_file(folder / "adapter" / "adapter_model.safetensors")
        return sum(float(value.square().sum()) for name, value in weights.items() if "lora_B" in name)

    assert moved(10.0) < 0.9 * moved(0.0)


@pytest.mark.parametrize(
    ("options", "said"), [({"kl": -1.0}, "kl is a share"), ({"dual_clip": 0.5}, "bound on the ratio")]
)
def test_other_values_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build("grpo", **options)
    with pytest.raises(ValueError, match=said):
        PolicyGradient(**options)  # type: ignore[arg-type]


def test_a_thinking_teacher_is_no_reference(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"prompts\.teacher_thinking: method\.kl compares"):
        small_config(tmp_path, method={"name": "grpo", "group": 4, "kl": 0.1}, prompts={"teacher_thinking": True})
