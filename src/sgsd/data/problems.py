"""Problems: from a file, a hub data set, the lab or a gym, and the order in which a run meets them."""

from __future__ import annotations

import csv
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sgsd.config.sections import DataConfig
from sgsd.data.row_layouts import READERS, MissingColumn, UnusableRow, fitting_layouts
from sgsd.notices import note
from sgsd.types import Problem, UserError

LAB_TRAINING_PROBLEMS = 4096


def load_problems(config: DataConfig) -> list[Problem]:
    """Read all problems; what was left out or changed on the way is told once, to the log `sgsd`.

    Raises UserError: no such file, no such column, no rows, or a row without a problem or an answer; the row is named.
    """
    if config.path.startswith("lab:"):
        return _lab_problems(config)
    if config.path.startswith("gym:"):
        from sgsd.data.gym import gym_problems

        problems, notes = gym_problems(config)
    else:
        problems, notes = read_problems(config)
    for line in notes:
        note(f"data {config.path}: {line}")
    return problems


def _lab_problems(config: DataConfig) -> list[Problem]:
    from sgsd.lab.task import LabProblem, held_out_problems, problems
    from sgsd.lab.task_skills import rubric

    def judged(problem: LabProblem) -> Problem:
        plain = problem.to_problem()
        return replace(plain, meta={**plain.meta, "rubric": rubric(problem.branches)})

    side = config.path.removeprefix("lab:")
    if side == "held-out":
        return [judged(problem) for problem in held_out_problems(config.limit or 512)]
    if side != "train":
        raise UserError(f"data.path: the lab has lab:train and lab:held-out, not {config.path}")
    stream = problems(held_out=False, seed=0)
    return [judged(problem) for problem in islice(stream, config.limit or LAB_TRAINING_PROBLEMS)]


# ── From rows to problems ──────────────────────────────────────────────────────────────────────────────────────────


