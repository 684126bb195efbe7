"""Problems: from a file, a hub data set or the lab, and the order in which a run meets them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sgsd.train.config import DataConfig
from sgsd.types import Problem, UserError

_READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
LAB_TRAINING_PROBLEMS = 4096


def load_problems(config: DataConfig) -> list[Problem]:
    """Read all problems.

    Raises:
        UserError: no such file, no such column, no rows, or a row without a problem or an answer; the row is named.
    """
    if config.path.startswith("lab:"):
        return _lab_problems(config)
    rows = _rows(config)
    problems = [_problem(config, number, row) for number, row in enumerate(islice(rows, config.limit))]
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


def _rows(config: DataConfig) -> Any:
    import datasets

    path = Path(config.path)
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(logging.CRITICAL)  # what goes wrong is said once, by us
    try:
        if path.suffix in _READERS:
            if not path.is_file():
                raise UserError(f"data.path: there is no file {path}")
            if path.stat().st_size == 0:
                raise UserError(f"data {path}: the file is empty")
            return datasets.load_dataset(_READERS[path.suffix], data_files=str(path), split="train")
        return datasets.load_dataset(config.path, split=config.split, revision=config.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"data {config.path}: cannot be read: {' '.join(str(error).split())[:300]}") from error


def _problem(config: DataConfig, number: int, row: dict[str, Any]) -> Problem:
    text = _cell(config, number, row, config.problem)
    gold = _cell(config, number, row, config.answer)
    solution = _cell(config, number, row, config.solution) if config.solution else None
    return Problem(id=f"{Path(config.path).stem}-{number}", text=text, gold=gold, solution=solution)


def _cell(config: DataConfig, number: int, row: dict[str, Any], column: str) -> str:
    if column not in row:
        raise UserError(f"data {config.path}: there is no column {column!r}; it has {', '.join(map(str, row))}")
    value = row[column]
    if value is None or not str(value).strip():
        raise UserError(f"data {config.path}: row {number + 1} has no {column}; give it one or take the row out")
    return str(value)


def problem_at(problems: Sequence[Problem], position: int, seed: int) -> Problem:
    """The problem of a group: every epoch passes through all of them in an order of its own.

    A function of (seed, position), so that a resumed run needs to remember nothing.
    """
    epoch, place = divmod(position, len(problems))
    return problems[int(np.random.default_rng([seed, epoch]).permutation(len(problems))[place])]
