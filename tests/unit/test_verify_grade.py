"""The grader as its users see it: statuses, agreement on a labelled corpus, and what it must not start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sgsd.types import Status, UserError
from sgsd.verify import MathVerifier, Verifier
from sgsd.verify.grader import gold_text

_CORPUS = Path(__file__).parent / "verify_corpus.jsonl"
_CATEGORIES = {
    "integers", "fractions", "decimals", "units", "sets and intervals", "roots and pi", "complex", "inequalities",
    "equations", "hedges", "think blocks", "boxes", "unicode", "garbage", "mixed",
}  # fmt: skip


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    with MathVerifier(timeout=5.0) as made:
        yield made


def _box(answer: object) -> str:
    return rf"Therefore \boxed{{{answer}}}."


def _corpus() -> list[dict[str, Any]]:
    return [json.loads(line) for line in _CORPUS.read_text(encoding="utf-8").splitlines()]


def test_the_corpus_covers_its_categories() -> None:
    rows = _corpus()
    assert len(rows) >= 120
    assert {row["category"] for row in rows} == _CATEGORIES
    assert sum(row["label"] != "correct" for row in rows) >= len(rows) // 4


def test_agreement_with_the_corpus(verifier: MathVerifier) -> None:
    rows = _corpus()
    verdicts = verifier.grade([row["completion"] for row in rows], [row["gold"] for row in rows])
    wrong = [(row, v.status) for row, v in zip(rows, verdicts) if v.status != row["label"]]
    not_correct = sum(row["label"] != "correct" for row in rows)
    false_positives = [row for row, status in wrong if status is Status.CORRECT]
    assert len(wrong) <= 0.02 * len(rows), wrong
    assert len(false_positives) <= 0.01 * not_correct, false_positives


def test_integer_tasks_start_no_process() -> None:
    with MathVerifier() as verifier:
        verdicts = verifier.grade([_box(n) for n in range(50)], [str(n) for n in range(50)])
        assert {verdict.status for verdict in verdicts} == {Status.CORRECT}
        assert verifier.worker_pids == []


def test_the_four_statuses_and_their_outcomes(verifier: MathVerifier) -> None:
    rows = [(_box(5), "5"), (_box(6), "5"), ("no box", "5"), (_box(5), "@@"), ("no box", None)]
    verdicts = verifier.grade(*zip(*rows))
    assert [v.status.value for v in verdicts] == ["correct", "incorrect", "incorrect", "unparsed", "unparsed"]
    assert [v.outcome for v in verdicts] == [1, -1, -1, 0, 0]
    assert [v.answer for v in verdicts] == ["5", "6", None, "5", None]
    assert all(v.seconds > 0 for v in verdicts)


def test_what_computer_algebra_decides(verifier: MathVerifier) -> None:
    rows = [
        (r"\int_0^1 2x\,dx", "1", "correct"),
        (r"2\sin x\cos x", r"\sin 2x", "correct"),
        (r"2^{n+1}", r"2\cdot 2^n", "correct"),
        (r"\cos x", r"\sin x", "incorrect"),
        (r"\frac12\begin{bmatrix}2&4\\6&8\end{bmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "correct"),
        (r"-\begin{bmatrix}1&2\\3&4\end{bmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "incorrect"),
    ]
    verdicts = verifier.grade([_box(answer) for answer, _, _ in rows], [gold for _, gold, _ in rows])
    assert [verdict.status.value for verdict in verdicts] == [label for _, _, label in rows]


def test_the_order_of_rows_is_kept_when_some_go_to_a_worker(verifier: MathVerifier) -> None:
    answers = ["1", r"2^{n+1}", "2", r"2^{n+1}", "3"]
    golds = ["1", r"2\cdot 2^n", "3", r"3\cdot 2^n", "3"]
    statuses = [v.status.value for v in verifier.grade([_box(a) for a in answers], golds)]
    assert statuses == ["correct", "correct", "incorrect", "incorrect", "correct"]


def test_unequal_lengths_are_refused(verifier: MathVerifier) -> None:
    with pytest.raises(ValueError, match="2 completions but 1 golds"):
        verifier.grade([_box(1), _box(2)], ["1"])
    assert verifier.grade([], []) == []


def test_numbers_of_every_kind_are_golds() -> None:
    golds: list[Any] = [34, 34.0, Fraction(68, 2), Decimal("34.0"), np.int64(34), np.float32(34), "34", r"\boxed{34}"]
    with MathVerifier() as verifier:
        verdicts = verifier.grade([_box(34)] * len(golds), golds)
        assert {verdict.status for verdict in verdicts} == {Status.CORRECT}
        huge = verifier.grade([_box("7" * 20_000)] * 2, [int(Decimal("7" * 20_000)), "7" * 20_000])
        assert {verdict.status for verdict in huge} == {Status.CORRECT}


def test_other_golds_cannot_be_read() -> None:
    others = [None, float("nan"), float("inf"), Decimal("NaN"), b"34", [34], {"a": 1}, object(), 10**100_000, ""]
    assert [gold_text(other) for other in others] == [None] * len(others)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": -1.0}, {"timeout": float("inf")}, {"workers": 0}])
def test_nonsense_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="MathVerifier: "):
        MathVerifier(**options)


def test_it_is_a_verifier() -> None:
    assert isinstance(MathVerifier(), Verifier)
