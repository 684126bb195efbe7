"""The page's part on the bank: what came of its items, what the updates did, and nothing that a bank says obeyed."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from test_report_fixture import Page, make_run, page_of, write_lines
from test_report_hardening import HOSTILE, skeleton

from sgsd.report import write_report
from sgsd.report.bank_section import MOST_ITEMS, MOST_UPDATES
from sgsd.types import UserError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "demo")


def item(number: int, standing: float = 0.0, **changes: Any) -> dict[str, Any]:
    """A line of items.json as a run writes it."""
    counts = {"retrieved": 20, "validated": 9, "reversed": 1, "neutral": 10}
    said = {"id": f"gen_{number:03d}", "kind": "skill", "says": f"Advice {number}", "learned": None, "kept": True}
    return {**said, "standing": standing, **counts, "contrast": None, **changes}


def update(step: int, **changes: Any) -> dict[str, Any]:
    """A line of bank.jsonl as a run writes it."""
    found = {"added": [f"gen_{step:03d}"], "removed": [], "refused": {"states an answer": 2, "speaks to the model": 1}}
    return {"step": step, "success": 0.5, "memories": 64, "proposals": 7, **found, "event": step, **changes}


def give_bank(run: Path, items: list[dict[str, Any]], updates: list[dict[str, Any]] | None = None) -> Path:
    (run / "items.json").write_text(json.dumps({"items": items}))
    if updates is not None:
        write_lines(run / "bank.jsonl", updates)
    return run


def rows_of(page: Page) -> list[str]:
    """The items that the table shows, in its order."""
    return [text for text in page.texts["code"] if re.fullmatch(r"(gen|err)_\d{3}", text)]


def test_a_run_without_a_bank_has_no_part_on_it(run: Path) -> None:
    assert "The bank" not in page_of(run).texts["h2"]


def test_an_item_is_shown_with_its_counts_its_standing_and_its_interval(run: Path) -> None:
    items = [
        item(1, 0.0514),
        item(2, -0.02, id="err_002", kind="mistake", learned=25, kept=False, retrieved=1234, says="Haste"),
        item(3, retrieved=0, validated=0, reversed=0, neutral=0),
    ]
    page = page_of(give_bank(run, items))
    assert not page.faults
    assert not page.open
    assert "The bank" in page.texts["h2"]
    assert {"href": "#bank"} in page.all("a")
    assert "2 of 3 items were shown to a teacher; 1 learned during the run; 1 no longer in the bank." in page.text
    table = page.text[page.text.index("Share validated") :]
    assert "+0.051" in table
    assert "start" in table
    assert "90 % (60–98)" in table
    assert "step 25, gone" in table
    assert "1,234" in table
    assert "Advice 3" not in table, "it was never shown"
    pictures = [svg for svg in page.all("svg") if svg["class"] == "share"]
    assert [svg["aria-label"] for svg in pictures] == ["validated 90\u00a0% of the times it was judged"] * 2
    assert sum(a.get("class") == "n ink-positive" for a in page.all("td")) == 1
    assert sum(a.get("class") == "n ink-negative" for a in page.all("td")) == 1


def test_the_best_and_the_worst_are_shown_in_the_order_of_their_standing(run: Path) -> None:
    order = [(7 * i) % 50 for i in range(50)]
    page = page_of(give_bank(run, [item(i, standing=i - 24.5) for i in order]))
    assert "… and 30 in between" in page.text
    half = MOST_ITEMS // 2
    best, worst = [f"gen_{i:03d}" for i in range(49, 49 - half, -1)], [f"gen_{i:03d}" for i in range(half - 1, -1, -1)]
    assert rows_of(page)[:MOST_ITEMS] == best + worst


def test_an_item_that_was_never_judged_has_no_share(run: Path) -> None:
    page = page_of(give_bank(run, [item(1, validated=0, reversed=0)]))
    assert "83 %" not in page.text
    assert not [svg for svg in page.all("svg") if svg["class"] == "share"]


def test_updates_say_what_they_added_removed_and_refused_or_why_they_failed(run: Path) -> None:
    names = [f"err_{i:03d}" for i in range(5)]
    updates = [update(25, removed=names), {"step": 50, "failed": "the server is away"}]
    page = page_of(give_bank(run, [item(25, says="Add the digits")], updates))
    assert not page.faults
    (code,) = [c for c in page.all("code") if c.get("title") == "Add the digits"]
    assert code == {"title": "Add the digits"}
    assert "and 2 more" in page.text
    assert "no update: the server is away" in page.text
    cells = [re.sub(r"\s", "", text) for text in page.texts["td"]]
    assert {"25", "50%", "7", "3", "50"} <= set(cells)


def test_of_many_updates_the_latest_are_shown(run: Path) -> None:
    page = page_of(give_bank(run, [item(0)], [update(step) for step in range(1, 31)]))
    assert f"the latest {MOST_UPDATES} of 30" in page.text
    assert rows_of(page)[1 : 1 + MOST_UPDATES] == [f"gen_{step:03d}" for step in range(11, 31)]


def test_a_run_in_progress_shows_its_updates_and_says_what_is_to_come(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", finished=False)
    write_lines(run / "bank.jsonl", [update(4)])
    page = page_of(run)
    assert "What came of each item is written down when the run ends." in page.text
    assert "gen_004" in page.text


def test_a_step_made_again_after_a_resume_counts_once(run: Path) -> None:
    page = page_of(give_bank(run, [], [update(4), update(8), update(8, added=["gen_100"])]))
    assert rows_of(page)[:2] == ["gen_004", "gen_100"]


def test_no_text_of_a_bank_can_change_the_structure_of_the_page(tmp_path: Path) -> None:
    def planted(run: Path, texts: tuple[str, ...]) -> Path:
        items = [item(i, id=text, kind=text, says=text, standing=-i) for i, text in enumerate(texts)]
        named = {"added": list(texts[:3]), "removed": list(texts[3:6]), "refused": dict.fromkeys(texts, 1)}
        failed = [{"step": 100 + i, "failed": text} for i, text in enumerate(texts)]
        return give_bank(run, items, [update(4, **named), *failed])

    attacked = write_report(planted(make_run(tmp_path / "hostile"), HOSTILE)).read_text(encoding="utf-8")
    harmless = page_of(planted(make_run(tmp_path / "harmless"), tuple("abcdefghij")))
    page = Page(attacked)
    assert not page.faults
    assert skeleton(page) == skeleton(harmless)
    for text in HOSTILE:
        if text.isprintable():
            assert page.text.count(text) >= 4, text
    assert not set("\u202e\u2066\u200b\x00\x1b") & set(attacked)


def test_numbers_that_are_not_finite_are_not_drawn(run: Path) -> None:
    bad = {"standing": math.nan, "validated": 0, "reversed": 0}
    page = page_of(give_bank(run, [item(1, 0.5), item(2, **bad), item(3, -0.5)], [update(4, success=math.nan)]))
    assert rows_of(page)[:3] == ["gen_001", "gen_003", "gen_002"]
    for _, attributes in page.elements:
        for name in {"d", "cx", "cy"} & attributes.keys():
            assert "nan" not in (attributes[name] or "")


def test_a_long_text_is_cut_and_a_long_id_cannot_widen_the_page(run: Path) -> None:
    page = page_of(give_bank(run, [item(1, says="x" * 500)]))
    assert "x" * 159 + "…" in page.text
    assert "x" * 160 not in page.text


@pytest.mark.parametrize("text", ['{"items": [{"id": "a', "[]", ""])
def test_a_torn_file_is_left_out_and_said(run: Path, text: str) -> None:
    (run / "items.json").write_text(text)
    assert "items.json is unfinished, so the items of the bank are not shown" in page_of(run).text


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ({}, "items.json: field 'items' should be a list"),
        ([3], "field 'items' should be a list of objects"),
        ([item(1), item(2, validated="nine")], r"items.json, items\[1\]: field 'validated' should be a whole number"),
        ([item(1) | {"standing": None}], "field 'standing' should be a number"),
        ([item(1, says=["a"])], "field 'says' should be a text"),
        ([item(1, learned="early")], "field 'learned' should be a whole number"),
    ],
)
def test_what_cannot_be_understood_is_named_with_its_place(run: Path, items: Any, says: str) -> None:
    (run / "items.json").write_text(json.dumps({"items": items}))
    with pytest.raises(UserError, match=says) as caught:
        write_report(run)
    assert "\n" not in str(caught.value)


def test_an_update_that_cannot_be_understood_is_named_with_its_line(run: Path) -> None:
    write_lines(run / "bank.jsonl", [update(4), update(8, refused={"a": "many"})])
    with pytest.raises(UserError, match=r"bank\.jsonl, line 2: field 'a' should be a whole number"):
        write_report(run)
