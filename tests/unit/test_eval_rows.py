"""Rows of evaluations: written by appending, read back whole, torn only in the last line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sgsd.evaluation.rows import EVALUATION, ROWS, EvalRow, append_rows, read_evaluation, read_rows, row_index
from sgsd.types import Status, UserError

ONE = EvalRow(benchmark="aime24", problem="60", sample=0, seed=7, index=3, status=Status.CORRECT, answer="204")


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [ONE, replace(ONE, sample=1, status=Status.INCORRECT, text="zwei\u2028Zeilen\n", truncated=True, tokens=9)]
    append_rows(tmp_path / ROWS, rows[:1])
    append_rows(tmp_path / ROWS, rows[1:])
    assert read_rows(tmp_path / ROWS) == rows


def test_a_line_that_a_kill_tore_is_left_out(tmp_path: Path) -> None:
    append_rows(tmp_path / ROWS, [ONE, replace(ONE, sample=1)])
    whole = (tmp_path / ROWS).read_bytes()
    (tmp_path / ROWS).write_bytes(whole[:-5])
    assert read_rows(tmp_path / ROWS) == [ONE]


@pytest.mark.parametrize(
    ("line", "said"), [("{}", "line 2: benchmark"), ("no json", "line 2"), (None, "line 2: sample 0 of aime24 60")]
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str | None, said: str) -> None:
    append_rows(tmp_path / ROWS, [ONE])
    with (tmp_path / ROWS).open("a") as file:
        file.write((tmp_path / ROWS).read_text() if line is None else line + "\n")
    with pytest.raises(UserError, match=said):
        read_rows(tmp_path / ROWS)


def test_indices_are_apart_and_move_with_nothing_else() -> None:
    found = {row_index(b, i, j) for b in ("aime24", "aime25") for i in range(30) for j in range(64)}
    assert len(found) == 2 * 30 * 64
    with pytest.raises(ValueError, match="not below"):
        row_index("aime24", 0, 1 << 20)


def test_of_a_run_the_last_step_or_the_one_named(tmp_path: Path) -> None:
    (tmp_path / EVALUATION).write_text(json.dumps({"format": 1}))
    append_rows(tmp_path / ROWS, [replace(ONE, step=0), replace(ONE, step=60, status=Status.INCORRECT)])
    assert [read_evaluation(tmp_path, step).rows[0].correct for step in (None, 0, 60)] == [False, True, False]
    with pytest.raises(UserError, match="after step 7; it has 0, 60"):
        read_evaluation(tmp_path, 7)


def test_a_folder_without_an_evaluation_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sgsd eval MODEL BENCHMARK"):
        read_evaluation(tmp_path)
