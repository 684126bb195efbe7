"""The measure of a step's road finds its marks, and counts what lies between them and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import road


def test_the_road_of_a_step_is_found(tmp_path: Path) -> None:
    found = road.trace(tmp_path, toy=True)
    assert sys.getprofile() is None
    assert next(iter(found.step)).endswith("loop.py")
    files = {str(path.relative_to(road.PACKAGE)) for path in road.PACKAGE.rglob("*.py")}
    assert files > found.step.keys() > found.from_batch.keys() >= found.to_the_gradient.keys()
    assert len(found.to_the_gradient) > 10
    assert list(found.to_the_gradient) == list(found.from_batch)[: len(found.to_the_gradient)]
    # A report is written after the step, and a command line is read before the loop.
    assert not any("report" in file or file.startswith("cli") for file in found.step)
    assert any(file.startswith("cli") for file in found.before)
    assert road.told("All", found.step).startswith(f"All: {len(found.step)} files")


def test_a_mark_that_is_not_met_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the mark 'begin' was not met"):
        road.trace(tmp_path, toy=True, begin="loop.py:nothing")
