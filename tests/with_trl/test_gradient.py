"""The gradient that TRL's own loop hands to its optimizer is the one of `sgsd train` for the same rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="TRL is not installed: pip install -e .[trl], or make test")

from adapters import distance, our_gradient, trainer_of, trl_gradient

from sgsd.integrations.trl_terms import REDUCE_OF
from sgsd.methods import RECIPES, build
from sgsd.methods.registry import defaults

SAME = 1e-5  # of the largest entry; in float32 at most 5e-6 was measured, in float64 3e-7 for sgsd
SMALL_OPTIONS = {"k": 2, "confidence": 0.01, "iterations": 1}


def small(name: str) -> dict[str, Any]:
    return {"name": name, **{key: value for key, value in SMALL_OPTIONS.items() if key in defaults(name)}}


PER_TOKEN = [name for name in RECIPES if not (build(name).objective.needs_divergence or build(name).student_context)]
CASES = [
    *[(small(name), "dapo") for name in PER_TOKEN],
    *[({**small("grpo"), "reduce": reduce}, loss) for reduce in ("rollout", "token", "fixed") for loss in REDUCE_OF],
    *[({"name": f"adapters:sgsd_{reduce}"}, loss) for reduce in ("token", "fixed") for loss in REDUCE_OF],
    *[(small("sgsd"), loss) for loss in ("grpo", "bnpo", "dr_grpo")],
]


def cases() -> list[Any]:
    """Each in `make prove`; one of each kind in `make test` too."""
    quick = [(small("sgsd"), "dapo"), (small("grpo"), "dapo"), (small("trusted"), "dapo")]
    return [pytest.param(*case, marks=[] if case in quick else pytest.mark.prove) for case in CASES]


@pytest.mark.parametrize(
    ("method", "loss"), cases(), ids=lambda case: case if isinstance(case, str) else "-".join(map(str, case.values()))
)
def test_the_gradient_is_ours(
    method: dict[str, Any], loss: str, tmp_path: Path, lab_model: Any, lab_tokenizer: Any
) -> None:
    whole = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1} if loss == "bnpo" else {}
    trainer = trainer_of(tmp_path / "trl", method, lab_model, lab_tokenizer, loss_type=loss, **whole)
    theirs, rollouts, verdicts = trl_gradient(trainer)
    assert {verdict.outcome for verdict in verdicts} == {1, -1}, "rollouts of one kind show half of a method"
    ours = our_gradient(tmp_path / "ours", method, rollouts, verdicts)
    assert distance(theirs, ours) < SAME


@pytest.mark.parametrize(
    "method",
    [{"name": "rlcsd", "wrong": 1}, pytest.param({"name": "rlrt"}, marks=pytest.mark.prove)],
    ids=lambda method: method["name"],
)
def test_siblings_teach_as_in_a_run_of_ours(
    method: dict[str, Any], tmp_path: Path, lab_model: Any, lab_tokenizer: Any
) -> None:
    halves = {"per_device_train_batch_size": 8, "num_generations": 8, "gradient_accumulation_steps": 2}
    trainer = trainer_of(tmp_path / "trl", method, lab_model, lab_tokenizer, **halves)
    theirs, rollouts, verdicts = trl_gradient(trainer)
    ours = our_gradient(tmp_path / "ours", method, rollouts, verdicts, group=8)
    assert distance(theirs, ours) < SAME
    outcome_alone = our_gradient(tmp_path / "alone", {"name": "adapters:untaught"}, rollouts, verdicts, group=8)
    assert distance(theirs, outcome_alone) > 100 * SAME, "no sibling has taught, so nothing is shown"


def test_without_the_scale_it_is_another(
    tmp_path: Path, lab_model: Any, lab_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sgsd.integrations.trl as adapter

    monkeypatch.setattr(adapter, "advantage_scale", lambda ours_BT, *_, **__: ours_BT.float())
    theirs, rollouts, verdicts = trl_gradient(trainer_of(tmp_path / "trl", small("sgsd"), lab_model, lab_tokenizer))
    ours = our_gradient(tmp_path / "ours", small("sgsd"), rollouts, verdicts)
    assert distance(theirs, ours) > 100 * SAME
