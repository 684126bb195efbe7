"""Reads the files of a run. Nothing is written, and a run still in progress is a normal run."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sgsd.records.glossary import flat_keys, with_current_keys
from sgsd.records.lenient import Line, Whole, as_float, parse
from sgsd.records.rollout_schema import RolloutRecord
from sgsd.report.values import (
    BankItem,
    BankItems,
    BankUpdate,
    Estimate,
    Evaluation,
    Fired,
    GuardSetting,
    Measurements,
    Run,
    Summary,
)
from sgsd.secrets import hide_secrets, without_secrets
from sgsd.types import UserError

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

DATA_FILES = ("metrics", "timings", "evaluations", "rollouts", "bank", "guards")


# ── Lines that know where they stand, so that every complaint names file, line and field ───────────────────────────


@dataclass(frozen=True, slots=True)
class Row:
    """One JSON object and the place it was read from ("metrics.jsonl, line 3")."""

    where: str
    fields: Mapping[str, Any]

    def parse(self, kind: type[Value], **more: Any) -> Value:
        """The object as a `kind`, with further fields. Raises UserError for a field that is not what it should be."""
        return parse(kind, {**self.fields, **more}, self.where)

    def inside(self, key: str) -> Row:
        """The object under a key; empty where there is none."""
        value = self.fields.get(key)
        return Row(f"{self.where}, {key}", value if isinstance(value, Mapping) else {})


@dataclass(frozen=True, slots=True)
class Lines:
    """The rows of one file; `torn` when the last line was still being written and is left out."""

    rows: tuple[Row, ...]
    torn: bool = False


def parse_object(text: bytes) -> Mapping[str, Any] | None:
    """One JSON object, or None when the bytes are not one (UnicodeDecodeError is a ValueError too)."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, Mapping) else None


def read_lines(path: Path) -> Lines:
    """The objects of a JSON Lines file; no file, no rows.

    Raises UserError: a broken line, with file and line; an unfinished last one, which a run in progress or a killed one
    leaves behind, is only `torn`.
    """
    if not path.is_file():
        return Lines(())
    rows: list[Row] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            fields = parse_object(line)
            if fields is None and not line.endswith(b"\n"):
                return Lines(tuple(rows), torn=True)
            where = f"{path.name}, line {number}"
            if fields is None:
                raise UserError(f"{where}: not a JSON object; mend or delete that line of {path}")
            rows.append(Row(where, fields))
    return Lines(tuple(rows))


# ── The files ──────────────────────────────────────────────────────────────────────────────────────────────────────


def read_run(folder: Path) -> Run:
    """Read a run folder, finished or not.

    Raises UserError: the folder or its metrics are missing, or a file cannot be understood.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder; give the folder that holds metrics.jsonl")
    if not (folder / "metrics.jsonl").is_file():
        raise UserError(f"{folder}/metrics.jsonl: missing; give the folder of a run that has begun training")
    files = {name: read_lines(folder / f"{name}.jsonl") for name in DATA_FILES}
    config = without_secrets(read_config(folder / "config.yaml"))
    summary, remarks = read_summary(folder / "summary.json")
    items, of_items = read_items(folder / "items.json")
    torn = [
        f"{name}.jsonl ends in an unfinished line, which is left out"
        for name in files
        if name != "guards" and files[name].torn
    ]
    metrics = last_by_key(map(parse_measurements, files["metrics"].rows), lambda row: row.step)
    timings = last_by_key(map(parse_measurements, files["timings"].rows), lambda row: row.step)
    evaluations = last_by_key(map(parse_evaluation, files["evaluations"].rows), lambda e: (e.step, e.split))
    rollouts = last_by_key(map(parse_rollout, files["rollouts"].rows), lambda r: (r.step, r.index))
    return Run(
        name=(summary.name if summary else "") or text_of(config.get("name")) or folder.resolve().name,
        method=(summary.method if summary else "") or text_of(config.get("method")),
        seed=(summary.seed if summary else "") or text_of(config.get("seed")),
        planned_steps=whole(config.get("steps")),
        skills=whole(Row("config.yaml", config).inside("evaluation").fields.get("skills")),
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else "",
        metrics=metrics,
        timings=timings,
        evaluations=evaluations,
        rollouts=rollouts,
        items=items,
        updates=last_by_key((row.parse(BankUpdate) for row in files["bank"].rows), lambda update: update.step),
        guards=guard_settings(config),
        fired=tuple(row.parse(Fired) for row in files["guards"].rows),
        summary=summary,
        remarks=(*remarks, *of_items, *torn),
    )


def last_by_key(values: Iterable[Value], key: Callable[[Value], Key]) -> tuple[Value, ...]:
    """One value a key, ordered by key: a resumed run writes some steps twice, and the later one counts."""
    latest = {key(value): value for value in values}
    return tuple(latest[k] for k in sorted(latest))  # type: ignore[type-var]


class Stepped(Line):
    """Any line of a step."""

    step: Whole


def parse_measurements(row: Row) -> Measurements:
    """One row of metrics or timings; what is no number (text, null, a list) is not a measurement."""
    numbers = {}
    for key, value in flat_keys(with_current_keys(row.fields)):
        if key != "step" and (number := as_float(value)) is not None:
            numbers[key] = number
    return Measurements(row.parse(Stepped).step, numbers)


def parse_evaluation(row: Row) -> Evaluation:
    found = row.parse(Evaluation, measures=parse_measures(row))
    return found if found.split else found.model_copy(update={"split": "evaluation"})


class AtK(Line):
    """Any measure over k samples."""

    k: Whole


def parse_measures(row: Row) -> dict[str, Estimate]:
    """The estimates among a row's fields: {"greedy": {"accuracy": …}} and avg_at_4 or avg_at_k with its k."""
    measures: dict[str, Estimate] = {}
    for key, value in row.fields.items():
        if isinstance(value, Mapping) and "accuracy" in value:
            name = re.sub(r"^avg_at_", "avg@", key)
            name = f"avg@{row.inside(key).parse(AtK).k}" if name == "avg@k" else name
            estimate = row.inside(key).parse(Estimate)
            if math.isfinite(estimate.accuracy):
                measures[name] = estimate
    return measures


