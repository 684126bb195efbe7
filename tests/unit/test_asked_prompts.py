"""The prompts of the student that trains are checked before anything is sampled, its pairs included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from runs import small_config
from sgsd.train import setup
from sgsd.train.setup import build_run
from sgsd.types import UserError

SKILLED: dict[str, Any] = {"method": {"name": "grpo_skill", "k": 3, "group": 4}, "data": {"limit": 32}}


def longest(parts: Any, maker: Any) -> int:
    return max(len(maker.student(problem, thinking=False)) for problem in parts.problems)


def test_a_prompt_that_is_too_long_with_its_pairs_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = build_run(small_config(tmp_path, **SKILLED), Accelerator(cpu=True))
    plain, with_pairs = longest(fits, fits.prompts), longest(fits, fits.sampler.prompts)
    assert plain < with_pairs
    short = {"folder": "lab", "max_tokens": with_pairs - 1}
    with monkeypatch.context() as unloaded:
        unloaded.delattr(setup, "load_model")  # nothing is loaded for a run that cannot go on
        with pytest.raises(
            UserError, match=r"with its pairs: its prompt has \d+ tokens, .*or show fewer pairs by prompts.unfit: skip"
        ):
            build_run(small_config(tmp_path, **SKILLED, prompts=short), Accelerator(cpu=True))
    skipping = small_config(tmp_path, **SKILLED, prompts={**short, "unfit": "skip"})
    parts = build_run(skipping, Accelerator(cpu=True))
    assert parts.skipped_problems == 0  # fewer pairs are shown instead
    assert max(len(q.prompt_ids) for step in range(1, 9) for q in parts.sampler.requests(step)) < with_pairs
