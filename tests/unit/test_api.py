"""The package as people use it from Python: train, score, a loss, a bank's search, a verifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sgsd
from runs import SMALL, merged
from sgsd.bank import dump_bank
from sgsd.lab.demo_bank import demo_bank


def test_training_needs_no_console_and_calls_back(tmp_path: Path) -> None:
    steps: list[int] = []
    config = merged(SMALL, {"output": str(tmp_path / "run"), "steps": 2})
    result = sgsd.train(config, on_step=lambda metrics, timings: steps.append(metrics["step"]))
    assert (result.steps, result.stopped, steps) == (2, False, [1, 2])
    assert [record["step"] for record in result.metrics] == [1, 2]
    assert result.folder == tmp_path / "run"
    assert result.model_folder is not None
    assert result.model_folder.is_dir()
    assert result.summary["steps"] == 2


def test_scores_are_the_model_s_own_log_probs(lab_model: Any, lab_tokenizer: Any) -> None:
    prompts, completions = [[5, 6, 7], [8, 9], [5, 6, 7]], [[10, 11], [12, 13, 14], [15]]
    found = sgsd.score(lab_model, lab_tokenizer, prompts, completions)
    for prompt, completion, logps_T in zip(prompts, completions, found, strict=True):
        logits = lab_model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        expected_T = logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(logps_T, expected_T.detach(), atol=1e-5, rtol=1e-5)


def test_a_row_that_cannot_be_scored_is_named(lab_model: Any, lab_tokenizer: Any) -> None:
    with pytest.raises(sgsd.UserError, match="completion 1 has no tokens"):
        sgsd.score(lab_model, lab_tokenizer, [[1], [2]], [[3], []])
    with pytest.raises(sgsd.UserError, match="2 prompts and 1 completions"):
        sgsd.score(lab_model, lab_tokenizer, [[1], [2]], [[3]])


def test_a_loss_in_five_lines_and_an_error_that_names_the_tensor() -> None:
    given: dict[str, Any] = {
        "student_logps_BT": torch.zeros(2, 3),
        "teacher_logps_BKT": torch.full((2, 4, 3), 0.5),
        "mask_BT": torch.ones(2, 3, dtype=torch.bool),
        "weights_BK": torch.full((2, 4), 0.25),
        "outcome_B": torch.tensor([1.0, -1.0]),
    }
    loss, outputs = sgsd.sgsd_loss(**given)
    assert loss.dim() == 0
    assert outputs.polarity_BK is not None
    assert outputs.polarity_BK.tolist() == [[1.0] * 4, [-1.0] * 4]
    with pytest.raises(ValueError, match="weights_BK"):
        sgsd.sgsd_loss(**{**given, "weights_BK": torch.ones(2, 3)})
    with pytest.raises(TypeError):
        sgsd.sgsd_loss(*given.values())  # type: ignore[misc]


def test_a_bank_search_and_a_verifier(tmp_path: Path) -> None:
    (tmp_path / "bank.json").write_text(dump_bank(demo_bank()), encoding="utf-8")
    found = sgsd.open_bank(tmp_path / "bank.json").search("Addition: 38+35", k=3)
    assert len(found) == 3
    with sgsd.load_verifier("math") as verifier:
        right, wrong = verifier.grade([r"\boxed{2}", r"\boxed{3}"], ["2", "2"])
    assert (right.outcome, wrong.outcome) == (1, -1)


def test_a_misspelt_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = sgsd.trian  # type: ignore[attr-defined]
