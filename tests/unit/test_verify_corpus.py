"""Agreement with rows that two people labelled who had never seen the grader; one half of them was never looked at.

The split and the figures are those of benchmarks/verifier.py. Failures over the reporting half tell counts, no rows.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "verifier.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verifier_benchmark", _BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up the module they are made in
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def graded(benchmark: ModuleType) -> dict[str, list[Any]]:
    sets = benchmark.row_sets()
    return {name: benchmark.grade_ours(sets[name]) for name in ("reporting", "development")}


def test_the_halves_cover_both_authors(benchmark: ModuleType) -> None:
    sets = benchmark.row_sets()
    authors = [row for path in sorted(benchmark.AUTHORS.glob("*.jsonl")) for row in benchmark.read_rows(path)]
    assert len(authors) == len(sets["development"]) + len(sets["reporting"]) == 660
    assert min(len(sets["development"]), len(sets["reporting"])) > 300
    assert {row.category for row in sets["reporting"]} == {row.category for row in authors}
    assert not {(row.completion, row.gold) for row in sets["development"]} & {
        (row.completion, row.gold) for row in sets["reporting"]
    }


@pytest.mark.parametrize("name", ["reporting", "development"])
def test_agreement_and_false_positives(benchmark: ModuleType, graded: dict[str, list[Any]], name: str) -> None:
    found = benchmark.totals(graded[name])
    agreement, false_positives = found["agreement"], found["false_positives"]
    assert agreement["count"] >= 0.98 * agreement["of"], f"{agreement['count']} of {agreement['of']}"
    assert false_positives["count"] <= 0.01 * false_positives["of"], f"{false_positives['count']} too many"


def test_a_row_takes_milliseconds(graded: dict[str, list[Any]]) -> None:
    """The benchmark's bound is 2 ms; this one holds on a busy machine too."""
    assert statistics.median(row.ms for rows in graded.values() for row in rows) < 10
