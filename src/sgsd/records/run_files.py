"""The files a run writes, one JSON object a line.

metrics (no clock in them), timings, evaluations, rollouts (some, with every token's numbers), sightings (what every
teacher said of every rollout), guards (those that fired), and, where the bank is kept up, memories and the bank's
changes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sgsd.records.glossary import METRIC_FILES, with_current_keys
from sgsd.types import UserError

FILES = ("metrics", "timings", "evaluations", "rollouts", "sightings", "memories", "bank", "guards")


class Records:
    """Appends to a run's JSONL files; knows their lengths, so that a resumed run continues where the checkpoint was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        with self.path(name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def read(self, name: str) -> list[dict[str, Any]]:
        if not self.path(name).exists():
            return []
        # Not splitlines, which also splits at separators that may stand inside a rollout's text.
        lines = self.path(name).read_text(encoding="utf-8").split("\n")
        found = [json.loads(line) for line in lines if line]
        return [with_current_keys(record) for record in found] if name in METRIC_FILES else found

    def offsets(self) -> dict[str, int]:
        """The length of every file, on disk for certain: a checkpoint must not outlive what it counts on."""
        for name in FILES:
            if self.path(name).exists():
                with self.path(name).open("rb") as file:
                    os.fsync(file.fileno())
        return {name: self.path(name).stat().st_size if self.path(name).exists() else 0 for name in FILES}

    def check_lengths(self, offsets: Mapping[str, int]) -> None:
        """Raises UserError where a file is shorter than it was at a checkpoint."""
        for name, offset in offsets.items():
            found = self.path(name).stat().st_size if self.path(name).exists() else 0
            if found < offset:
                raise UserError(
                    f"{self.path(name)}: has {found} bytes, {offset} when the checkpoint was saved;"
                    " restore it from a copy, or go on from an older checkpoint"
                )

    def truncate(self, offsets: Mapping[str, int]) -> None:
        """Forget what was written after a checkpoint."""
        for name, offset in offsets.items():
            if self.path(name).exists():
                os.truncate(self.path(name), offset)
