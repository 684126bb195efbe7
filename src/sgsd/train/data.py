"""Problems: from a file, a hub data set or the lab, and the order in which a run meets them."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sgsd.train.sections import DataConfig
from sgsd.types import Problem, UserError

LAB_TRAINING_PROBLEMS = 4096


def load_problems(config: DataConfig) -> list[Problem]:
    """Read all problems.

    Raises:
        UserError: no such file, no such column, no rows, or a row without a problem or an answer; the row is named.
    """
    if config.path.startswith("lab:"):
        return _lab_problems(config)
    try:
        rows = enumerate(islice(_rows(config), config.limit))
        problems = [_problem(config, number, row) for number, row in rows]
    except UnicodeDecodeError as error:
        raise UserError(f"data {config.path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except csv.Error as error:
        raise UserError(f"data {config.path}: cannot be read as CSV: {error}") from error
    if not problems:
        raise UserError(f"data {config.path}: there are no rows")
    return problems


def _lab_problems(config: DataConfig) -> list[Problem]:
    from sgsd.lab.task import TaskSettings, held_out_problems, problems

    side = config.path.removeprefix("lab:")
    if side == "held-out":
        return [problem.to_problem() for problem in held_out_problems(config.limit or 512)]
    if side != "train":
        raise UserError(f"data.path: the lab has lab:train and lab:held-out, not {config.path}")
    stream = problems(TaskSettings(), held_out=False, seed=0)
    return [problem.to_problem() for problem in islice(stream, config.limit or LAB_TRAINING_PROBLEMS)]


def _rows(config: DataConfig) -> Iterable[Mapping[str, Any]]:
    path = Path(config.path)
    if path.suffix in (*_TEXT, ".parquet"):
        if not path.is_file():
            raise UserError(f"data.path: there is no file {path}")
        if path.stat().st_size == 0:
            raise UserError(f"data {path}: the file is empty")
    return _TEXT[path.suffix](path) if path.suffix in _TEXT else _by_datasets(config)


# Text files are read to the letter: a reader that guesses column types would turn the answer 007 into 7, 0.10 into
# 0.1, a date into a timestamp, and "None" into nothing.


def _json_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _json_object(line, f"data {path}: line {number}")


def _json_object(text: str, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(text, parse_int=str, parse_float=str)
    except ValueError as error:
        raise UserError(f"{where} cannot be read as JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object with named columns")
    return row


def _json_list(path: Path) -> list[Mapping[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"), parse_int=str, parse_float=str)
    except ValueError as error:
        raise UserError(f"data {path}: cannot be read as JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"data {path}: must be a list of objects; for one object a line call it .jsonl")
    return rows


def _csv(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        csv.field_size_limit(2**31 - 1)  # a reference solution may be long
        yield from csv.DictReader(file)


_TEXT: Mapping[str, Callable[[Path], Iterable[Mapping[str, Any]]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": _csv,
}


def _by_datasets(config: DataConfig) -> Iterable[Mapping[str, Any]]:
    """Parquet files and hub data sets, whose columns have types of their own."""
    import datasets

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(logging.CRITICAL)  # what goes wrong is said once, by us
    try:
        if config.path.endswith(".parquet"):
            return datasets.load_dataset("parquet", data_files=config.path, split="train")
        return datasets.load_dataset(config.path, split=config.split, revision=config.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"data {config.path}: cannot be read: {' '.join(str(error).split())[:300]}") from error


def _problem(config: DataConfig, number: int, row: Mapping[str, Any]) -> Problem:
    text = _cell(config, number, row, config.problem)
    gold = _cell(config, number, row, config.answer)
    solution = _cell(config, number, row, config.solution) if config.solution else None
    return Problem(id=f"{Path(config.path).stem}-{number}", text=text, gold=gold, solution=solution)


def _cell(config: DataConfig, number: int, row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        raise UserError(f"data {config.path}: there is no column {column!r}; it has {', '.join(map(str, row))}")
    value = row[column]
    if value is None or not str(value).strip():
        raise UserError(f"data {config.path}: row {number + 1} has no {column}; give it one or take the row out")
    if any("\ud800" <= character <= "\udfff" for character in str(value)):
        raise UserError(f"data {config.path}: row {number + 1}: {column} holds half a character (a lone surrogate)")
    return str(value)


def problem_at(problems: Sequence[Problem], position: int, seed: int) -> Problem:
    """The problem of a group: every epoch passes through all of them in an order of its own.

    A function of (seed, position), so that a resumed run needs to remember nothing.
    """
    epoch, place = divmod(position, len(problems))
    return problems[int(np.random.default_rng([seed, epoch]).permutation(len(problems))[place])]
