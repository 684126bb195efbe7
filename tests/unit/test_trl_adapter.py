"""The adapter for TRL without TRL: scale, refusals, and the advantages of rollouts."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from runs import SMALL, small_config
from sgsd.contexts import Answer, ReasonFirst
from sgsd.integrations.method_adapter import MethodAdapter, adapter_config
from sgsd.integrations.trl_terms import REDUCE_OF, TESTED, advantage_scale, check_arguments, checked_trl
from sgsd.methods import Method, build
from sgsd.methods.averages import token_weights
from sgsd.records.metrics import StepMetrics
from sgsd.train.batch import build_batch, grade
from sgsd.train.setup import build_run
from sgsd.train.step import score_teachers, update
from sgsd.types import Status, UserError, Verdict

SGSD = {"name": "sgsd", "k": 2, "confidence": 0.01}
SETTINGS = {key: SMALL[key] for key in ("bank", "prompts", "data", "compute")}
GOOD = {
    "temperature": 1.0,
    "loss_type": "dapo",
    "gradient_accumulation_steps": 2,
    "steps_per_generation": 2,
    "world_size": 1,
    "generation_batch_size": 8,
    "num_generations": 4,
    "importance_sampling_level": "token",
    "num_iterations": 1,
    "epsilon": 0.2,
    "epsilon_high": None,
}

masks = st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=5, max_size=5), min_size=1, max_size=4)


@given(masks, st.sampled_from(["rollout", "token", "fixed"]), st.sampled_from(sorted(REDUCE_OF)))
def test_the_scale_turns_their_average_into_ours(drawn: Any, reduce: Any, loss_type: str) -> None:
    theirs_BT, kept_BT = torch.tensor(drawn).unbind(-1)
    ours_BT = theirs_BT & kept_BT
    rollouts, max_tokens = len(drawn), 7
    our_tokens, their_tokens = int(ours_BT.sum()), int(theirs_BT.sum())
    scale_BT = advantage_scale(
        ours_BT,
        theirs_BT,
        reduce=reduce,
        loss_type=loss_type,
        rollouts=rollouts,
        our_tokens=our_tokens,
        their_tokens=their_tokens,
        max_tokens=max_tokens,
    )
    # TRL's formulas, as its loss spells them out.
    m, tokens_B1 = theirs_BT.float(), theirs_BT.sum(-1, keepdim=True).clamp(min=1)
    theirs = {
        "grpo": m / tokens_B1 / rollouts,
        "dapo": m / max(1, their_tokens),
        "bnpo": m / max(1, their_tokens),
        "dr_grpo": m / (rollouts * max_tokens),
    }[loss_type]
    wanted = token_weights(ours_BT, reduce, rollouts=rollouts, tokens=our_tokens, max_tokens=max_tokens)
    torch.testing.assert_close(scale_BT * theirs, wanted)
    assert not scale_BT[~ours_BT].any()


def test_the_same_average_of_the_same_tokens_needs_no_scale() -> None:
    mask_BT = torch.tensor([[True, True, False], [True, False, False]])
    for loss_type, reduce in REDUCE_OF.items():
        numbers: dict[str, Any] = {"rollouts": 2, "our_tokens": 3, "their_tokens": 3, "max_tokens": 5}
        scale_BT = advantage_scale(mask_BT, mask_BT, reduce=reduce, loss_type=loss_type, **numbers)
        assert torch.equal(scale_BT, mask_BT.float())


@pytest.mark.parametrize("found", ["1.15.0", "1.16.1", "1.17.0.dev0", None])
def test_another_version_is_refused_by_name(found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        assert name == "trl"
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(UserError, match=rf"^trl{f' {found}' if found else ''}: .*pip install trl=={TESTED}") as refusal:
        checked_trl()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"temperature": 0.9}, r"temperature: TRL's loss divides the logits by 0\.9"),
        ({"loss_type": "cispo"}, "loss_type: cispo is not one of grpo, dapo, bnpo, dr_grpo"),
        ({"loss_type": "bnpo"}, "loss_type: bnpo averages over each micro-batch"),
        ({"importance_sampling_level": "sequence"}, "importance_sampling_level: sequence mixes"),
        ({"steps_per_generation": 4}, "steps_per_generation: is 4; leave it at gradient_accumulation_steps, 2"),
        ({"num_iterations": 2}, "num_iterations: is 2, the method's iterations 1"),
        ({"epsilon_high": 0.28}, r"epsilon, epsilon_high: are \(0\.2, 0\.28\), the method's \(0\.2, 0\.2\)"),
    ],
)
def test_arguments_that_change_the_gradient_are_refused(changes: dict[str, Any], said: str) -> None:
    method = build("grpo", iterations=1)
    check_arguments(SimpleNamespace(**GOOD), method)
    with pytest.raises(UserError, match=rf"^GRPOConfig\.{said}"):
        check_arguments(SimpleNamespace(**{**GOOD, **changes}), method)


def test_what_is_no_matter_to_a_method_is_left_to_trl() -> None:
    check_arguments(SimpleNamespace(**{**GOOD, "epsilon_high": 0.28}), build("sgsd"))
    alone = {**GOOD, "loss_type": "bnpo", "gradient_accumulation_steps": 1, "steps_per_generation": 1}
    check_arguments(SimpleNamespace(**alone), build("sgsd"))


def test_siblings_must_be_on_one_process() -> None:
    shows_siblings = build("rlrt")
    check_arguments(SimpleNamespace(**{**GOOD, "world_size": 2}), shows_siblings)
    with pytest.raises(UserError, match=r"^GRPOConfig\.num_generations: rlrt shows siblings, .* whole groups of 4"):
        check_arguments(SimpleNamespace(**{**GOOD, "world_size": 4}), shows_siblings)


UNSERVED = {
    "shuffled": "something of another problem",
    "wrong_answer": "something of another problem",
    "other_problem": "something of another problem",
    "rubric": "rubrics",
    "critique": "what has yet to be written",
}


def reasoned() -> Method:
    return replace(build("dasd"), name="reasoned", context=ReasonFirst(Answer()))


def config_of(folder: Path, method: dict[str, Any], **settings: Any) -> Any:
    given = {**SETTINGS, "method": method, **settings}
    return adapter_config(given, model="lab", output=str(folder), rollouts=8, group=2, max_tokens=96)


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ({"name": "opsd"}, {}, "method.name: opsd matches whole distributions, which is no advantage a token"),
        ({"name": "grpo_skill"}, {}, "method.name: grpo_skill shows skills to the student"),
        *[({**SGSD, "others": [name]}, {}, f"sgsd shows its teachers {said}") for name, said in UNSERVED.items()],
        ({"name": f"{__name__}:reasoned"}, {}, "reasoned shows its teachers what has yet to be written"),
        (SGSD, {"optimizer": {"lr": 1e-5}}, r"^settings\.optimizer: has no effect here; give method, bank"),
        (SGSD, {"bank": {"pth": "x"}}, "settings: bank.pth"),
        ({"name": "sgds"}, {}, "did you mean 'sgsd'"),
    ],
)
def test_settings_that_mean_nothing_here_are_refused(
    method: dict[str, Any], settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        config_of(tmp_path, method, **settings)


@pytest.mark.parametrize("method", [SGSD, {"name": "trusted", "k": 2}, {"name": "grpo", "iterations": 1}])
def test_the_adapter_computes_what_a_step_of_ours_does(
    method: dict[str, Any], tmp_path: Path, lab_model: Any, lab_tokenizer: Any
) -> None:
    parts = build_run(small_config(tmp_path / "ours", method=method, group=2), Accelerator(cpu=True))
    rollouts = parts.sampler.sample(1)
    verdicts = grade(parts.verifier, rollouts)
    batch = build_batch(parts.contexts, rollouts, verdicts)
    details = update(parts.learner, batch, score_teachers(parts.learner, batch), StepMetrics(), lr=0.0)
    adapter = MethodAdapter.build(config_of(tmp_path, method), lab_model, lab_tokenizer, Accelerator(cpu=True))
    adapter.resume(0)
    written = [torch.ones(len(rollout.completion.token_ids)) for rollout in rollouts]
    found = adapter.advantages(rollouts, verdicts, written, step=1)
    assert any(row.any() for row in found.advantages)
    for detail, advantages_T, mask_T in zip(details, found.advantages, found.masks, strict=True):
        assert detail.outputs.advantages_BT is not None
        ours_T = detail.outputs.advantages_BT[detail.row][: len(mask_T)] * detail.mask_T
        assert torch.equal(mask_T, detail.mask_T)
        torch.testing.assert_close(advantages_T, ours_T, atol=1e-6, rtol=1e-5)
        assert not advantages_T.requires_grad
    assert all(p.grad is None for p in lab_model.parameters())
    assert bool(adapter.learner.evidence_log.ledger.items) == (method["name"] != "grpo")
    documented = set(re.findall(r"`sgsd/([\w/]+)`", TRL_NUMBERS))
    assert {"ungraded"} <= found.metrics.keys() <= documented


TRL_NUMBERS = (Path(__file__).parents[2] / "docs" / "trl.md").read_text(encoding="utf-8").split("**Metrics**")[1]
TRL_NUMBERS = TRL_NUMBERS.split("Guards")[0]


@pytest.mark.parametrize("others", [["null"], ["irrelevant", "random"], ["sibling", "feedback"], ["answer"]])
def test_contexts_that_the_adapter_has_are_served(
    others: list[str], tmp_path: Path, lab_model: Any, lab_tokenizer: Any
) -> None:
    method = {**SGSD, "others": others, "group": 8}
    parts = build_run(small_config(tmp_path / "ours", method={"name": "grpo"}, group=8), Accelerator(cpu=True))
    rollouts = parts.sampler.sample(1)
    adapter = MethodAdapter.build(config_of(tmp_path, method), lab_model, lab_tokenizer, Accelerator(cpu=True))
    written = [torch.ones(len(rollout.completion.token_ids)) for rollout in rollouts]
    found = adapter.advantages(rollouts, grade(parts.verifier, rollouts), written, step=1)
    assert any(row.any() for row in found.advantages)


def test_what_a_tool_wrote_is_not_taught(tmp_path: Path, lab_model: Any, lab_tokenizer: Any) -> None:
    adapter = MethodAdapter.build(
        config_of(tmp_path, {"name": "grpo"}), lab_model, lab_tokenizer, Accelerator(cpu=True)
    )
    parts = build_run(small_config(tmp_path / "ours", method={"name": "grpo"}, group=8), Accelerator(cpu=True))
    rollouts = parts.sampler.sample(1)
    verdicts = [Verdict(Status.INCORRECT), *[Verdict(Status.CORRECT)] * (len(rollouts) - 1)]
    own_T = torch.arange(len(rollouts[0].completion.token_ids)) >= 3
    written = [own_T, *[torch.ones(len(r.completion.token_ids)) for r in rollouts[1:]]]
    found = adapter.advantages(rollouts, verdicts, written, step=1)
    assert torch.equal(found.masks[0], own_T)
    assert torch.equal(found.advantages[0] != 0, own_T)
