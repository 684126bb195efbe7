"""Accuracies and their intervals: known values, true coverage, and an evaluation that counts what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgsd.contexts.prompt_builders import PromptBuilder
from sgsd.contexts.prompts import load_prompts
from sgsd.evaluation import Evaluation, Evaluator, avg_at_k, wilson
from sgsd.rollout import Sampling, ScriptedEngine
from sgsd.types import Completion, Problem, Status, Verdict

# ── Wilson's interval ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # The score interval without continuity correction in table I of Newcombe, Statistics in Medicine 17 (1998).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_values(successes: int, trials: int, low: float, high: float) -> None:
    found = wilson(successes, trials)
    assert (found.accuracy, found.low, found.high) == pytest.approx((successes / trials, low, high), abs=5e-5)
    mirrored = wilson(trials - successes, trials)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 3000), st.data())
def test_wilson_holds_its_share_within_0_and_1_and_narrows_with_more_trials(trials: int, data: Any) -> None:
    successes = data.draw(st.integers(0, trials))
    found, more = wilson(successes, trials), wilson(4 * successes, 4 * trials)
    assert 0 <= found.low <= found.accuracy + 1e-12
    assert found.accuracy - 1e-12 <= found.high <= 1
    assert 0 < more.high - more.low < found.high - found.low
    assert found.to_dict() == {"accuracy": found.accuracy, "low": found.low, "high": found.high}


def test_nothing_to_count_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one trial"):
        wilson(0, 0)
    for rows in ([], [[True], []]):
        with pytest.raises(ValueError, match="at least one problem, each with at least one sample"):
            avg_at_k(rows)


# ── The mean over k samples a problem ──────────────────────────────────────────────────────────────────────────────


def draw(seed: int, problems: int, samples: int, a: float = 0.5, b: float = 0.5) -> list[list[bool]]:
    """Problems of which many are nearly always and many nearly never solved, as problems are."""
    rng = np.random.default_rng(seed)
    return (rng.random((problems, samples)) < rng.beta(a, b, size=(problems, 1))).tolist()


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (1.0, 2.0)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(a: float, b: float) -> None:
    estimates = [avg_at_k(draw(seed, 40, 6, a, b), resamples=400, seed=seed) for seed in range(250)]
    covered = np.mean([e.low <= a / (a + b) <= e.high for e in estimates])
    assert 0.90 <= covered <= 0.99
    assert np.mean([e.accuracy for e in estimates]) == pytest.approx(a / (a + b), abs=0.02)


def test_with_many_problems_the_interval_is_the_normal_one() -> None:
    rows = draw(1, 400, 4)
    found, means = avg_at_k(rows), np.mean(rows, axis=1)
    half = 1.96 * means.std() / np.sqrt(400)
    assert (found.low, found.high) == pytest.approx((means.mean() - half, means.mean() + half), abs=0.08 * half)


def test_copies_of_a_sample_are_not_taken_for_evidence() -> None:
    once = draw(0, 60, 1)
    copied = [row * 8 for row in once]
    assert avg_at_k(copied) == avg_at_k(once)
    width = avg_at_k(copied).high - avg_at_k(copied).low
    as_if_independent = wilson(8 * sum(map(sum, once)), 8 * 60)
    assert width > 2 * (as_if_independent.high - as_if_independent.low)


def test_all_right_and_all_wrong_leave_room_for_doubt() -> None:
    right, wrong = avg_at_k([[True] * 4] * 50), avg_at_k([[False] * 4] * 50)
    assert (right.accuracy, right.high) == (1.0, 1.0)
    assert right.low == pytest.approx(wilson(50, 50).low)  # 50 problems, not 200 samples
    assert (wrong.accuracy, wrong.low, wrong.high) == pytest.approx((0.0, 0.0, 1 - right.low))


@pytest.mark.parametrize(("row", "problems"), [([True, False], 2), ([True, False, False, False], 8)])
def test_equal_means_between_0_and_1_get_an_interval_around_them(row: list[bool], problems: int) -> None:
    found = avg_at_k([row] * problems)
    assert found.low < found.accuracy < found.high
    assert found.low == pytest.approx(wilson(round(np.mean(row) * problems), problems).low)


@pytest.mark.parametrize("problems", [1, 3])
def test_half_right_everywhere_is_as_far_from_0_as_from_1(problems: int) -> None:
    found = avg_at_k([[True, False]] * problems)
    assert found.low == pytest.approx(1 - found.high)


def test_every_problem_counts_the_same_and_the_seed_decides_the_interval() -> None:
    ragged = [[True] * 9, [False], [True, False]]
    assert avg_at_k(ragged).accuracy == pytest.approx(0.5)
    rows = draw(3, 30, 4)
    assert avg_at_k(rows, seed=1) == avg_at_k(rows, seed=1) != avg_at_k(rows, seed=2)


# ── An evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────

END, RIGHT, WRONG, TIMEOUT, UNREADABLE = 9, 1, 2, 3, 4
STATUS = {RIGHT: Status.CORRECT, WRONG: Status.INCORRECT, TIMEOUT: Status.TIMEOUT, UNREADABLE: Status.UNPARSED}


@dataclass
class Recorder:
    """Two scripts, a greedy and a sampled one, and a note of what was asked for."""

    greedy: Sequence[Sequence[int]]
    sampled: Sequence[Sequence[int]]
    calls: list[tuple[list[tuple[int, ...]], Sampling, int]] = field(default_factory=list)

    def sample(
        self, prompts: Sequence[Sequence[int]], indices: Sequence[int], sampling: Sampling, *, seed: int
    ) -> list[Completion]:
        self.calls.append(([tuple(prompt) for prompt in prompts], sampling, seed))
        script = self.greedy if sampling.temperature == 0 else self.sampled
        engine = ScriptedEngine(lambda prompt, index: script[index], lambda ids: str(ids[0]), frozenset({END}))
        return engine.sample(prompts, indices, sampling, seed=seed)

    def sync(self) -> None:
        raise AssertionError("an evaluation samples from the weights it is given")


@dataclass
class Trivial:
    """The first token is the verdict; golds are noted."""

    golds: list[list[Any]] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def grade(self, completions: Sequence[Any], golds: Sequence[Any]) -> list[Verdict]:
        self.golds.append(list(golds))
        return [Verdict(STATUS[int(text)]) for text in completions]


PROBLEMS = [Problem(f"p{i}", f"Addition: 1{i}+11", gold=str(i)) for i in range(4)]
SAMPLED = [  # four problems, two samples each: grouped the other way round, every group would be half right
    *((RIGHT, END), (RIGHT, END)),
    *((RIGHT, 7, 7, END), (RIGHT, 7, 7)),
    *((WRONG, 7, 7, 7), (TIMEOUT, END)),
    *((UNREADABLE, END), (TIMEOUT, END)),
]
GREEDY = [(RIGHT, END), (TIMEOUT, 7, 7, 7), (RIGHT, END), (RIGHT, END)]


def evaluation(tokenizer: Any, thinking: bool = False) -> tuple[Evaluation, Recorder, Trivial]:
    engine, verifier = Recorder(GREEDY, SAMPLED), Trivial()
    maker = PromptBuilder(load_prompts("lab"), tokenizer, 512)
    evaluator = Evaluator(engine, verifier, maker, PROBLEMS, Sampling(1.3, max_tokens=4), 2, thinking, seed=5)
    return evaluator.run(), engine, verifier


def test_an_evaluation_counts_by_problem(lab_tokenizer: Any) -> None:
    found, _, _ = evaluation(lab_tokenizer)
    assert (found.problems, found.samples) == (4, 2)
    assert found.greedy == wilson(3, 4)
    assert found.avg_at_k == avg_at_k([[True, True], [True, True], [False, False], [False, False]], seed=5)
    assert found.avg_at_k.high - found.avg_at_k.low > 0.9  # two problems always, two never: little is known
    assert found.truncated == 2 / 8
    assert found.unknown == 3 / 8  # not correct, and said to be unknown
    assert found.to_dict() == {
        "problems": 4,
        "samples": 2,
        "greedy": wilson(3, 4).to_dict(),
        "avg_at_k": {**found.avg_at_k.to_dict(), "k": 2},
        "truncated": 2 / 8,
        "ungraded": 3 / 8,
    }


@pytest.mark.parametrize("thinking", [False, True])
def test_an_evaluation_asks_for_plain_prompts_greedily_once_and_sampled_k_times(
    thinking: bool, lab_tokenizer: Any
) -> None:
    _, engine, verifier = evaluation(lab_tokenizer, thinking)
    maker = PromptBuilder(load_prompts("lab"), lab_tokenizer, 512)
    plain = [maker.student(problem, thinking=thinking) for problem in PROBLEMS]
    (greedy, greedy_sampling, greedy_seed), (sampled, sampling, seed) = engine.calls
    assert greedy == plain
    assert sampled == [prompt for prompt in plain for _ in range(2)]
    assert (greedy_sampling, sampling) == (Sampling(0.0, max_tokens=4), Sampling(1.3, max_tokens=4))
    assert (greedy_seed, seed) == (5, 5)
    assert verifier.golds == [list("0123"), list("00112233")]
