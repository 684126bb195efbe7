"""Sends the numbers of a run's JSONL files to a tracker as well; the files stay the truth.

A tracker gets the configuration (`public_config`) and every number of metrics, timings and evaluations at its step,
after it is on disk; never a rollout's text.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from sgsd.config.loading import read_saved
from sgsd.config.run_config import RunConfig
from sgsd.config.sections import TrackConfig
from sgsd.files import write_atomic
from sgsd.hub.public import public_config
from sgsd.records.glossary import flat_keys
from sgsd.records.run_files import Records
from sgsd.records.trackers import TRACKERS, Start, Tracker
from sgsd.types import UserError

#: The files a tracker sees, and what their numbers are called there.
PREFIX = {"metrics": "train", "timings": "timing", "evaluations": "held-out"}

LINK = "tracker.json"


@dataclass
class Link:
    """The tracker's run that belongs to a run folder, and the last step it was sent."""

    to: str
    project: str
    run: str | None = None
    sent: dict[str, int] = field(default_factory=dict)  # file → last step

    def save(self, folder: Path) -> None:
        """Not synced to the disk: it is written at every step, and a torn one only means a new run in the tracker."""
        write_atomic(folder / LINK, json.dumps(asdict(self)), sync=False)


class TrackerError(Exception):
    """A tracker failed, in one line."""


@contextmanager
def foreign() -> Iterator[None]:
    """Turn whatever a tracker's code or network raises into a `TrackerError`; used around every call of one."""
    try:
        yield
    except Exception as error:
        raise TrackerError(f"{type(error).__name__}: {' '.join(str(error).split())}"[:240]) from error


# ── What is sent ───────────────────────────────────────────────────────────────────────────────────────────────────


