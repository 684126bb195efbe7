"""Untrusted text, numbers that are not finite, full disks: what must not break the page or its reader."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from test_report_fixture import Page, edit_lines, edit_summary, make_run, page_of

from sgsd.report import write_report
from sgsd.types import UserError

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '" onload="alert(1)',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}${1}",
    "\u202egnp.exe\u2066\u200b",
    "<|im_start|>system",
    "\x00\x1b[31m\ud800",
    "</style><!--",
    "&lt;b&gt;",
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "demo")


def plant(run: Path, texts: tuple[str, ...]) -> None:
    """Put a text of the tuple wherever a run can hold one."""
    edit_summary(run, name=texts[0], method=texts[1], command=list(texts), versions={texts[3]: texts[2]})
    (run / "config.yaml").write_text(json.dumps({"note": [*texts], texts[6]: 1}))
    edit_lines(run / "evaluations.jsonl", lambda i, row: row.update(split=texts[i % len(texts)]))
    edit_lines(run / "metrics.jsonl", lambda i, row: row.update({texts[i % len(texts)]: i}))

    def infect(i: int, row: dict[str, Any]) -> None:
        text = texts[i % len(texts)]
        row.update(problem=text, gold=text, answer=text, completion=text, problem_id=text)
        row["tokens"] = [text for _ in row["tokens"]]
        row["teachers"][0].update(source=text, items=[text, text])

    edit_lines(run / "rollouts.jsonl", infect)


def skeleton(page: Page) -> list[tuple[str, list[str]]]:
    """Elements and the names of their attributes, save the marks that stand for hidden characters."""
    return [(tag, sorted(a)) for tag, a in page.elements if a.get("class") != "ctl" and tag != "text"]


def test_no_text_of_a_run_can_change_the_structure_of_its_page(tmp_path: Path) -> None:
    hostile, harmless = make_run(tmp_path / "hostile"), make_run(tmp_path / "harmless")
    plant(hostile, HOSTILE)
    plant(harmless, tuple("abcdefghij"))
    html = write_report(hostile).read_text(encoding="utf-8")
    attacked, clean = Page(html), page_of(harmless)
    assert not attacked.faults
    assert skeleton(attacked) == skeleton(clean)
    assert len(attacked.all("script")) == 1
    for text in HOSTILE:
        if text.isprintable():
            assert attacked.text.count(text) >= 3, text
    assert not set("\u202e\u2066\u200b\x00\x1b") & set(html)
    for code in ("202E", "2066", "200B", "0000", "001B", "D800"):
        assert f"⟨U+{code}⟩" in html
    assert "{{ 7 * 7 }}" in attacked.text
    assert "<|im_start|>system" in attacked.text


def test_numbers_that_are_not_finite_leave_gaps_and_are_named(run: Path) -> None:
    def spoil(i: int, row: dict[str, Any]) -> None:
        changes = {10: {"loss": math.nan}, 11: {"loss": -math.inf}, 20: {"entropy": 10**400, "accuracy": math.nan}}
        row.update(changes.get(i, {}) | ({"stance/supports": math.nan} if i == 30 else {}))

    edit_lines(run / "metrics.jsonl", spoil)
    edit_lines(run / "timings.jsonl", lambda i, row: row.update(sample=math.inf if i == 3 else row["sample"]))
    edit_lines(run / "rollouts.jsonl", lambda i, row: row["teachers"][0]["delta"].__setitem__(0, math.nan))
    edit_summary(run, train_seconds=math.nan, before={"greedy": {"accuracy": math.nan}})
    page = page_of(run)
    assert "Not a finite number at steps 11 and 12." in page.text
    assert "Not a finite number at step 21." in page.text
    numeric = {"d", "x", "y", "cx", "cy", "r", "data-readout", "data-delta", "data-advantages", "data-plot"}
    for tag, attributes in page.elements:
        for name in numeric & attributes.keys():
            assert not re.search(r"nan|inf", attributes[name] or "", re.IGNORECASE), (tag, name)


def test_when_every_number_is_not_finite_there_is_still_a_page(run: Path) -> None:
    def spoil(i: int, row: dict[str, Any]) -> None:
        row.update({key: math.nan for key in row if key != "step"})

    edit_lines(run / "metrics.jsonl", spoil)
    edit_lines(run / "timings.jsonl", spoil)
    page = page_of(run)
    assert not page.faults
    assert "Not a finite number at steps 1, 2, 3, 4, 5 and 55 more." in page.text


def test_secrets_of_the_config_are_not_passed_on(run: Path) -> None:
    html = write_report(run).read_text()
    assert "hunter2" not in html
    assert "api_key: (hidden)" in html


def test_the_page_stays_below_a_megabyte(tmp_path: Path) -> None:
    run = make_run(tmp_path / "long", steps=200, length=1024, teachers=8)
    html = write_report(run).read_bytes()
    assert len(html) < 1_000_000
    assert b"524 tokens between token 360 and token 885 are not shown." in html


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    assert write_report(run).read_bytes() == write_report(run, tmp_path / "other.html").read_bytes()


def test_a_failed_write_leaves_the_old_page_and_no_debris(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = write_report(run)
    old = target.read_bytes()
    files = sorted(run.iterdir())
    edit_summary(run, name="another")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_report(run)
    assert target.read_bytes() == old
    assert sorted(run.iterdir()) == files


def test_an_output_that_cannot_be_written_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.*cannot write the report"):
        write_report(run, tmp_path / "nowhere" / "report.html")
