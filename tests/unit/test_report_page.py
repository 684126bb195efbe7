"""The page as a whole: a run in, HTML out, judged by a parser and not by eye."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
from test_report_fixture import Page, edit_lines, edit_summary, make_run, page_of

from sgsd.report import write_report
from sgsd.types import UserError

ADDRESSES = {"src", "href", "srcset", "action", "data", "poster", "xlink:href", "formaction", "ping", "background"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "demo")


def test_the_page_is_well_formed_and_named(run: Path) -> None:
    page = page_of(run)
    assert not page.faults
    assert not page.open
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(deeper - level <= 1 for level, deeper in pairwise(levels))
    drawings = page.all("svg")
    assert len(drawings) > 12
    assert all(svg["aria-label"] and svg["role"] == "img" for svg in drawings)
    assert len([title for title in page.texts["title"] if title.strip()]) == len(drawings) + 1


def test_identifiers_are_unique_and_every_link_of_the_page_leads_somewhere(run: Path) -> None:
    page = page_of(run)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in page.all("a")} <= {f"#{name}" for name in ids}


def test_nothing_is_loaded_from_anywhere(run: Path) -> None:
    html = write_report(run).read_text()
    page = Page(html)
    for tag, attributes in page.elements:
        assert tag not in {"img", "link", "iframe", "object", "embed", "base"}
        for name, value in attributes.items():
            assert name not in ADDRESSES or (value or "").startswith("#"), (tag, name, value)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bfetch\(|import\(|innerHTML", html)


def test_the_policy_allows_the_inline_style_and_script_by_hash_and_nothing_else(run: Path) -> None:
    page = page_of(run)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules["default-src"] == "'none'"
    for tag in ("style", "script"):
        digest = b64encode(sha256("".join(page.texts[tag]).encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
        assert len(page.all(tag)) == 1
    names = {name for _, attributes in page.elements for name in attributes}
    assert "style" not in names
    assert not [name for name in names if name.startswith("on")]


def test_the_headline_has_the_numbers_of_the_summary(run: Path) -> None:
    text = page_of(run).text
    expected = (
        "avg@4 on 512 held-out problems rose from 42.1 % (40–44) to 86.3 % (85–88) in 60 steps, 14 s of training."
    )
    assert expected in text
    assert "do not overlap" in text
    assert "50.8 % (46–55)" in text
    assert "88.1 % (85–91)" in text


def test_overlapping_intervals_are_called_no_change(run: Path) -> None:
    edit_summary(run, after={"avg_at_4": {"accuracy": 0.44, "low": 0.42, "high": 0.46}})
    text = page_of(run).text
    assert "went from 42.1 % (40–44) to 44.0 % (42–46)" in text
    assert "overlap: this run alone does not show a change" in text
    assert "rose" not in text


def test_a_fall_is_called_a_fall(run: Path) -> None:
    edit_summary(run, after={"avg_at_4": {"accuracy": 0.30, "low": 0.28, "high": 0.32}})
    assert "fell from 42.1 % (40–44) to 30.0 % (28–32)" in page_of(run).text


def test_a_run_in_progress_says_how_far_it_is(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", finished=False)
    text = page_of(run).text
    assert "Not finished: step 12 of 60. avg@4 on 512 held-out problems was 42.1 % (40–44) at step 0." in text
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    recent = sum(row["accuracy"] for row in rows[-10:]) / 10
    assert f"In the last 10 steps, {100 * recent:.1f} % of the training rollouts were correct." in text
    (run / "metrics.jsonl").write_text("")
    (run / "evaluations.jsonl").unlink()
    assert "Not finished: step 0 of 60. Nothing has been measured yet." in page_of(run).text


def test_a_run_in_progress_with_two_evaluations_compares_them(run: Path) -> None:
    (run / "summary.json").unlink()
    text = page_of(run).text
    assert "So far, avg@4 on 512 held-out problems rose from 42.1 % (40–44) to 86.3 % (84–88), by step 60." in text


@pytest.mark.parametrize("name", ["metrics", "timings", "evaluations", "rollouts"])
def test_a_torn_last_line_is_left_out_and_said(run: Path, name: str) -> None:
    path = run / f"{name}.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    page = page_of(run)
    assert not page.faults
    assert f"{name}.jsonl ends in an unfinished line" in page.text


@pytest.mark.parametrize(
    "name", ["config.yaml", "timings.jsonl", "evaluations.jsonl", "rollouts.jsonl", "summary.json"]
)
def test_every_file_but_the_metrics_may_be_missing(run: Path, name: str) -> None:
    (run / name).unlink()
    page = page_of(run)
    assert not page.faults
    assert page.all("svg")


def test_without_metrics_the_user_is_told_what_to_do(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"metrics\.jsonl: missing; give the folder") as caught:
        write_report(run)
    assert "\n" not in str(caught.value)
    assert not (run / "report.html").exists()


def test_unknown_metrics_have_a_curve_of_their_own(run: Path) -> None:
    page = page_of(run)
    assert "Other metrics" in page.texts["h2"]
    assert "bank_items" in page.texts["h3"]
    assert any(
        (svg["aria-label"] or "").startswith("bank_items: 24 at step 1, 30 at step 60") for svg in page.all("svg")
    )


def test_a_method_without_teachers_has_no_section_about_them(run: Path) -> None:
    gone = {
        "stance/supports",
        "stance/neutral",
        "stance/suppresses",
        "polarity/validated",
        "polarity/neutral",
        "polarity/reversed",
    }
    gone |= {"gate_kept", "delta_abs"}
    edit_lines(run / "metrics.jsonl", lambda i, row: [row.pop(key) for key in gone])
    edit_lines(
        run / "rollouts.jsonl", lambda i, row: row.update(teachers=[], advantages=None if i else row["advantages"])
    )
    page = page_of(run)
    assert not page.faults
    assert "What the teachers said" not in page.texts["h2"]
    assert not page.all("table")
    assert len(page.all("article")) == 12


def test_outcomes_masks_and_teachers_of_a_rollout_are_all_shown(run: Path) -> None:
    page = page_of(run)
    labels = [str(article["aria-label"]) for article in page.all("article")]
    rows = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    assert labels == [f"Rollout {i} of 12, {row['status']}" for i, row in enumerate(rows, start=1)]
    assert sum(a.get("class") == "out" for a in page.all("span")) == 12 * 2  # one token each, and its legend
    radios = page.all("input")
    assert len(radios) == 12 * (4 + 1)
    first = [row for row in radios if row["name"] == "colour-1" and "data-delta" in row]
    for radio, teacher in zip(first, rows[0]["teachers"]):
        read = [int(value) / 1000 for value in str(radio["data-delta"]).split(",")]
        assert read == pytest.approx(teacher["delta"], abs=6e-4)
    assert "✗ incorrect" in page.text
    assert "✓ correct" in page.text
