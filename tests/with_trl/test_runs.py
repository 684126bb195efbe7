"""Short real runs inside TRL: what is logged, what the student and the teachers see, and how a run goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="TRL is not installed: pip install -e .[trl], or make test")

import datasets
import torch
from adapters import SETTINGS, arguments, trainer_of, trl_gradient

from sgsd.contexts.prompt_builders import PromptBuilder
from sgsd.contexts.prompts import load_prompts
from sgsd.integrations.trl import SgsdGRPOTrainer
from sgsd.types import UserError

pytestmark = pytest.mark.prove

SGSD = {"name": "sgsd", "k": 2, "confidence": 0.01}


def test_a_run_trains_and_says_so(tmp_path: Path, lab_model: Any, lab_tokenizer: Any) -> None:
    before = {name: p.detach().clone() for name, p in lab_model.named_parameters()}
    trainer = trainer_of(tmp_path, SGSD, lab_model, lab_tokenizer, max_steps=10)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(steps) == 10
    for entry in steps:
        assert math.isfinite(entry["loss"])
        assert entry["reward"] == entry["rewards/correct/mean"]
        shares = [entry[f"sgsd/polarity/{share}"] for share in ("validated", "neutral", "reversed")]
        assert sum(shares) == pytest.approx(1)
    assert 0 < sum(entry["reward"] for entry in steps) / 10 < 1
    assert any(not torch.equal(before[name], p) for name, p in lab_model.named_parameters())
    assert len((tmp_path / "sightings.jsonl").read_text().splitlines()) == 10
    assert trainer.adapter.learner.evidence_log.ledger.items


def test_the_student_is_asked_as_in_a_run_of_ours(tmp_path: Path, lab_model: Any, lab_tokenizer: Any) -> None:
    trainer = trainer_of(tmp_path, SGSD, lab_model, lab_tokenizer)
    _, rollouts, verdicts = trl_gradient(trainer)
    maker = PromptBuilder(load_prompts("lab"), lab_tokenizer, 512)
    assert [r.prompt_ids for r in rollouts] == [maker.student(r.problem, thinking=False) for r in rollouts]
    assert [r.group for r in rollouts] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len({r.problem.id for r in rollouts}) == 4
    again = trainer.adapter.verdicts([r.problem for r in rollouts], [r.completion.text for r in rollouts])
    assert [v.outcome for v in again] == [v.outcome for v in verdicts]


def test_rows_of_ones_own(tmp_path: Path, lab_model: Any, lab_tokenizer: Any) -> None:
    rows = [{"prompt": f"{i}+{i}+1=", "question": f"{i}+{i}+1", "truth": str(2 * i + 1)} for i in range(2, 10)]
    settings = {**SETTINGS, "method": SGSD, "data": {"problem": "question", "answer": "truth"}}
    trainer = SgsdGRPOTrainer(
        lab_model,
        settings,
        args=arguments(tmp_path, mask_truncated_completions=True, max_completion_length=4),
        processing_class=lab_tokenizer,
        train_dataset=datasets.Dataset.from_list(rows),
    )
    gradients, rollouts, _ = trl_gradient(trainer)
    assert {lab_tokenizer.decode(r.prompt_ids) for r in rollouts} <= {row["prompt"] for row in rows}
    assert all(r.problem.gold == str(eval(r.problem.text)) for r in rollouts)  # noqa: S307
    cut_off = all(r.completion.finish == "length" for r in rollouts)
    assert cut_off, "four tokens are no answer, so the mask below is of nothing"
    assert all(not gradient.any() for gradient in gradients.values())


def test_a_missing_column_is_named(tmp_path: Path, lab_model: Any, lab_tokenizer: Any) -> None:
    rows = datasets.Dataset.from_list([{"prompt": "1+1=", "problem": "1+1"}] * 8)
    settings = {**SETTINGS, "method": SGSD}
    trainer = SgsdGRPOTrainer(
        lab_model, settings, args=arguments(tmp_path), processing_class=lab_tokenizer, train_dataset=rows
    )
    with pytest.raises(UserError, match=r"no column 'answer'; name it by settings data\.answer"):
        trainer.train()


@pytest.mark.parametrize("teacher", ["frozen", "ema", "periodic"])
def test_a_teacher_of_its_own_stays_behind(teacher: str, tmp_path: Path, lab_model: Any, lab_tokenizer: Any) -> None:
    method = {**SGSD, "teacher": teacher}
    trainer = trainer_of(tmp_path, method, lab_model, lab_tokenizer, max_steps=2, learning_rate=1e-2)
    copied = trainer.adapter.learner.policy.scorer.teacher_copy
    start = {name: p.clone() for name, p in copied.named_parameters()}
    trainer.train()
    name, student = next((n, p) for n, p in lab_model.named_parameters() if not torch.equal(p, start[n]))
    moved = (dict(copied.named_parameters())[name] - start[name]).abs().max()
    assert (moved > 0) == (teacher == "ema")  # the period is longer than this run
    assert moved < (student - start[name]).abs().max()


def test_an_adapter_with_its_base_as_the_teacher(tmp_path: Path, lab_model: Any, lab_tokenizer: Any) -> None:
    import peft

    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    settings = {**SETTINGS, "method": {**SGSD, "teacher": "frozen"}}
    trainer = SgsdGRPOTrainer(
        lab_model,
        settings,
        args=arguments(tmp_path, max_steps=2, gradient_checkpointing=True),
        processing_class=lab_tokenizer,
        peft_config=lora,
    )
    assert trainer.adapter.learner.policy.scorer.teacher_weights == "base"
    trainer.train()
    assert any(p.any() for name, p in trainer.model.named_parameters() if "lora_B" in name)
    with pytest.raises(UserError, match=r"method\.teacher: ema needs an adapter of its own"):
        SgsdGRPOTrainer(
            trainer.model,
            {**settings, "method": {**SGSD, "teacher": "ema"}},
            args=arguments(tmp_path),
            processing_class=lab_tokenizer,
        )


def test_a_resumed_run_takes_up_its_ledger(tmp_path: Path, lab_model: Any, lab_tokenizer: Any) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    trainer = trainer_of(tmp_path, SGSD, lab_model, lab_tokenizer, max_steps=3, **saving)
    trainer.train()
    assert len((tmp_path / "sightings.jsonl").read_text().splitlines()) == 3
    again = trainer_of(tmp_path, SGSD, lab_model, lab_tokenizer, max_steps=4, **saving)
    with pytest.raises(UserError, match="is of another run"):
        again.train()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    steps = [
        line.split('"step": ')[1].split(",")[0] for line in (tmp_path / "sightings.jsonl").read_text().splitlines()
    ]
    assert steps == ["1", "2", "3", "4"]
    averaged = trainer_of(tmp_path, {**SGSD, "teacher": "ema"}, lab_model, lab_tokenizer, max_steps=4, **saving)
    with pytest.raises(UserError, match="of kind ema is in no checkpoint"):
        averaged.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_an_evaluation_is_left_to_trl(
    tmp_path: Path, lab_model: Any, lab_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(tmp_path, SGSD, lab_model, lab_tokenizer, per_device_eval_batch_size=8)
    monkeypatch.setattr(type(trainer.adapter), "advantages", None)  # nothing may be computed
    numbers = trainer.evaluate(trainer.train_dataset.select(range(4)))
    assert 0 <= numbers["eval_reward"] <= 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reward_funcs": len}, "reward_funcs: the verifier decides"),
        ({"processing_class": None}, "processing_class: is a NoneType; give the model's tokenizer"),
    ],
)
def test_what_means_nothing_here_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path, lab_model: Any, lab_tokenizer: Any
) -> None:
    given = {"args": arguments(tmp_path), "processing_class": lab_tokenizer, **changes}
    with pytest.raises(UserError, match=said):
        SgsdGRPOTrainer(lab_model, {**SETTINGS, "method": SGSD}, **given)
