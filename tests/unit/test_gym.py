"""Gym tasks: the allow-list holds what was measured, and no answer can do more than be wrong."""

from __future__ import annotations

import copy
import os
import pickle
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("reasoning_gym")

from sgsd.config.sections import DataConfig
from sgsd.data.gym import GymAnswer, GymVerifier, gym_answer, gym_problem, is_held_out
from sgsd.data.gym_tasks import ALLOWED, REFUSED
from sgsd.data.problems import load_problems
from sgsd.types import Problem, Status, UserError

QUICK_PROBLEMS, ALL_PROBLEMS = 1, 24


@pytest.fixture(scope="module")
def verifier() -> Iterator[GymVerifier]:
    with GymVerifier(timeout=20) as found:  # a loaded machine must not turn slow into wrong
        yield found


def hostile(canary: Path) -> list[str]:
    """Answers that run as code, outgrow numbers, nest, or are merely long and strange."""
    return [
        "garbage", "The quick brown fox jumps over 7 dogs!", "@@@###", "\x00\x01", "٣٤٥\u202e😀", "[]", "{}", "null",
        "nan", "inf", "-inf", "True", "0", "-1", "7777777", "7" * 100_000, "9**9**9**9", "1e999999999",
        "[" * 5000 + "]" * 5000, "(" * 3000 + ")" * 3000, "a" * 100_000, "a" * 5000 + "!" * 5000,
        f"__import__('os').system('touch {canary}')", f"open('{canary}', 'w').write('x')", f"[open('{canary}', 'w')]",
        f"eval(\"open('{canary}', 'w')\")", f"{{}}; open('{canary}', 'w')",
    ]  # fmt: skip


MANY_RIGHT = {"cryptarithm"}  # another digit may be another right answer, which the scorer knows


def near_misses(right: str, task: str) -> list[str]:
    """What is almost the reference, and is not it."""
    digits = list(re.finditer(r"\d", right))
    changed = [digits[i] for i in {0, len(digits) // 2, len(digits) - 1}] if digits else []
    words = right.split(" ")
    found = [right[: d.start()] + str((int(d.group()) + 1) % 10) + right[d.end() :] for d in changed]
    found = [] if task in MANY_RIGHT else found
    found += [right + "7", "8" + right, right[:-1], right[1:], "-" + right, f"{right} or maybe not", f"{right} {right}"]
    found += [f"I think it could be {right} but also 12 or 13 or no.", right + "\n" + right]
    found += [" ".join(words[1:2] + words[:1] + words[2:]), " ".join(words[:-1])] if len(words) > 2 else []
    return [wrong for wrong in found if wrong.strip() not in ("", right, "-0")]


def measure(task: str, seeds: range, verifier: GymVerifier, canary: Path) -> None:
    for seed in seeds:
        started = time.process_time()
        gold = gym_problem(task, seed).gold
        assert time.process_time() - started < 1.0
        assert isinstance(gold, GymAnswer)
        rows = [
            ("reference", gold),
            *(("hostile", a) for a in hostile(canary)),
            *(("near", a) for a in near_misses(gold, task)),
        ]
        rows = [(kind, answer) for kind, answer in rows if kind == "reference" or answer != gold]
        scores = [verifier._score(gold, answer) for _, answer in rows]
        for (kind, answer), score in zip(rows, scores, strict=True):
            assert score is not None, f"{task} {seed}: the scorer was stopped over {answer[:60]!r}"
            assert (score >= 0.99) == (kind == "reference"), (task, seed, answer[:60])
        assert not canary.exists(), f"{task} {seed}: the scorer ran the answer"


@pytest.mark.parametrize("task", sorted(ALLOWED))
def test_an_allowed_task_marks_the_reference_right_and_nothing_else(
    task: str, verifier: GymVerifier, tmp_path: Path
) -> None:
    measure(task, range(QUICK_PROBLEMS), verifier, tmp_path / "canary")


@pytest.mark.prove
@pytest.mark.parametrize("task", sorted(ALLOWED))
def test_over_many_problems_too(task: str, verifier: GymVerifier, tmp_path: Path) -> None:
    measure(task, range(QUICK_PROBLEMS, ALL_PROBLEMS), verifier, tmp_path / "canary")


def test_every_task_of_the_package_is_allowed_or_refused_with_a_reason() -> None:
    from reasoning_gym.factory import DATASETS

    assert not ALLOWED & set(REFUSED)
    assert set(DATASETS) == ALLOWED | set(REFUSED)


def test_a_refused_scorer_really_does_run_answers(verifier: GymVerifier, tmp_path: Path) -> None:
    """What the allow-list is for: the same answer that no allowed scorer runs."""
    canary = tmp_path / "canary"
    gold = gym_problem("spiral_matrix", 0).gold
    assert isinstance(gold, GymAnswer)
    verifier._score(gold, f"[open('{canary}', 'w')]")
    assert canary.exists()


# ── Problems ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_sides_never_meet_and_problems_differ() -> None:
    config = DataConfig(path="gym:chain_sum,leg_counting", limit=40)
    train, again = load_problems(config), load_problems(config)
    held_out = load_problems(config.model_copy(update={"split": "held-out"}))
    assert train == again
    assert [len(train), len({p.text for p in train})] == [40, 40]
    assert {p.id.split("-")[1] for p in train} == {"chain_sum", "leg_counting"}
    assert not {p.text for p in train} & {p.text for p in held_out}
    assert all(is_held_out(p.text) for p in held_out)


def test_a_task_with_few_puzzles_gives_those_it_has(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgsd.data.gym.DRAWS_A_PROBLEM", 1)
    with caplog.at_level("INFO", "sgsd"):
        problems = load_problems(DataConfig(path="gym:syllogism", limit=80))
    assert 40 < len(problems) < 80
    assert f"{len(problems)} different problems, there are no 80" in caplog.text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"path": "gym:countdown"}, "gym:countdown is not allowed: its scorer runs the model's answer as code"),
        ({"path": "gym:game_of_life_halting"}, "gives garbage full marks"),
        ({"path": "gym:chain_sun"}, "no allowed gym task 'chain_sun'; did you mean 'chain_sum'"),
        ({"path": "gym:"}, "no allowed gym task ''"),
        ({"path": "gym:lcm", "split": "test"}, "gym tasks have train and held-out, not test"),
    ],
)
def test_what_is_not_allowed_is_refused(change: dict[str, str], expected: str) -> None:
    with pytest.raises(UserError, match=re.escape(expected)):
        load_problems(DataConfig(**change))


