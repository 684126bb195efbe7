"""Problems from files and from the lab, and the order in which a run meets them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgsd.bank.leaks import leak
from sgsd.config.sections import DataConfig
from sgsd.contexts import Answer, Resources
from sgsd.contexts.prompts import Quote, load_prompts
from sgsd.data.problems import LAB_TRAINING_PROBLEMS, load_problems, problem_at
from sgsd.lab.task import is_held_out
from sgsd.types import Problem, UserError

ROWS = [
    {"problem": "What is 1,000+1?", "answer": "1001", "solution": 'First\nthen, "so".'},
    {"problem": "Größer: √2 or 1{{ x }}?\u2028Say.", "answer": "\\sqrt{2}", "solution": "½"},
    {"problem": " 2+2 ", "answer": "4", "solution": "2+2=4"},
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder: Path, suffix: str, rows: Sequence[Mapping[str, Any]]) -> str:
    path = folder / f"sums.{suffix}"
    if suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif suffix == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == "json":
        path.write_text(json.dumps(list(rows)), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def golds(path: str) -> list[str | None]:
    return [problem.gold for problem in load_problems(DataConfig(path=path))]


# ── Files ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "csv"])
def test_every_format_gives_the_same_problems(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path, suffix, ROWS)
    assert load_problems(DataConfig(path=path, solution="solution")) == [
        Problem(f"sums-{i}", row["problem"], row["answer"], row["solution"]) for i, row in enumerate(ROWS)
    ]


def test_a_solution_is_read_only_where_a_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl", ROWS)
    assert [problem.solution for problem in load_problems(DataConfig(path=path))] == [None] * 3
    with pytest.raises(UserError, match="row 1 has no column 'proof'; it has problem, answer, solution"):
        load_problems(DataConfig(path=path, solution="proof"))
    gap = write(tmp_path, "jsonl", [ROWS[0], {**ROWS[1], "solution": ""}])
    with pytest.raises(UserError, match="row 2 has no solution"):
        load_problems(DataConfig(path=gap, solution="solution"))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_columns_have_the_names_that_are_given(suffix: str, tmp_path: Path) -> None:
    rows = [{"problem": "not this", "q": row["problem"], "a": row["answer"], "s": row["solution"]} for row in ROWS]
    config = DataConfig(path=write(tmp_path, suffix, rows), problem="q", answer="a", solution="s")
    found = [(p.text, p.gold, p.solution) for p in load_problems(config)]
    assert found == [(row["problem"], row["answer"], row["solution"]) for row in ROWS]


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (2, 2), (9, 3), (None, 3)])
def test_the_limit_takes_the_first_rows(limit: int | None, count: int, tmp_path: Path) -> None:
    found = load_problems(DataConfig(path=write(tmp_path, "jsonl", ROWS), limit=limit))
    assert [problem.text for problem in found] == [row["problem"] for row in ROWS[:count]]


def test_rows_beyond_the_limit_need_no_answer(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl", [ROWS[0], {**ROWS[1], "answer": None}])
    assert len(load_problems(DataConfig(path=path, limit=1))) == 1
    with pytest.raises(UserError, match="row 2 has no answer"):
        load_problems(DataConfig(path=path))


def test_a_file_that_has_changed_is_read_anew(tmp_path: Path) -> None:
    assert golds(write(tmp_path, "jsonl", ROWS[:1])) == ["1001"]
    assert golds(write(tmp_path, "jsonl", [{**ROWS[0], "answer": "1002"}])) == ["1002"]


def test_whole_numbers_are_answers_too(tmp_path: Path) -> None:
    rows = [{"problem": "1+1", "answer": 2}, {"problem": "0-1", "answer": -1}]
    assert golds(write(tmp_path, "jsonl", rows)) == golds(write(tmp_path, "parquet", rows)) == ["2", "-1"]
    assert golds(write(tmp_path, "csv", rows)) == ["2", "-1"]


@pytest.mark.parametrize(
    ("suffix", "answers"),
    [
        ("csv", ["007", "12"]),
        ("csv", ["0.10", "1e3"]),
        ("csv", ["None", "NA"]),
        ("jsonl", ["2024-01-02", "2024-01-03"]),
        ("jsonl", [12345678901234567890123, 2]),
        ("jsonl", [2, 2.5]),
    ],
    ids=["leading zeros", "trailing zero", "words for nothing", "dates", "many digits", "mixed numbers"],
)
def test_an_answer_is_what_the_file_says(suffix: str, answers: list[Any], tmp_path: Path) -> None:
    rows = [{"problem": f"p{i}", "answer": answer} for i, answer in enumerate(answers)]
    assert golds(write(tmp_path, suffix, rows)) == [str(answer) for answer in answers]


@pytest.mark.parametrize(
    ("name", "text"), [("a.csv", "problem,answer\nx,2\n"), ("a.jsonl", json.dumps(ROWS[0]) + "\n")]
)
def test_a_byte_order_mark_as_spreadsheets_write_it_is_no_obstacle(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert len(load_problems(DataConfig(path=str(tmp_path / name)))) == 1


LATIN = '{"problem": "Größer?", "answer": "2"}\n'.encode("latin-1")
LONG = f"problem,answer\n{'x' * 140_000},2\n".encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LATIN),
        ("a.csv", b"problem,answer\n" + LATIN),
        ("a.jsonl", b'{"problem": "x\\ud800", "answer": "2"}\n'),
    ],
    ids=["latin-1 in JSON lines", "latin-1 in CSV", "half a surrogate pair"],
)
def test_text_that_cannot_be_read_or_written_again_is_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        load_problems(DataConfig(path=str(tmp_path / name)))


def test_a_long_field_is_a_field(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(LONG)
    assert len(load_problems(DataConfig(path=str(tmp_path / "a.csv")))[0].text) == 140_000


# ── The lab's ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_lab_has_two_sides() -> None:
    training, held_out = (load_problems(DataConfig(path=f"lab:{side}")) for side in ("train", "held-out"))
    assert (len(training), len(held_out)) == (LAB_TRAINING_PROBLEMS, 512)
    assert not any(is_held_out(problem.text) for problem in training)
    assert all(is_held_out(problem.text) for problem in held_out)
    assert all(problem.gold and problem.solution for problem in (*training, *held_out))
    assert load_problems(DataConfig(path="lab:train", limit=20)) == training[:20]
    assert load_problems(DataConfig(path="lab:held-out", limit=20)) == held_out[:20]


def test_more_held_out_problems_than_there_are() -> None:
    with pytest.raises(UserError, match="3349 problems, 4000 were asked for"):
        load_problems(DataConfig(path="lab:held-out", limit=4000))


# ── The order ──────────────────────────────────────────────────────────────────────────────────────────────────────

FIFTY = [Problem(str(i), f"{i}+{i}") for i in range(50)]


def epoch(seed: int, number: int, problems: Sequence[Problem] = FIFTY) -> list[str]:
    n = len(problems)
    return [problem_at(problems, number * n + place, seed).id for place in range(n)]


@given(st.integers(0, 10_000), st.integers(0, 1000), st.integers(1, 12))
def test_an_epoch_passes_through_all_problems_once(seed: int, number: int, count: int) -> None:
    assert sorted(epoch(seed, number, FIFTY[:count])) == sorted(str(i) for i in range(count))


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    orders = {tuple(epoch(seed, number)) for seed in range(6) for number in (0, 1, 2, 3, 50, 999)}
    assert len(orders) == 36  # also (0, 1) and (1, 0), which a sum of seed and epoch would confuse
    assert all(list(order) != [p.id for p in FIFTY] for order in orders)


def test_the_order_is_a_function_of_seed_and_position() -> None:
    forwards = [problem_at(FIFTY, position, 3).id for position in range(120)]
    backwards = [problem_at(FIFTY, position, 3).id for position in reversed(range(120))]
    assert forwards == backwards[::-1]
    # Resumed runs rely on it across versions of ours and of NumPy.
    assert forwards[:6] == ["2", "11", "17", "28", "32", "23"]


# ── What is no answer, and what an answer is ───────────────────────────────────────────────────────────────────────

MISSING = {
    "nan.jsonl": '{"problem": "a?", "answer": NaN}\n',
    "infinity.jsonl": '{"problem": "a?", "answer": Infinity}\n',
    "minus.json": '[{"problem": "a?", "answer": -Infinity}]',
    "word.csv": "problem,answer\na?,nan\n",
    "spelt.jsonl": '{"problem": "a?", "answer": " NaN "}\n',
    "null.jsonl": '{"problem": "a?", "answer": null}\n',
    "blank.csv": "problem,answer\na?,  \n",
}


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_number_is_no_answer(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(MISSING[name])
    with pytest.raises(UserError, match=r"row 1 has .*answer"):
        load_problems(DataConfig(path=str(tmp_path / name)))


COLUMNS = {
    "nan": pyarrow.array([float("nan")]),
    "infinity of 32 bits": pyarrow.array([float("inf")], pyarrow.float32()),
    "bytes": pyarrow.array([b"34"]),
    "null": pyarrow.nulls(1, pyarrow.float64()),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_missing_number_in_a_typed_column_is_no_answer(name: str, tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"problem": ["a?"], "answer": COLUMNS[name]}), path)
    with pytest.raises(UserError, match=r"row 1 has .*answer"):
        load_problems(DataConfig(path=str(path)))


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_numbers_are_read_as_they_were_written(bits: int, tmp_path: Path) -> None:
    written, kind = [0.1, 0.25, -3.7, 100.5, 1e-3], getattr(pyarrow, f"float{bits}")()
    path = tmp_path / "d.parquet"
    table = pyarrow.table({"problem": list("abcde"), "answer": pyarrow.array(written).cast(kind)})
    pyarrow.parquet.write_table(table, path)
    found = [str(problem.gold) for problem in load_problems(DataConfig(path=str(path)))]
    assert found == ["0.1", "0.25", "-3.7", "100.5", "0.001"] or bits == 16
    assert [float(gold) for gold in found] == pytest.approx(written, rel=1e-3 if bits == 16 else 0)


DERIVED = {
    "gsm8k": ("He buys 48/2 = <<48/2=24>>24.\nIn all <<48+24=72>>72.\n#### 72", "72"),
    "boxed": (r"Half of 48 is 24, so it is \boxed{72}.", "72"),
    "a box alone": (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    "two boxes": (r"First \boxed{3}, then \boxed{72}", "72"),
    "marked alone": ("#### 1,234", "1,234"),
    "plain": ("72", "72"),
    "words": ("the red one", "the red one"),
}


@pytest.mark.parametrize("name", DERIVED)
def test_a_reference_with_a_derivation_is_cut_to_its_answer(name: str, tmp_path: Path) -> None:
    written, answer = DERIVED[name]
    (tmp_path / "d.jsonl").write_text(json.dumps({"problem": "How many?", "answer": written}) + "\n")
    (problem,) = load_problems(DataConfig(path=str(tmp_path / "d.jsonl")))
    assert problem.gold == answer
    assert (problem.answer or problem.gold) == written, "a verifier of one's own is handed what the row holds"
    shown = Answer("answer").block(problem, Resources(load_prompts("math"), Quote(())))
    assert answer in str(shown.text)
    assert "<<" not in str(shown.text)
    if answer == "72":
        assert leak("Then the answer is 72.", str(problem.gold)) is not None


@pytest.mark.parametrize("name", DERIVED)
def test_a_reference_in_trls_rows_is_cut_too(name: str) -> None:
    adapter = pytest.importorskip("sgsd.integrations.trl")
    written, answer = DERIVED[name]
    columns = {"problem": ["How many?"], "answer": [written]}
    (problem,) = adapter.problems_of(columns, 1, SimpleNamespace(data=DataConfig(path="none.jsonl")))
    assert problem.gold == answer
    assert problem.answer == written, "a verifier of one's own is handed what the row holds"
