"""The layouts of published data: what each row becomes, what is refused, and how a layout is recognised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

import standins
from sgsd.config.sections import DataConfig
from sgsd.data.problems import load_problems, read_problems
from sgsd.data.row_layouts import (
    ANSWER_OF_THE_MODEL,
    DAPO_FRAME,
    FRAME_TAKEN_OFF,
    READERS,
    SYSTEM_LEFT_OUT,
    UnusableRow,
    answer_in,
    conversational,
    dapo,
    fitting_layouts,
    openthoughts,
)
from sgsd.types import UserError

CONFIG = DataConfig()
ROWS = {
    "plain": standins.plain_row("1+1?", "2"),
    "dapo": standins.dapo_row("1+1?", "2"),
    "conversational": standins.conversational_row("1+1?", "2"),
    "openthoughts": standins.metadata_row("1+1?", "2"),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


# ── Rows ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("row", [*ROWS.values(), standins.turns_row("1+1?", "2")])
def test_every_layout_gives_the_same_problem_and_answer(row: dict[str, Any]) -> None:
    (layout,) = fitting_layouts(row, CONFIG)
    item = READERS[layout](row, CONFIG)
    assert (item.text, item.gold) == ("1+1?", "2")
    assert item.solution in (None, standins.DERIVATION.format(gold="2"))


def test_dapo_loses_its_frame_only_where_it_is_there_to_the_letter() -> None:
    assert dapo(standins.dapo_row("1+1?", "2"), CONFIG).remarks == (FRAME_TAKEN_OFF,)
    kept = DataConfig(strip_instruction=False)
    assert dapo(standins.dapo_row("1+1?", "2"), kept).text == "1+1?".join(DAPO_FRAME)
    before, after = DAPO_FRAME
    for text in (before + "1+1?", "1+1?" + after, "1+1?", before.lower() + "1+1?" + after, before + "  " + after):
        row = {**standins.dapo_row("", "2"), "prompt": [{"role": "user", "content": text}]}
        assert dapo(row, CONFIG).text == text
        assert dapo(row, CONFIG).remarks == ()


@given(st.text(min_size=1).filter(lambda text: text.strip() and text.isprintable()))
def test_what_the_frame_held_comes_out_as_it_was(text: str) -> None:
    assert dapo(standins.dapo_row(text, "2"), CONFIG).text == text


def test_a_system_text_is_left_out_and_said() -> None:
    row = standins.conversational_row("1+1?", "2")
    row["prompt"] = [{"role": "system", "content": "Be brief."}, *row["prompt"]]
    assert conversational(row, CONFIG).remarks == (SYSTEM_LEFT_OUT,)
    assert conversational(row, CONFIG).text == "1+1?"
    assert SYSTEM_LEFT_OUT in openthoughts(standins.turns_row("1+1?", "2"), CONFIG).remarks


def test_openthoughts_answers_with_its_solution_and_not_with_its_thoughts() -> None:
    item = openthoughts(standins.turns_row("1+1?", "2"), CONFIG)
    assert item.gold == "2"  # its thoughts box a 0
    assert item.solution == standins.DERIVATION.format(gold="2")
    row = standins.turns_row("1+1?", "2")
    row["conversations"][1]["value"] = "So \\boxed{2}."
    assert openthoughts(row, CONFIG).solution == "So \\boxed{2}."


def test_openthoughts_metadata_trusts_the_reference_first() -> None:
    row = standins.metadata_row("1+1?", "2")
    assert openthoughts({**row, "ground_truth_solution": "It is \\boxed{3}."}, CONFIG).gold == "3"
    bare = openthoughts({**row, "ground_truth_solution": "4"}, CONFIG)
    assert (bare.gold, bare.solution) == ("4", row["deepseek_solution"])
    long = openthoughts({**row, "ground_truth_solution": "Add.\nThen add.\nDone."}, CONFIG)
    assert (long.gold, long.remarks) == ("2", (ANSWER_OF_THE_MODEL,))
    assert long.meta == {"domain": "math", "source": "numina_math"}


@pytest.mark.parametrize(
    ("text", "gold", "solution"),
    [
        ("So \\boxed{1}, no, \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}", True),
        ("\\boxed{4}", "4", False),
        ("$\\boxed{4}$.", "4", False),
        ("1+1=2\n#### 2", "2", True),
        ("#### 2", "2", False),
        (" \\frac{1}{2} ", "\\frac{1}{2}", False),
    ],
)
def test_where_the_answer_of_a_reference_stands(text: str, gold: str, solution: bool) -> None:
    assert answer_in(text, "solution") == (gold, text if solution else None)


def changed(row: dict[str, Any], **columns: Any) -> dict[str, Any]:
    return {key: value for key, value in {**row, **columns}.items() if value != "gone"}


USER = {"role": "user", "content": "1+1?"}
UNUSABLE: list[tuple[str, dict[str, Any], str]] = [
    ("plain", changed(ROWS["plain"], answer=" "), "has no answer"),
    ("plain", changed(ROWS["plain"], answer=None), "has no answer"),
    ("plain", changed(ROWS["plain"], problem=[USER]), "has a list as problem, not a text"),
    ("plain", changed(ROWS["plain"], answer="gone"), "has no column 'answer'; it has problem"),
    ("dapo", changed(ROWS["dapo"], prompt="1+1?"), "has no list of messages as prompt"),
    ("dapo", changed(ROWS["dapo"], prompt=[]), "has no list of messages as prompt"),
    ("dapo", changed(ROWS["dapo"], prompt=[USER, USER]), "with these roles before the answer: user, user"),
    ("dapo", changed(ROWS["dapo"], prompt=[{"role": "system", "content": "x"}]), "before the answer: system"),
    ("dapo", changed(ROWS["dapo"], prompt=[{"role": "user", "content": None}]), "has no prompt: content"),
    ("dapo", changed(ROWS["dapo"], reward_model={"ground_truth": None}), "has no reward_model.ground_truth"),
    ("dapo", changed(ROWS["dapo"], reward_model="4"), "has no reward_model with a ground_truth in it"),
    ("conversational", changed(ROWS["conversational"], solution="By\nadding."), "has no answer in solution"),
    ("conversational", changed(ROWS["conversational"], solution="x" * 201), "has no answer in solution"),
    ("conversational", changed(ROWS["conversational"], solution="cut off: \\boxed{4"), "has no answer in solution"),
    ("openthoughts", {"conversations": [{"from": "user", "value": "x"}]}, "do not end with an answer"),
    (
        "openthoughts",
        {"conversations": [{"from": "user", "value": "x"}, {"from": "assistant", "value": "print(4)"}]},
        "has no boxed answer in its last turn",
    ),
    ("openthoughts", {"conversations": [{"from": "assistant", "value": "\\boxed{4}"}]}, "before the answer: none"),
    (
        "openthoughts",
        changed(ROWS["openthoughts"], ground_truth_solution="a\nb", deepseek_solution="c"),
        "has no answer in ground_truth_solution, and no boxed one in deepseek_solution",
    ),
]


@pytest.mark.parametrize(("layout", "row", "reason"), UNUSABLE, ids=[reason[:48] for *_, reason in UNUSABLE])
def test_a_row_that_makes_no_problem_says_why(layout: str, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnusableRow) as refused:
        READERS[layout](row, CONFIG)
    assert reason in str(refused.value)


# ── Files ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def write(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> str:
    make = standins.write_parquet if suffix == "parquet" else standins.write_jsonl
    return make(folder / f"rows.{suffix}", rows)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("make", ["dapo_row", "conversational_row", "turns_row", "metadata_row", "plain_row"])
def test_a_file_is_recognised_by_its_first_row(make: str, suffix: str, tmp_path: Path) -> None:
    rows = [getattr(standins, make)(*sum_) for sum_ in standins.SUMS]
    problems, notes = read_problems(DataConfig(path=write(tmp_path, suffix, rows)))
    assert [(p.text, p.gold) for p in problems] == standins.SUMS
    assert any("read as" in note for note in notes) == (make != "plain_row")


def test_a_row_that_fits_two_layouts_is_refused_with_its_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl", [{**ROWS["dapo"], "solution": "4"}])
    with pytest.raises(UserError, match="columns prompt, reward_model, solution fit dapo and conversational"):
        load_problems(DataConfig(path=path))
    assert load_problems(DataConfig(path=path, layout="dapo"))[0].gold == "2"
    assert load_problems(DataConfig(path=path, layout="conversational"))[0].gold == "4"


def test_columns_that_are_named_decide(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl", [{**ROWS["dapo"], "question": "2+2?", "answer": "4"}])
    assert load_problems(DataConfig(path=path, problem="question"))[0].text == "2+2?"


def test_a_row_that_fits_nothing_names_its_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl", [{"prompt": "1+1?", "target": "2"}])
    with pytest.raises(UserError, match="row 1 has no column 'problem'; it has prompt, target; name columns by data"):
        load_problems(DataConfig(path=path))


def test_duplicates_are_dropped_and_counted_and_contradictions_kept_and_named(tmp_path: Path) -> None:
    rows = [standins.dapo_row(*sum_) for sum_ in standins.SUMS] * 100 + [standins.dapo_row("What is 1 + 2?", "12")]
    path = write(tmp_path, "parquet", rows)
    problems, notes = read_problems(DataConfig(path=path))
    assert len(problems) == 9
    assert "792 of 801 rows left out: exact duplicates (data.duplicates)" in notes
    assert "1 × another answer for the text of an earlier row, both kept; first: rows-800" in notes
    assert f"9 × {FRAME_TAKEN_OFF}" in notes
    assert len(read_problems(DataConfig(path=path, duplicates="keep"))[0]) == 801
    assert len(read_problems(DataConfig(path=path, duplicates="drop", limit=8))[0]) == 8


def test_unusable_rows_are_errors_or_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, "jsonl", [ROWS["plain"], {"problem": "a", "answer": ""}, {"problem": "b"}])
    with pytest.raises(UserError, match=r"rows.jsonl: row 2 has no answer; .*data.unusable: skip"):
        load_problems(DataConfig(path=path))
    with caplog.at_level("INFO", "sgsd"):
        assert len(load_problems(DataConfig(path=path, unusable="skip"))) == 1
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"data {path}: 2 of 3 rows left out as unusable; first: row 2 has no answer"]
    only_bad = write(tmp_path, "jsonl", [{"problem": "a", "answer": ""}])
    with pytest.raises(UserError, match=r"none of its 1 rows makes a problem; 1 of 1 rows left out as unusable; first"):
        load_problems(DataConfig(path=only_bad, unusable="skip"))


def test_one_domain_is_kept_where_there_is_such_a_column(tmp_path: Path) -> None:
    rows = [standins.metadata_row(*sum_) for sum_ in standins.SUMS] + [standins.metadata_row("Sort.", "x", "code")]
    path = write(tmp_path, "parquet", rows)
    assert len(read_problems(DataConfig(path=path))[0]) == 9
    problems, notes = read_problems(DataConfig(path=path, domain="math"))
    assert (len(problems), "1 of 9 rows left out: domain is not math" in notes) == (8, True)
    with pytest.raises(
        UserError, match=r"none of its 9 rows makes a problem; .*9 of 9 rows left out: domain is not maths"
    ):
        load_problems(DataConfig(path=path, domain="maths"))
    _, notes = read_problems(DataConfig(path=write(tmp_path, "jsonl", [ROWS["plain"]]), domain="math"))
    assert notes == ["data.domain math is not used: there is no column domain"]


def test_a_folder_of_files_is_read_as_the_hub_would(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    standins.write_parquet(folder / "train-00000.parquet", [standins.dapo_row(*s) for s in standins.SUMS[:4]])
    standins.write_parquet(folder / "train-00001.parquet", [standins.dapo_row(*s) for s in standins.SUMS[4:]])
    assert [p.gold for p in load_problems(DataConfig(path=str(folder)))] == [gold for _, gold in standins.SUMS]
    with pytest.raises(UserError, match="cannot be read"):
        load_problems(DataConfig(path=str(folder), split="test"))


def test_only_the_first_of_many_processes_tells(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "jsonl", [ROWS["dapo"]])
    for rank, told in (("0", 2), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        caplog.clear()
        with caplog.at_level("INFO", "sgsd"):
            load_problems(DataConfig(path=path))
        assert len(caplog.records) == told