def read_problems(config: DataConfig) -> tuple[list[Problem], list[str]]:
    """The problems of a file, folder or hub data set, and what the user should know of them. Raises UserError."""
    intake = _Intake(config, Path(config.path).stem)
    try:
        for row in _rows(config):
            intake.take(row)
            if len(intake.problems) == config.limit:
                break
    except UnicodeDecodeError as error:
        raise UserError(f"data {config.path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except csv.Error as error:
        raise UserError(f"data {config.path}: cannot be read as CSV: {error}") from error
    if intake.rows == 0:
        raise UserError(f"data {config.path}: there are no rows")
    notes = intake.notes()
    if not intake.problems:
        raise UserError(f"data {config.path}: none of its {intake.rows} rows makes a problem; {'; '.join(notes)}")
    return intake.problems, notes


@dataclass
class _Intake:
    """Takes in rows one by one, and keeps count of what it does not keep."""

    config: DataConfig
    name: str
    problems: list[Problem] = field(default_factory=list)
    rows: int = 0
    layout: str = ""
    columns: tuple[str, ...] = ()  # by which the layout was recognised, where it was not named
    ignores_domain: bool = False
    other_domain: int = 0
    unusable: list[str] = field(default_factory=list)
    duplicates: int = 0
    remarks: Counter[str] = field(default_factory=Counter)
    seen: set[tuple[str, str, str | None]] = field(default_factory=set)
    golds: dict[str, str] = field(default_factory=dict)
    contradictions: list[str] = field(default_factory=list)

    def take(self, row: Mapping[str, Any]) -> None:
        self.rows += 1
        if self.rows == 1:
            self._settle(row)
        if self.config.domain is not None and not self.ignores_domain and row.get("domain") != self.config.domain:
            self.other_domain += 1
            return
        try:
            item = READERS[self.layout](row, self.config)
        except UnusableRow as reason:
            self._refuse(reason)
            return
        if (key := (item.text, item.gold, item.solution)) in self.seen and self.config.duplicates == "drop":
            self.duplicates += 1
            return
        self.seen.add(key)
        problem_id = f"{self.name}-{self.rows - 1}"
        if self.golds.setdefault(item.text, item.gold) != item.gold:
            self.contradictions.append(problem_id)
        self.remarks.update(item.remarks)
        columns = row.typed if isinstance(row, _Row) else row
        answer = columns.get(self.config.answer) if self.layout == "plain" else None
        answer = None if answer == item.gold else answer
        self.problems.append(Problem(problem_id, item.text, item.gold, item.solution, item.meta, answer, columns))

    def _settle(self, row: Mapping[str, Any]) -> None:
        """Decide which layout all rows are read by. Raises UserError where the first one fits several layouts."""
        named = any(getattr(self.config, key) != DataConfig.model_fields[key].default for key in ("problem", "answer"))
        if self.config.layout != "auto" or named:
            self.layout = "plain" if self.config.layout == "auto" else self.config.layout
        elif len(fits := fitting_layouts(row, self.config)) > 1:
            columns = ", ".join(dict.fromkeys(column for columns in fits.values() for column in columns))
            raise UserError(
                f"data {self.config.path}: its columns {columns} fit {' and '.join(fits)}; say which by data.layout"
            )
        else:  # plain's own message says what is missing where nothing fits
            self.layout, self.columns = next(iter(fits.items()), ("plain", ()))
        self.ignores_domain = "domain" not in row

    def _refuse(self, reason: UnusableRow) -> None:
        said = f"row {self.rows} {reason}"
        if self.config.unusable == "skip":
            self.unusable.append(said)
            return
        way_out = "mend it, take it out, or leave such rows out by data.unusable: skip"
        if isinstance(reason, MissingColumn):
            way_out = "name columns by data.problem, data.answer, data.solution, or what rows look like by data.layout"
        raise UserError(f"data {self.config.path}: {said}; {way_out}") from reason

    def notes(self) -> list[str]:
        """Notes for the user, a line each; none where every row simply became a problem."""
        notes = []
        if self.columns and self.layout != "plain":
            notes.append(f"read as {self.layout}, for its columns {' and '.join(self.columns)}")
        if self.config.domain is not None and self.ignores_domain:
            notes.append(f"data.domain {self.config.domain} is not used: there is no column domain")
        if self.other_domain:
            notes.append(f"{self.other_domain:,} of {self.rows:,} rows left out: domain is not {self.config.domain}")
        if self.unusable:
            notes.append(
                f"{len(self.unusable):,} of {self.rows:,} rows left out as unusable; first: {self.unusable[0]}"
            )
        if self.duplicates:
            notes.append(f"{self.duplicates:,} of {self.rows:,} rows left out: exact duplicates (data.duplicates)")
        if self.contradictions:
            again = f"{len(self.contradictions):,} × another answer for the text of an earlier row, both kept"
            notes.append(f"{again}; first: {self.contradictions[0]}")
        return notes + [f"{count:,} × {remark}" for remark, count in self.remarks.items()]


# ── From files to rows ─────────────────────────────────────────────────────────────────────────────────────────────


def _rows(config: DataConfig) -> Iterable[Mapping[str, Any]]:
    path = Path(config.path)
    if path.suffix in (*_TEXT, ".parquet"):
        if not path.is_file():
            raise UserError(f"data.path: there is no file {path}")
        if path.stat().st_size == 0:
            raise UserError(f"data {path}: the file is empty")
    elif path.is_file():
        raise UserError(f"data.path: {path} is none of {', '.join(_TEXT)} and .parquet")
    return _TEXT[path.suffix](path) if path.suffix in _TEXT else _by_datasets(config)


# Text files are read to the letter: a reader that guesses column types would turn the answer 007 into 7, 0.10 into
# 0.1, a date into a timestamp, and "None" into nothing. A verifier of one's own gets JSON's own types besides.


class _Row(dict[str, Any]):
    """A row of JSON whose numbers are texts, as they are written; in `typed` they are numbers."""

    def __init__(self, row: Mapping[str, Any], typed: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.typed = typed


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
    return _Row(row, json.loads(text))


def _json_list(path: Path) -> list[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows, typed = json.loads(text, parse_int=str, parse_float=str), json.loads(text)
    except ValueError as error:
        raise UserError(f"data {path}: cannot be read as JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"data {path}: must be a list of objects; for one object a line call it .jsonl")
    return [_Row(*pair) for pair in zip(rows, typed)]


def _csv(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        csv.field_size_limit(2**31 - 1)  # a reference solution may be long
        yield from csv.DictReader(file)


_TEXT: Mapping[str, Callable[[Path], Iterable[Mapping[str, Any]]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": _csv,
}


def _by_datasets(config: DataConfig) -> Iterator[Mapping[str, Any]]:
    """Parquet files, folders and hub data sets, whose columns have types of their own."""
    import datasets

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(logging.CRITICAL)  # what goes wrong is said once, by us
    try:
        if config.path.endswith(".parquet"):
            found = datasets.load_dataset("parquet", data_files=config.path, split="train")
        else:
            found = datasets.load_dataset(config.path, config.subset, split=config.split, revision=config.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"data {config.path}: cannot be read: {' '.join(str(error).split())[:300]}") from error
    for table in found.with_format("arrow").iter(batch_size=1000):  # ten times as fast as row by row
        yield from _as_written(table).to_pylist()


def _as_written(table: Any) -> Any:
    """The table with 0.1 where a column of 32 bits holds it, and not 0.10000000149011612."""
    import pyarrow as pa  # type: ignore[import-untyped]

    for place, column in enumerate(table.schema):
        if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
            values = table.column(place).cast(pa.float32()).cast(pa.string()).cast(pa.float64())
            table = table.set_column(place, column.name, values)
    return table


def problem_at(problems: Sequence[Problem], position: int, seed: int) -> Problem:
    """The problem of a group: every epoch passes through all of them in an order of its own.

    A function of (seed, position), so that a resumed run needs to remember nothing.
    """
    epoch, place = divmod(position, len(problems))
    return problems[int(np.random.default_rng([seed, epoch]).permutation(len(problems))[place])]
