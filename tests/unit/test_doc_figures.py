"""The tables of the documentation say what the files of benchmarks/results say, to the last digit they show."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def results(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def tables(page: str) -> dict[str, list[list[list[str]]]]:
    """The tables of a page, as rows of cells without their emphasis, by their first heading."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").replace("−", "-")
    found: dict[str, list[list[list[str]]]] = {}
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = ([cell.strip(" *`") for cell in line[1:-1].split("|")] for line in block.splitlines())
        found.setdefault(head[0], []).append(rows)
    return found


def figures(*cells: str) -> list[float]:
    """A point that begins a number is one; +, and the dash between two, are not."""
    return [float(word) for word in re.findall(r"-?\d*\.?\d+", " ".join(cells))]


def test_the_times_of_a_search() -> None:
    (rows,) = (rows for rows in tables("retrieval.md")[""])
    search = results("retrieval")["search"]
    shown = {f"{cells[0].replace('`', '')}/{n}": figures(cell) for cells in rows for cell, n in zip(cells[1:], (1, 32))}
    assert shown.keys() == search.keys()
    for way, found in search.items():
        wall = found["wall"]
        exact = (found["processor"]["ms_a_query"], wall["ms_a_query"], min(wall["ms_samples"]))
        assert shown[way] == [float(f"{value:.2g}") for value in exact]


def test_what_diversity_takes_away() -> None:
    (rows,) = tables("retrieval.md")["bank"]
    banks = results("retrieval")["near_duplicates"].values()
    assert [[figures(cell) for cell in cells[1:]] for cells in rows] == [
        [[round(value, 2) for value in at.values()] for at in bank.values()] for bank in banks
    ]


def test_the_texts_that_are_embedded() -> None:
    (rows,) = tables("retrieval.md")["embedded"]
    ways = results("retrieval_texts")["ways"]
    for cells, way, found in zip(rows, ways["of_20"], ways["of_20"].values(), strict=True):
        of_60 = ways["of_60"][way]
        firsts = figures(cells[1].replace("of 60", ""), cells[4].replace("of 60", ""))
        assert firsts == [found["first"], *found["first_by_group"], of_60["first"]]
        gain = [found["gain"], *found["gain_interval"]] if cells[3] else []
        exact = [found["mean_reciprocal_rank"], *gain, of_60["mean_reciprocal_rank"]]
        assert figures(cells[2], cells[3], cells[5]) == [round(value, 3) for value in exact]


@pytest.mark.parametrize("part", ["reporting", "development"])
def test_what_the_verifier_is_right_about(part: str) -> None:
    (rows,) = tables("verifier.md")["rows"]
    start = next(place for place, cells in enumerate(rows) if cells[0].startswith(part))
    for cells, found in zip(rows[start : start + 2], results("verifier")["sets"][part].values()):
        right, wrong = found["agreement"], found["false_positives"]
        assert cells[0] in ("", f"{part}, {right['of']}")
        assert figures(cells[2].replace("–", " ")) == percents(right["interval"])
        assert figures(cells[3].replace("–", " ")) == [wrong["count"], wrong["of"], *percents(wrong["interval"])]
        median = found["median_ms"]
        assert figures(cells[4]) == [round(median) if median > 1 else round(median, 1)]


def percents(interval: dict[str, float]) -> list[float]:
    return [round(100 * value, 1) for value in interval.values()]


def test_other_kernels_for_the_head() -> None:
    (rows,) = tables("performance.md")["kernel"]
    found = results("head_kernels_cpu")
    assert not any(found["worth_using"].values())
    of = [(name, call) for name in found["calls"]["teacher"] for call in found["calls"]]
    for cells, (name, call) in zip(rows, of, strict=True):
        one = found["calls"][call][name]
        assert cells[0] in ("", name)
        assert cells[1].startswith({"teacher": "teacher", "student": "student, ad", "trained": "student, all"}[call])
        ratios = one["over_tiles"]
        assert figures(cells[2]) == [round(median(ratios), 2)]
        if name != "tiles":
            assert figures(cells[3].replace("–", " ")) == [round(min(ratios), 2), round(max(ratios), 2)]
        assert figures(cells[4].replace(",", "")) == [round(one["peak_extra_bytes"] / 2**20)]
        errors = [f"{error:.0e}".replace("e-0", "e-") for error in one["errors"].values()]
        assert [cell for cell in cells[5:] if cell] == errors
