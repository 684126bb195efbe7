"""Whether a run fits a device, and what `sgsd plan --memory` says to lower where it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from runs import LORA, SMALL, merged
from sgsd.plan.fit import SPARE, Fit
from sgsd.plan.memory import Memory
from sgsd.plan.meta_model import MetaModel
from sgsd.plan.sizes import Lengths
from sgsd.train import RunConfig, make_config

LENGTHS = Lengths(student_prompt=30, teacher_prompt=70, completion=10, longest=16)


def config_of(**changes: Any) -> RunConfig:
    return make_config(merged(SMALL, changes))


def advice(found: Fit, memory: float) -> str:
    """What is said of the same run on a device of so many bytes."""
    return replace(found, room=memory).advice()


def test_a_config_that_does_not_fit_says_what_to_lower_first() -> None:
    wide: Mapping[str, Any] = {"lora": LORA, "rollouts": 64}
    kept = Fit.of(config_of(**wide), 24e9, LENGTHS)
    peak = kept.memory.peak
    assert advice(kept, 2 * peak).startswith("fits: ")
    assert advice(kept, 0.6 * peak).startswith("does not fit: ")
    assert "model.gradient_checkpointing: true" in advice(kept, 0.6 * peak)
    assert "model.dtype bfloat16" in advice(kept, kept.memory.standing)
    full = Fit.of(config_of(), 24e9, LENGTHS)
    assert "train an adapter (lora)" in advice(full, full.memory.standing)


BUDGETS = {"student_tokens": 40, "teacher_tokens": 80, "rollout_tokens": 300}


def lowered(config: RunConfig, key: str, room: float, processes: int = 1) -> int:
    """The value that a budget is to be lowered to on a device of so many bytes; with it the run does fit."""
    said = advice(Fit.of(config, 24e9, LENGTHS, processes=processes), room)
    assert f"Lower compute.{key} first: {getattr(config.compute, key):,} → " in said
    value = int(said.rsplit("→ ", 1)[1].rstrip(".").replace(",", ""))
    lower = config.model_copy(update={"compute": config.compute.model_copy(update={key: value})})
    assert advice(Fit.of(lower, 24e9, LENGTHS, processes=processes), room).startswith("fits: ")
    return value


@pytest.mark.parametrize("key", list(BUDGETS))
def test_the_value_to_lower_to_does_fit(key: str) -> None:
    model = {"gradient_checkpointing": True}
    config = config_of(lora=LORA, rollouts=64, model=model, compute=BUDGETS | {key: 8192})
    lowered(config, key, 0.8 * Fit.of(config, 24e9, LENGTHS).memory.peak)


def in_parts() -> tuple[RunConfig, Memory]:
    config = config_of(lora=LORA, rollouts=64, compute=BUDGETS | {"rollout_tokens": 8192})
    return config, Fit.of(config, 24e9, LENGTHS, processes=4).memory


def test_gathered_weights_do_not_shrink_with_the_batch() -> None:
    config, memory = in_parts()
    (batch,) = memory.drawn
    assert memory.sampling == memory.whole + batch.size
    assert memory.whole == 4 * memory.weights
    lowered(config, "rollout_tokens", (memory.standing + memory.whole + 0.25 * batch.size) / SPARE, 4)


def test_weights_that_cannot_be_gathered_are_said_to_be() -> None:
    config, memory = in_parts()
    found = Fit.of(config, 24e9, LENGTHS, processes=4)
    said = advice(found, (memory.whole + 0.5 * memory.standing) / SPARE)
    assert "more than 4 processes, or vLLM under a launch that keeps weights whole" in said
    assert "do not fit at all" in advice(found, 0.9 * memory.whole / SPARE)
    beside = config.model_copy(update={"rollout": config.rollout.model_copy(update={"engine": "vllm"})})
    whole = Fit.of(beside, 24e9, LENGTHS, processes=4)
    assert (whole.memory.weights, whole.memory.sampling) == (memory.whole, 0)
    assert any("4 processes each hold the whole weights" in line for line in whole.assumptions())


def test_an_evaluation_that_needs_the_most_is_what_is_lowered() -> None:
    evaluation = {"data": {"path": "lab:held-out"}, "problems": 500, "samples": 4, "sampling": {"max_tokens": 96}}
    changes = {"lora": LORA, "rollouts": 16, "sampling": {"max_tokens": 24}, "evaluation": evaluation}
    config = config_of(**changes, compute=BUDGETS | {"rollout_tokens": 8192})
    memory = Memory.of(MetaModel.of(config), LENGTHS)
    training, examined = memory.drawn
    assert (examined.rows, examined.width) == (8192 // 126, 126)
    room = (memory.standing + 0.5 * examined.size) / SPARE
    assert lowered(config, "rollout_tokens", room) == pytest.approx(0.5 * examined.tokens, rel=0.01)
    assert training.size < 0.5 * examined.size
    between = (training.size / training.rows + examined.size / examined.rows) / 2  # a row of each
    for row, limits in (
        (between, "lower evaluation.sampling.max_tokens, or"),
        (0.5 * between, "lower sampling.max_tokens and evaluation.sampling.max_tokens, or"),
    ):
        assert limits in advice(Fit.of(config, 24e9, LENGTHS), (memory.standing + row) / SPARE)