def numbers(record: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Every number of a record by its prefixed key, `train/loss`; step, texts and lists are left out."""
    return {
        f"{prefix}/{key}": value
        for key, value in flat_keys(record)
        if isinstance(value, int | float) and not isinstance(value, bool) and key != "step"
    }


class TrackedRecords(Records):
    """A run's files; every number written to them goes to a tracker too."""

    def __init__(self, folder: Path, tracker: Tracker, link: Link, warn: Callable[[str], None], *, keep: bool) -> None:
        super().__init__(folder)
        self.tracker: Tracker | None = tracker
        self.link, self.warn, self.keep = link, warn, keep
        # A resumed run passes steps again that it had sent before; trackers cannot take a number back.
        self.before = dict(link.sent)

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        super().write(name, record)
        self.send(name, record)

    def send(self, name: str, record: Mapping[str, Any]) -> None:
        """Send a record; a tracker that fails gets nothing more in this session."""
        if self.tracker is None or name not in PREFIX or record["step"] <= self.before.get(name, -1):
            return
        try:
            with foreign():
                self.tracker.log(numbers(record, PREFIX[name]), record["step"])
        except TrackerError as error:
            self._give_up(error, f"at step {record['step']}")
            return
        self.link.sent[name] = record["step"]
        if self.keep:
            self.link.save(self.folder)

    def catch_up(self) -> None:
        """Send what the files already hold, in the order of steps."""
        past = [(record["step"], name, record) for name in PREFIX for record in self.read(name)]
        for _, name, record in sorted(past, key=lambda entry: entry[0]):
            self.send(name, record)

    def close(self, *, failed: bool = False) -> None:
        if self.tracker is None:
            return
        try:
            with foreign():
                self.tracker.finish(failed=failed)
        except TrackerError as error:
            self._give_up(error, "at the end")

    def _give_up(self, error: TrackerError, when: str) -> None:
        self.tracker = None
        self.warn(
            f"{self.link.to} failed {when} ({error}); the run goes on without it and its own files are complete:"
            f" sgsd track {self.folder} --to {self.link.to} sends them again"
        )


@contextmanager
def tracked(records: Records, config: RunConfig, console: Console, *, resumed: bool) -> Iterator[Records]:
    """Records that a tracker sees too; for the first process only.

    A tracker that does not start stops a new run, of which nothing is lost yet, and costs a resumed one a warning.
    Raises UserError: the tracker is not installed, or did not start.
    """

    def warn(text: str) -> None:
        console.print(f"Warning: {text}", markup=False, soft_wrap=True)

    if config.track.to == "none":
        yield records
        return
    check_tracker(config.track)
    link = read_link(records.folder, config.track)
    try:
        shown = connect(records.folder, config.track, config.model_dump(mode="json"), link, warn)
    except TrackerError as error:
        if not resumed:
            raise UserError(
                f"track.to: {config.track.to} does not start ({error}); mend it, then start with --resume, or leave"
                " it out by --resume --track.to none"
            ) from error
        warn(f"{config.track.to} does not start ({error}); the run goes on without it")
        yield records
        return
    if shown.tracker is not None:
        console.print(f"{config.track.to}: {link.run} ({shown.tracker.look})", markup=False, soft_wrap=True)
    finished = False
    try:
        yield shown
        finished = True
    finally:
        shown.close(failed=not finished)


def connect(
    folder: Path,
    config: TrackConfig,
    known: Mapping[str, Any],
    link: Link,
    warn: Callable[[str], None],
    *,
    keep: bool = True,
) -> TrackedRecords:
    """Start the tracker, or go on in the run that `link` names, and bring it up to date with the files.

    `known` is the run's configuration; `keep` remembers the tracker's run in the folder. Raises TrackerError: it does
    not start.
    """
    records = Records(folder)
    last = {name: max((record["step"] for record in records.read(name)), default=-1) for name in PREFIX}
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(known.get("name") or folder.name))[:80]
    start = Start(
        config=config,
        folder=folder,
        new_name=f"{plain}-{uuid.uuid4().hex[:8]}",  # runs of one name must not become one
        run=link.run,
        next_step=max(last.values()) + 1,
        settings={
            key: value if value is None or isinstance(value, str | int | float) else str(value)
            for key, value in flat_keys(public_config(known), ".")
        },
    )
    with foreign():
        tracker = TRACKERS[config.to](start)
    if tracker.run != link.run:
        link.sent = {}
    elif tracker.rewinds:
        link.sent = {name: min(last[name], step) for name, step in link.sent.items()}
    link.run = tracker.run
    if keep:
        link.save(folder)
    shown = TrackedRecords(folder, tracker, link, warn, keep=keep)
    shown.catch_up()
    return shown


def export(folder: Path, config: TrackConfig) -> str:
    """Send all of a run's files to a new run of a tracker; returns that run's name there.

    Raises UserError: no run in this folder, or the tracker is missing or failed.
    """
    saved = folder / "config.yaml"
    if not saved.is_file() or not (folder / "metrics.jsonl").is_file():
        raise UserError(f"{folder}: there is no run here; name the folder that holds config.yaml and metrics.jsonl")
    check_tracker(config)
    known = read_saved(saved)
    failures: list[str] = []
    try:
        shown = connect(folder, config, known, Link(config.to, config.project), failures.append, keep=False)
    except TrackerError as error:
        raise UserError(f"track: {config.to} does not start ({error})") from error
    shown.close()
    if failures:
        raise UserError(f"track: {failures[0]}")
    return str(shown.link.run)


def check_tracker(config: TrackConfig) -> None:
    """Raises UserError where the tracker's library is not installed."""
    if config.to != "none" and find_spec(config.to) is None:
        raise UserError(f"track.to: {config.to} is not installed; pip install {config.to}, or --track.to none")


def read_link(folder: Path, config: TrackConfig) -> Link:
    """The link of this folder; a new one where nothing was sent to this tracker and project."""
    fresh = Link(config.to, config.project)
    path = folder / LINK
    if not path.is_file():
        return fresh
    try:
        link = Link(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):  # torn by a crash: the tracker gets a new run, whole
        return fresh
    return link if (link.to, link.project) == (config.to, config.project) else fresh
