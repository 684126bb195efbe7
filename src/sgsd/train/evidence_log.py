"""The ledger of a run: every teacher that judged a rollout is entered, on all processes alike.

The entries themselves are kept, in `sightings.jsonl`: a resumed run reads its ledger back from them, so a checkpoint
needs to remember no more than the file's length, and anybody can ask them something new afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import groupby
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from sgsd.bank import BankStore, Ledger, TeacherObservation
from sgsd.distributed.processes import from_first
from sgsd.files import write_atomic
from sgsd.records.run_files import Records
from sgsd.train.run_bank import STORE, item_records

NAME = "sightings"


@dataclass
class EvidenceLog:
    """Holds the ledger up to date; a run whose method judges no teachers has an empty one."""

    accelerator: Accelerator
    records: Records
    ledger: Ledger = field(default_factory=Ledger)

    def open(self) -> None:
        """Read back what an earlier session has entered."""
        self.ledger = from_first(self.accelerator, lambda: read_ledger(self.records.read(NAME)))

    def after_step(self, step: int, sightings: Sequence[tuple[int, TeacherObservation]]) -> None:
        """Enter the step's teachers, of all processes; each comes with the index of its rollout."""
        everyone = gather_object([as_row(index, seen) for index, seen in sightings])
        if not everyone:
            return
        everyone.sort()  # by rollout and teacher: the file is the same however many processes there are
        if self.accelerator.is_main_process:
            self.records.write(NAME, {"step": step, "teachers": everyone})
        self.ledger = self.ledger.observe(map(of_row, everyone))

    def close(self) -> None:
        """Leave the ledger beside the run's other results, and what came of each item, in words, for the report."""
        if self.accelerator.is_main_process and self.ledger.items:
            write_atomic(self.records.folder / "ledger.json", json.dumps(self.ledger.to_json()))
            if not (self.records.folder / STORE).exists():
                return  # the items are those of a user's own context, and no bank's
            with BankStore(self.records.folder / STORE, read_only=True) as store:
                told = {"items": item_records(store, self.ledger)}
            write_atomic(self.records.folder / "items.json", json.dumps(told, ensure_ascii=False))


Row = list[Any]  # rollout, ids, outcome, support, polarity: what a line of the file holds of one teacher


def as_row(index: int, seen: TeacherObservation) -> Row:
    return [index, list(seen.items), seen.outcome, seen.support, seen.polarity]


def of_row(row: Row) -> TeacherObservation:
    _, items, outcome, support, polarity = row
    return TeacherObservation(tuple(items), outcome, support, polarity)


def read_ledger(lines: Iterable[dict[str, Any]]) -> Ledger:
    """The ledger after all those steps."""
    by_step = groupby(lines, key=lambda line: line["step"])
    steps = ([row for line in group for row in line["teachers"]] for _, group in by_step)
    return reduce(lambda ledger, rows: ledger.observe(map(of_row, rows)), steps, Ledger())
