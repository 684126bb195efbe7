"""One name for each metric: what runs write is in the glossary, what the glossary names is shown by it, and old files
are read with today's names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from runs import run_small
from sgsd.records.glossary import GLOSSARY, MARK, METRICS, find_metric, flat_keys, metric_tables, with_current_keys
from sgsd.records.guards import GUARDS
from sgsd.records.live_view import ROWS
from sgsd.records.run_files import Records
from sgsd.report import figures
from sgsd.report.read import read_run

ROOT = Path(__file__).parents[2]


def test_keys_are_unique_and_no_old_key_is_in_use() -> None:
    assert len(GLOSSARY) == len(METRICS)
    old = [key for metric in METRICS for key in metric.old_keys]
    assert len(set(old)) == len(old)
    assert not set(old) & set(GLOSSARY)
    labels = [metric.label for metric in METRICS]
    assert len(set(labels)) == len(labels)


def test_every_metric_has_a_label_and_a_sentence() -> None:
    for metric in METRICS:
        assert metric.label, metric.key
        assert re.fullmatch(r"[A-Z].*\.", metric.sentence), metric.key


def test_the_page_is_up_to_date() -> None:
    """`python -m sgsd.records.glossary` writes it."""
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert page.split(MARK)[1].strip() == metric_tables().strip()


def test_what_is_shown_comes_from_the_glossary() -> None:
    shown = {*ROWS, *figures.DRAWN, *figures.STAGES, figures.SPEED}
    assert shown <= set(GLOSSARY)


def test_every_metric_is_drawn_or_is_known_not_to_be() -> None:
    drawn = {*figures.DRAWN, *figures.STAGES, figures.SPEED, "accuracy", "rollouts"}
    left = {m.key for m in METRICS if m.file != "evaluations"} - drawn
    assert left == {
        "step", "tokens", "bank", "support_histogram", "polarity_histogram", "skipped_teachers", "untaught_rollouts",
        "objective/*", "sources/*/share", "sources/*/teachers", "sources/*/validated", "sources/*/reversed",
    }  # fmt: skip


def test_guards_read_keys_of_the_glossary() -> None:
    asked: set[str] = set()

    class Asked(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            asked.add(key)
            return super().get(key, 0.5)

        def __getitem__(self, key: str) -> Any:
            asked.add(key)
            return self.get(key)

    for guard in GUARDS.values():
        guard.figure([Asked() for _ in range(12)], 4)
    assert {"entropy", "polarity/reversed", "sampler_mismatch"} <= asked <= set(GLOSSARY)


SETTINGS: dict[str, dict[str, Any]] = {
    "sgsd": {"method": {"name": "sgsd", "k": 2, "also": "answer"}, "prompts": {"unfit": "skip"}},
    "grpo": {"method": {"name": "grpo"}, "group": 4},
    "opsd": {"method": {"name": "opsd"}},
}


def written_keys(folder: Path) -> dict[str, set[str]]:
    return {
        name: {key for record in Records(folder).read(name) for key, _ in flat_keys(record)}
        for name in ("metrics", "timings", "evaluations")
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_every_key_that_a_run_writes_is_in_the_glossary(name: str, tmp_path: Path) -> None:
    evaluation = {"data": {"path": "lab:held-out"}, "problems": 4, "samples": 2}
    settings = {"steps": 1, "rollouts": 4, "evaluation": evaluation, **SETTINGS[name]}
    folder = run_small(tmp_path / "run", **settings)
    for file, keys in written_keys(folder).items():
        assert {"metrics": "loss", "timings": "sample", "evaluations": "greedy/accuracy"}[file] in keys
        for key in keys:
            metric = find_metric(key)
            assert metric is not None, f"{file}: {key}"
            assert metric.file == file or key == "step" or key in ("truncated", "ungraded"), f"{file}: {key}"
    assert ("polarity/validated" in written_keys(folder)["metrics"]) == (name == "sgsd")


def test_files_with_earlier_keys_are_read_by_todays_names(tmp_path: Path) -> None:
    new = {
        "step": 2,
        "ungraded": 0.5,
        "polarity/neutral": 0.25,
        "sampler_mismatch": 1e-6,
        "sources": {"a": {"reversed": 1}},
    }
    back = {"ungraded": "unknown", "polarity/neutral": "neutral", "sampler_mismatch": "sampler_gap"}
    old = {back.get(key, key): value for key, value in new.items()}
    assert with_current_keys(old) == with_current_keys(new) == new
    text = json.dumps({**old, "step": 1}) + "\n" + json.dumps(new) + "\n"
    (tmp_path / "metrics.jsonl").write_text(text)
    assert Records(tmp_path).read("metrics") == [{**new, "step": 1}, new]
    first, second = read_run(tmp_path).metrics
    assert first.values == second.values
    records = Records(tmp_path)
    records.write("bank", {"step": 1, "unknown": 1})  # a word of another file is left alone
    assert records.read("bank") == [{"step": 1, "unknown": 1}]