def parse_rollout(row: Row) -> RolloutRecord:
    found = row.parse(RolloutRecord)
    return found if found.mask else found.model_copy(update={"mask": (True,) * len(found.tokens)})


def read_items(path: Path) -> tuple[tuple[BankItem, ...], tuple[str, ...]]:
    """The items of a finished run, and a remark where the file is there but cannot be read (yet)."""
    if not path.is_file():
        return (), ()
    fields = parse_object(path.read_bytes())
    if fields is None:
        return (), (f"{path.name} is unfinished, so the items of the bank are not shown",)
    return Row(path.name, fields).parse(BankItems).items, ()


def guard_settings(config: Mapping[str, Any]) -> tuple[GuardSetting, ...]:
    """Every guard that the resolved config knows, whole; none where it is of another make."""
    known = config.get("guards")
    found = known.items() if isinstance(known, Mapping) else ()
    return tuple(
        GuardSetting(str(name), setting["window"], setting.get("action") != "off")
        for name, setting in found
        if isinstance(setting, Mapping) and isinstance(setting.get("window"), int)
    )


def read_summary(path: Path) -> tuple[Summary | None, tuple[str, ...]]:
    """The summary of a finished run, and a remark where the file is there but cannot be read (yet)."""
    if not path.is_file():
        return None, ()
    fields = parse_object(path.read_bytes())
    if fields is None:
        return None, ("summary.json is unfinished, so the run is shown as not finished",)
    row = Row(path.name, without_secrets(fields))
    trained = fields.get("steps") != 0
    facts = dict(flatten({key: value for key, value in row.fields.items() if key not in Summary.model_fields}))
    before, after = (parse_measures(row.inside(key)) for key in ("before", "after"))
    return row.parse(Summary, before=before, after=after if trained else {}, facts=facts), ()


def flatten(value: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Nested values as ("versions · torch", "2.13") pairs; a list is one line, as a command is."""
    for path, leaf in flat_keys({key.replace("_", " "): inner for key, inner in value.items()}, " · "):
        if leaf is not None:
            yield path, hide_secrets(" ".join(map(str, leaf)) if isinstance(leaf, list) else str(leaf))


def read_config(path: Path) -> Mapping[str, Any]:
    """The resolved config; empty where the file is missing."""
    if not path.is_file():
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = str(error).splitlines()[0]
        raise UserError(f"{path}: not readable as YAML ({line}); mend the file or move it away") from error
    if config is not None and not isinstance(config, Mapping):
        raise UserError(f"{path}: should hold `key: value` lines; mend the file or move it away")
    return config or {}


def whole(value: Any) -> int | None:
    """A config value that counts something; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def text_of(value: Any) -> str:
    """A short config value as text; a mapping stands for its `name` or `kind`."""
    if isinstance(value, Mapping):
        return text_of(value.get("name") or value.get("kind"))
    return "" if value is None or isinstance(value, list) else str(value)
