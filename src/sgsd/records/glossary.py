"""One name for each metric: its key in a run's files and trackers, its label, unit and meaning for people.

All of them stand in glossary.toml. docs/glossary.md is written from it (`python -m sgsd.records.glossary`), and so are
the live view's rows and the report's titles and captions. Keys of earlier versions are mapped to today's when a file
is read, never when written.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

File = Literal["metrics", "timings", "evaluations"]
METRIC_FILES: tuple[File, ...] = get_args(File)


@dataclass(frozen=True, slots=True)
class Metric:
    """One number that a run writes down; a `*` in key and label stands for a name that the run chooses."""

    key: str
    label: str
    unit: str = ""
    sentence: str = ""
    trl: str = ""
    old_keys: Sequence[str] = ()
    file: File = "metrics"


_TABLES = tomllib.loads((files("sgsd.records") / "glossary.toml").read_text(encoding="utf-8"))
METRICS = tuple(Metric(key, **found, file=file) for file in METRIC_FILES for key, found in _TABLES[file].items())
#: What each guard sees, what that is a sign of, and what to do.
GUARD_WORDS: Mapping[str, Mapping[str, Any]] = _TABLES["guards"]

GLOSSARY: Mapping[str, Metric] = {metric.key: metric for metric in METRICS}
_NEW_KEY = {old: metric.key for metric in METRICS for old in metric.old_keys}


def with_current_keys(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of metrics, timings or evaluations with the keys of earlier versions mapped to today's.

    >>> with_current_keys({"step": 1, "unknown": 0.25, "validated": 0.5})
    {'step': 1, 'ungraded': 0.25, 'polarity/validated': 0.5}
    """
    return {_NEW_KEY.get(key, key): value for key, value in record.items()}


def flat_keys(record: Mapping[str, Any], separator: str = "/") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested record under their joined keys.

    >>> dict(flat_keys({"step": 1, "greedy": {"accuracy": 0.5}}))
    {'step': 1, 'greedy/accuracy': 0.5}
    """
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}{separator}{inner}", leaf) for inner, leaf in flat_keys(value, separator))
        else:
            yield key, value


def find_metric(key: str) -> Metric | None:
    """The entry of a flat key, with its `*` filled in; None where the glossary has none.

    >>> find_metric("sources/shuffled/validated").label
    'Validated: shuffled'
    """
    if key in GLOSSARY:
        return GLOSSARY[key]
    first, _, rest = key.partition("/")
    name, _, last = rest.rpartition("/")
    found = GLOSSARY.get(f"{first}/*/{last}" if name else f"{first}/*")
    return None if found is None else replace(found, key=key, label=found.label.replace("*", name or last))


# ── docs/glossary.md ───────────────────────────────────────────────────────────────────────────────────────────────

TITLES: Mapping[File, str] = {
    "metrics": "`metrics.jsonl`, one line a step (`train/…` in trackers)",
    "timings": "`timings.jsonl`, one line a step (`timing/…` in trackers)",
    "evaluations": "`evaluations.jsonl`, one line an evaluation (`held-out/…` in trackers)",
}
MARK = "<!-- Below this line: made from src/sgsd/records/glossary.toml by `python -m sgsd.records.glossary`. -->"


def metric_tables() -> str:
    """The page's tables of metrics, as Markdown."""
    blocks = []
    for file, title in TITLES.items():
        rows = [
            f"| `{m.key}` | {m.label.replace('|', chr(92) + '|')} | {m.unit} | {m.sentence.replace('|', chr(92) + '|')}"
            f" | {', '.join(f'`{key}`' for key in m.trl.split(', ') if key)}"
            f" | {', '.join(f'`{key}`' for key in m.old_keys)} |"
            for m in METRICS
            if m.file == file
        ]
        head = "| key | label | unit | meaning | TRL's key | earlier key |\n| --- | --- | --- | --- | --- | --- |"
        blocks.append("\n".join((f"### {title}", "", head, *rows)))
    return "\n\n".join(blocks) + "\n"


def write_page(path: Path) -> None:
    """Bring the page's tables up to date; what stands above the mark is written by hand and stays."""
    by_hand = path.read_text(encoding="utf-8").split(MARK)[0]
    path.write_text(f"{by_hand}{MARK}\n\n{metric_tables()}", encoding="utf-8")


if __name__ == "__main__":
    write_page(Path("docs/glossary.md"))