# ── The verifier ───────────────────────────────────────────────────────────────────────────────────────────────────


def problem() -> Problem:
    return gym_problem("leg_counting", 1)


def test_an_answer_is_read_from_tags_or_from_the_box(verifier: GymVerifier) -> None:
    gold = problem().gold
    right = [
        f"<answer>{gold}</answer>",
        f"so \\boxed{{{gold}}}.",
        f"<answer>1</answer> no: <answer>\n{gold}\n</answer>",
    ]
    wrong = [
        "",
        str(gold),
        f"<think><answer>{gold}</answer>",
        f"<answer>{gold}</answer></think>",
        "<answer></answer>",
        None,
    ]
    assert [v.status for v in verifier.grade(right, [gold] * 3)] == [Status.CORRECT] * 3
    assert [v.status for v in verifier.grade(wrong, [gold] * 6)] == [Status.INCORRECT] * 6
    assert gym_answer("<answer>a\nb</answer>") == "a\nb"


def test_a_reference_that_knows_no_puzzle_is_unparsed(verifier: GymVerifier) -> None:
    assert [v.status for v in verifier.grade(["<answer>4</answer>"], ["4"])] == [Status.UNPARSED]


def test_the_reference_survives_copies(verifier: GymVerifier) -> None:
    gold = problem().gold
    for twin in (copy.deepcopy(gold), pickle.loads(pickle.dumps(gold))):  # noqa: S301
        assert verifier.grade([f"<answer>{gold}</answer>"], [twin])[0].status == Status.CORRECT


def test_a_scorer_that_hangs_is_killed_and_the_next_answer_is_scored(
    verifier: GymVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a task that is not allowed, because no allowed one hangs."""
    bomb, good = gym_problem("puzzle24", 0).gold, problem().gold
    monkeypatch.setattr(verifier, "_timeout", 2.0)
    verdict = verifier.grade(["<answer>9**9**9**9</answer>"], [bomb])[0]
    assert (verdict.status, verdict.outcome) == (Status.TIMEOUT, 0)
    assert verdict.seconds >= 2
    monkeypatch.setattr(verifier, "_timeout", 20.0)
    assert verifier.grade([f"<answer>{good}</answer>"], [good])[0].status == Status.CORRECT


def test_a_process_that_dies_is_replaced_and_none_is_left_behind() -> None:
    gold = problem().gold
    with GymVerifier(timeout=20) as verifier:
        assert verifier._worker is None  # it starts when it is needed
        verifier.grade([f"<answer>{gold}</answer>"], [gold])
        assert verifier._worker is not None
        process = verifier._worker._process
        process.kill()
        process.wait()
        assert verifier.grade([f"<answer>{gold}</answer>"], [gold])[0].status == Status.CORRECT
        last = verifier._worker._process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)


def test_a_timeout_must_be_a_time() -> None:
    with pytest.raises(UserError, match="positive number of seconds"):
        GymVerifier(timeout=0)
