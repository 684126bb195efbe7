"""What the page says in words: where a run stands, what was measured and on which prompts, which guards watched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_report_fixture import BEFORE, edit_lines, edit_summary, make_run, page_of, write_lines

from sgsd.report import write_report


def configure(run: Path, **changes: Any) -> None:
    path = run / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def fire(run: Path, *lines: tuple[int, str, str]) -> None:
    write_lines(
        run / "guards.jsonl",
        [{"step": step, "guard": guard, "action": action, "message": "too much"} for step, guard, action in lines],
    )


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """Stands at step 12 of 60."""
    return make_run(tmp_path / "demo", finished=False)


# ── Where it stands ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fired", "state"),
    [
        ([], "not finished: step 12 of 60"),
        ([(12, "length", "warn")], "not finished: step 12 of 60"),
        ([(5, "chase", "stop")], "not finished: step 12 of 60"),  # it was resumed since
        ([(12, "length", "warn"), (12, "chase", "stop")], "stopped by guard chase at step 12 of 60"),
    ],
)
def test_a_run_without_a_summary_says_no_more_than_its_files(
    fired: list[tuple[int, str, str]], state: str, unfinished: Path
) -> None:
    fire(unfinished, *fired)
    page = page_of(unfinished)
    assert state in page.texts["span"]
    assert f"{state.capitalize()}. avg@4" in page.text
    assert "running" not in page.text


def test_a_guard_at_the_last_step_has_nothing_to_stop(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo")
    fire(run, (30, "length", "stop"), (60, "chase", "stop"))
    text = page_of(run).text
    assert text.count("The run was stopped here.") == 1
    assert "60 steps, finished" in text


# ── What was measured ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_trained_nothing_has_one_measurement(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo")
    configure(run, steps=0)
    edit_summary(run, steps=0, before=BEFORE, after=BEFORE)
    for name in ("metrics", "timings", "rollouts"):
        (run / f"{name}.jsonl").write_text("")
    evaluations = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    write_lines(run / "evaluations.jsonl", evaluations[:1])
    page = page_of(run)
    assert not page.faults
    expected = "avg@4 on 512 held-out problems is 42.1 % (40–44), greedy 50.8 % (46–55). Nothing was trained."
    assert expected in page.text
    assert "avg@4: the share of correct answers over 4 sampled answers a problem." in page.text
    for said in (" went from ", "before", "Training time", "overlap"):
        assert said not in page.text, said


@pytest.mark.parametrize(
    ("skills", "headline"),
    [
        (0, "avg@4 on 512 held-out problems rose from"),
        (1, "avg@4 on 512 held-out problems, with up to 1 pair of the bank in each prompt, rose from"),
        (8, "avg@4 on 512 held-out problems, with up to 8 pairs of the bank in each prompt, rose from"),
    ],
)
def test_the_page_says_what_the_held_out_prompts_show(skills: int, headline: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo")
    assert "prompts are plain" not in page_of(run).text  # the config does not say
    configure(run, evaluation={"skills": skills})
    text = page_of(run).text
    assert headline in text
    assert ("The held-out prompts are plain. avg@4:" in text) == (skills == 0)


# ── Guards, and what the figures are called ────────────────────────────────────────────────────────────────────────

WATCHED = {
    "chase": {"bound": 1.5, "window": 10, "action": "warn"},
    "length": {"bound": 2.0, "window": 13, "action": "stop"},
    "style": {"bound": 0.3, "window": 99, "action": "off"},
}


def test_the_details_say_how_many_guards_watched(unfinished: Path) -> None:
    assert "watched" not in page_of(unfinished).text
    configure(unfinished, guards=WATCHED)
    assert "No guard fired: 2 watched, 1 off; 1 had fewer steps than its window." in page_of(unfinished).text
    configure(unfinished, guards={**WATCHED, "length": {"window": 12, "action": "warn"}})
    fire(unfinished, (12, "length", "warn"))
    assert "A guard fired: 2 watched, 1 off. " in page_of(unfinished).text


def test_the_page_of_a_real_config_counts_all_guards(unfinished: Path) -> None:
    from sgsd.config.guards_config import GuardsConfig

    configure(unfinished, guards=GuardsConfig().model_dump(mode="json"))
    expected = "No guard fired: 16 watched, 0 off; 1 had fewer steps than its window."  # support_auc's is 20
    assert expected in page_of(unfinished).text


def test_every_number_of_a_step_has_a_name_or_its_own_key(tmp_path: Path) -> None:
    def more(i: int, row: dict[str, Any]) -> None:
        row.update(sampler_mismatch=1e-4 * i, sampler_mismatch_max=1e-3 * i)
        row.update(staleness=int(i > 0), support_auc_count=100 + i)
        row["sources"] = {"shuffled": {"share": 0.25, "validated": i / 100, "reversed": 0.1}}

    run = make_run(tmp_path / "demo")
    edit_lines(run / "metrics.jsonl", more)
    page = page_of(run)
    titles = {title.strip() for title in page.texts["h3"]}
    assert {"Sampler mismatch", "Largest sampler mismatch", "Staleness", "Teachers behind the AUC"} <= titles
    assert "Validated: shuffled" in titles
    assert "Reversed: shuffled" in page.texts["dt"]  # it never changed
    assert not titles & {"sampler_mismatch", "sampler_mismatch_max", "staleness", "support_auc_count"}


def test_the_caption_of_polarity_promises_no_direction(tmp_path: Path) -> None:
    text = page_of(make_run(tmp_path / "demo")).text
    assert "Reversed: it disagrees." in text
    assert "moves away" not in text


def test_teachers_that_were_not_judged_have_no_verdict_on_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", teachers=2, rollouts=1)

    def unjudged(i: int, row: dict[str, Any]) -> None:
        first, second = row["teachers"]
        row["teachers"] = [{k: first[k] for k in ("source", "items", "weight", "delta", "gate")}]
        row["teachers"].append({**second, "skipped": True, "weight": 0.0, "stance": 0, "polarity": 0, "support": 0.0})

    edit_lines(run / "rollouts.jsonl", unjudged)
    html = write_report(run).read_text()
    row, left_out = html.split("Teachers of this rollout")[1].split("<tr><td><label>")[-2:]
    for shown in (row, left_out):
        assert "neutral</td>" not in shown
        assert "<td>–</td></tr>" in shown
    assert "left out" in left_out
    assert "left out" not in row
