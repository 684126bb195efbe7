"""What an evaluation records: a line for each graded sample. Every figure is a function of these lines.

An evaluation's folder holds EVALUATION (what was evaluated and how, written before the first sample) and ROWS. A run
folder holds the same two files for the evaluations of its training; its rows have a step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from pydantic import TypeAdapter, ValidationError

from sgsd.types import Status, UserError

EVALUATION, ROWS = "evaluation.json", "evaluation_rows.jsonl"
ROOM = 1 << 20  # samples of a problem, and problems of a benchmark, that an index has room for


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRow:
    """One graded sample of one problem."""

    benchmark: str
    problem: str  # its id within the benchmark
    sample: int  # 0, 1, … within the problem
    seed: int
    index: int  # (seed, index) decides the sample's random numbers
    status: Status
    answer: str | None = None  # as the verifier read it
    reward: float | None = None  # share of full marks, where the verifier gives one
    tokens: int = 0  # of the completion, end token included
    truncated: bool = False  # cut off by its length
    looped: bool = False  # ends in a stretch that repeats itself
    greedy: bool = False  # the likeliest token each time; such a row has sample 0 and is in no mean over samples
    step: int | None = None  # of the run that was being trained
    text: str = ""

    @property
    def key(self) -> tuple[int | None, str, str, bool, int]:
        """No two rows of an evaluation have the same."""
        return self.step, self.benchmark, self.problem, self.greedy, self.sample

    @property
    def correct(self) -> bool:
        """What the verifier could not decide counts as not correct."""
        return self.status is Status.CORRECT


ROW: TypeAdapter[EvalRow] = TypeAdapter(EvalRow)


def row_index(benchmark: str, place: int, sample: int) -> int:
    """The index of a sample, whatever else is evaluated with it: further samples and benchmarks change none.

    Raises:
        ValueError: more problems or samples than there is room for.
    """
    if not (0 <= place < ROOM and 0 <= sample < ROOM):
        raise ValueError(f"place {place} or sample {sample} is not below {ROOM:,}")
    return (crc32(benchmark.encode()) * ROOM + place) * ROOM + sample


def append_rows(path: Path, rows: Iterable[EvalRow]) -> None:
    """Add lines by a single write that is on the disk when this returns: a kill tears the last one at most."""
    lines = "".join(json.dumps(to_json(row), ensure_ascii=False) + "\n" for row in rows)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        data = lines.encode()
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(row: EvalRow) -> dict[str, Any]:
    """A row's fields, without those that have nothing to say."""
    return {name: value for name, value in asdict(row).items() if value is not None and value is not False}


def read_rows(path: Path) -> list[EvalRow]:
    """All rows of a file; a last line that a kill tore is left out.

    Raises:
        UserError: a line that is no row, or one whose sample an earlier line has already.
    """
    rows: dict[tuple[Any, ...], EvalRow] = {}
    for number, line in _whole_lines(path):
        try:
            row = ROW.validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(map(str, first["loc"])) or "the line"
            raise UserError(
                f"{path}, line {number}: {at}: {first['msg'][:200]}; restore the file from a copy, or delete the line"
            ) from error
        if row.key in rows:
            raise UserError(
                f"{path}, line {number}: sample {row.sample} of {row.benchmark} {row.problem} is there twice;"
                " two evaluations have written here: delete one's lines"
            )
        rows[row.key] = row
    return list(rows.values())


def _whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every line that ends, with its number from 1."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield number, line


# ── Read back ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Recorded:
    """An evaluation as its folder has it, of one step of training or of a model that is not trained here."""

    folder: Path
    settings: Mapping[str, Any]  # EVALUATION's content
    rows: Sequence[EvalRow]
    step: int | None = None

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """In the order in which they were evaluated."""
        return tuple(dict.fromkeys(row.benchmark for row in self.rows))


def read_evaluation(folder: Path, step: int | None = None) -> Recorded:
    """An evaluation's or a run's folder; of a run the evaluation after `step`, or after its last one.

    Raises:
        UserError: there is no evaluation here, or none of this step.
    """
    described = folder / EVALUATION
    if not described.is_file() or not (folder / ROWS).is_file():
        raise UserError(
            f"{folder}: there is no evaluation here ({EVALUATION} and {ROWS}); make one: sgsd eval MODEL BENCHMARK"
        )
    try:
        settings = json.loads(described.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{described}: is not readable as JSON: {error}") from error
    rows = read_rows(folder / ROWS)
    steps = sorted({row.step for row in rows if row.step is not None})
    if step is None and steps:
        step = steps[-1]
    kept = [row for row in rows if row.step == step]
    if not kept:
        has = f"it has {', '.join(map(str, steps))}" if steps else "its rows have no step"
        raise UserError(f"{folder}: no evaluation after step {step}; {has}")
    return Recorded(folder, settings, kept, step)
