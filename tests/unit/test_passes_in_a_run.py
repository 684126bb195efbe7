"""A run whose groups share their teachers' prompts has the numbers of one that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import sgsd.train.step as step
from runs import run_small
from sgsd.records.run_files import Records
from sgsd.scorer import Scorer


def losses(folder: Path, **changes: Any) -> list[float]:
    return [record["loss"] for record in Records(run_small(folder, steps=2, **changes)).read("metrics")]


def test_groups_share_prefixes_and_no_number_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts, forward = [], Scorer.forward

    def spied(scorer: Scorer, pack: Any, **options: Any) -> Any:
        layouts.append((options.get("role", "student"), pack.prefixes is not None))
        return forward(scorer, pack, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "forward", spied)
        shared = losses(tmp_path / "shared", group=4)
    assert ("teacher", True) in layouts
    assert ("student", True) not in layouts
    monkeypatch.setattr(step, "teacher_layout", lambda **_: "rows")
    plain = losses(tmp_path / "plain", group=4)
    assert shared == pytest.approx(plain, rel=1e-4, abs=1e-6)
    assert max(map(abs, plain)) > 0


def test_rollouts_of_problems_of_their_own_are_scored_in_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts, forward = set(), Scorer.forward

    def spied(scorer: Scorer, pack: Any, **options: Any) -> Any:
        layouts.add((pack.prefixes is not None, pack.segments is not None))
        return forward(scorer, pack, **options)

    monkeypatch.setattr(Scorer, "forward", spied)
    losses(tmp_path / "run")
    assert layouts == {(False, False)}
