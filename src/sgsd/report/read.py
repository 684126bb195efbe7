"""The files of a run read into values. Nothing is written, and a run still in progress is a normal run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml

from sgsd.report.bank_section import parse_update, read_items
from sgsd.report.guard_section import guard_settings, read_fired
from sgsd.report.jsonl import Row, as_float, parse_object, read_lines
from sgsd.report.values import Estimate, Evaluation, Measurements, RolloutTrace, Run, Summary, TeacherTrace
from sgsd.secrets import hide_secrets, without_secrets
from sgsd.types import UserError

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

DATA_FILES = ("metrics", "timings", "evaluations", "rollouts", "bank")


def read_run(folder: Path) -> Run:
    """Read a run folder, finished or not.

    Raises UserError for a folder or a metrics file that is missing and for a file that cannot be understood.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder; give the folder that holds metrics.jsonl")
    if not (folder / "metrics.jsonl").is_file():
        raise UserError(f"{folder}/metrics.jsonl: missing; give the folder of a run that has begun training")
    files = {name: read_lines(folder / f"{name}.jsonl") for name in DATA_FILES}
    config = without_secrets(read_config(folder / "config.yaml"))
    summary, remarks = read_summary(folder / "summary.json")
    items, of_items = read_items(folder / "items.json")
    torn = [f"{name}.jsonl ends in an unfinished line, which is left out" for name in files if files[name].torn]
    metrics = last_by_key(map(parse_measurements, files["metrics"].rows), lambda row: row.step)
    timings = last_by_key(map(parse_measurements, files["timings"].rows), lambda row: row.step)
    evaluations = last_by_key(map(parse_evaluation, files["evaluations"].rows), lambda e: (e.step, e.split))
    rollouts = last_by_key(map(parse_rollout, files["rollouts"].rows), lambda r: (r.step, r.index))
    return Run(
        name=(summary.name if summary else "") or text_of(config.get("name")) or folder.resolve().name,
        method=(summary.method if summary else "") or text_of(config.get("method")),
        seed=(summary.seed if summary else "") or text_of(config.get("seed")),
        planned_steps=whole(config.get("steps")),
        skills=whole(nested(Row("config.yaml", config), "evaluation").fields.get("skills")),
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else "",
        metrics=metrics,
        timings=timings,
        evaluations=evaluations,
        rollouts=rollouts,
        items=items,
        updates=last_by_key(map(parse_update, files["bank"].rows), lambda update: update.step),
        guards=guard_settings(config),
        fired=read_fired(folder),
        summary=summary,
        remarks=(*remarks, *of_items, *torn),
    )


def last_by_key(values: Iterable[Value], key: Callable[[Value], Key]) -> tuple[Value, ...]:
    """One value a key, ordered by key: a resumed run writes some steps twice, and the later one counts."""
    latest = {key(value): value for value in values}
    return tuple(latest[k] for k in sorted(latest))  # type: ignore[type-var]


def parse_measurements(row: Row) -> Measurements:
    """One row of metrics or timings; what is no number (text, null, a list) is not a measurement."""
    numbers = {key: as_float(value) for key, value in leaves(row.fields) if key != "step"}
    return Measurements(row.integer("step"), {key: v for key, v in numbers.items() if v is not None})


def parse_evaluation(row: Row) -> Evaluation:
    return Evaluation(
        step=row.integer("step"),
        split=row.text("split") or "evaluation",
        problems=row.integer("problems", 0),
        measures=parse_measures(row),
    )


def parse_measures(row: Row) -> Mapping[str, Estimate]:
    """The estimates among a row's fields: {"greedy": {"accuracy": …}} and avg_at_4 or avg_at_k with its k."""
    measures: dict[str, Estimate] = {}
    for key, value in row.fields.items():
        if not isinstance(value, Mapping) or "accuracy" not in value:
            continue
        inner = Row(f"{row.where}, {key}", value)
        name = re.sub(r"^avg_at_", "avg@", key)
        name = f"avg@{inner.integer('k')}" if name == "avg@k" else name
        estimate = Estimate(inner.number("accuracy"), inner.number("low", math.nan), inner.number("high", math.nan))
        if math.isfinite(estimate.accuracy):
            measures[name] = estimate
    return MappingProxyType(measures)


def parse_rollout(row: Row) -> RolloutTrace:
    tokens = tuple(str(token) for token in row.items("tokens"))
    trace = RolloutTrace(
        step=row.integer("step"),
        index=row.integer("index"),
        problem_id=row.text("problem_id"),
        problem=row.text("problem"),
        gold=row.text("gold"),
        completion=row.text("completion"),
        tokens=tokens,
        status=row.text("status") or "unparsed",
        answer=row.text("answer"),
        outcome=row.integer("outcome", 0),
        mask=tuple(value != 0 for value in row.numbers("mask")),
        advantages=one_a_token(row, "advantages", len(tokens)),
        teachers=tuple(parse_teacher(teacher, len(tokens)) for teacher in row.rows("teachers")),
    )
    if not trace.mask:
        return replace(trace, mask=(True,) * len(tokens))
    one_a_token(row, "mask", len(tokens))
    return trace


def parse_teacher(row: Row, tokens: int) -> TeacherTrace:
    trace = TeacherTrace(
        source=row.text("source"),
        items=tuple(str(item) for item in row.items("items")),
        weight=row.number("weight", math.nan),
        support=row.number("support", math.nan),
        stance=verdict_of(row, "stance"),
        polarity=verdict_of(row, "polarity"),
        delta=one_a_token(row, "delta", tokens),
        gate=one_a_token(row, "gate", tokens),
    )
    if row.fields.get("skipped") is not True:
        return trace
    # What a run writes beside it are the numbers of nobody: no gap, no stance.
    return replace(trace, left_out=True, support=math.nan, stance=None, polarity=None, delta=(), gate=())


def verdict_of(row: Row, key: str) -> int | None:
    """A stance or a polarity; None where the method judges no teacher."""
    return None if row.fields.get(key) is None else row.integer(key)


def one_a_token(row: Row, key: str, tokens: int) -> tuple[float, ...]:
    values = row.numbers(key)
    if values and len(values) != tokens:
        raise UserError(
            f"{row.where}: field {key!r} has {len(values)} values for {tokens} tokens; delete the line or rewrite it"
        )
    return values


def read_summary(path: Path) -> tuple[Summary | None, tuple[str, ...]]:
    """The summary of a finished run, and a remark where the file is there but cannot be read (yet)."""
    if not path.is_file():
        return None, ()
    fields = parse_object(path.read_bytes())
    if fields is None:
        return None, ("summary.json is unfinished, so the run is shown as not finished",)
    row = Row(path.name, without_secrets(fields))
    trained = fields.get("steps") != 0
    shown = ("name", "method", "seed", "before", "after", "train_seconds")
    return Summary(
        name=row.text("name"),
        method=row.text("method"),
        seed=row.text("seed"),
        before=parse_measures(nested(row, "before")),
        after=parse_measures(nested(row, "after")) if trained else {},
        train_seconds=row.number("train_seconds", math.nan),
        facts=MappingProxyType(dict(flatten({k: v for k, v in row.fields.items() if k not in shown}))),
    ), ()


def nested(row: Row, key: str) -> Row:
    value = row.fields.get(key)
    return Row(f"{row.where}, {key}", value if isinstance(value, Mapping) else {})


def leaves(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """Nested mappings as ("versions · torch", "2.13") pairs."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, f"{path} · {key}" if path else str(key))
    else:
        yield path, value


def flatten(value: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """What there is, as text; lists are one line, as a command is."""
    for path, leaf in leaves({key.replace("_", " "): inner for key, inner in value.items()}):
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
