"""AUC and its interval: against brute force, by its symmetries, and by how often the interval holds the truth."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgsd.evaluation.stats import Interval, Scored, auc, auc_difference, wilson


def by_hand(scores: list[float], right: list[bool], weights: list[float]) -> float:
    won = total = 0.0
    for i, j in product(range(len(scores)), repeat=2):
        if right[i] and not right[j]:
            couple = weights[i] * weights[j]
            total += couple
            won += couple * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
    return won / total


@st.composite
def samples(draw: Any) -> tuple[list[float], list[bool], list[float], list[int]]:
    n = draw(st.integers(2, 14))
    scores = draw(st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.5, 1.0, 3.0]), min_size=n, max_size=n))
    right = [True, False, *draw(st.lists(st.booleans(), min_size=n - 2, max_size=n - 2))]
    weights = draw(st.lists(st.floats(0.1, 5.0), min_size=n, max_size=n))
    clusters = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    return scores, right, weights, clusters


@given(samples())
def test_auc_is_the_share_of_couples_counted_one_by_one(drawn: Any) -> None:
    scores, right, weights, clusters = drawn
    found = auc(Scored(scores, right, clusters, weights), resamples=20)
    assert found.value == pytest.approx(by_hand(scores, right, weights), abs=1e-12)
    plain = auc(Scored(scores, right), resamples=20)
    assert plain.value == pytest.approx(by_hand(scores, right, [1.0] * len(scores)), abs=1e-12)


@given(samples())
def test_a_resample_is_the_auc_of_the_clusters_that_were_drawn(drawn: Any) -> None:
    scores, right, weights, clusters = drawn
    names = list(dict.fromkeys(clusters))
    counts_SC = np.random.default_rng(len(scores)).multinomial(len(names), np.full(len(names), 1 / len(names)), size=5)
    found = Scored(scores, right, clusters, weights).resampled(counts_SC, {c: i for i, c in enumerate(names)})
    for value, counts in zip(found, counts_SC):
        drawn_units = [u for u, c in enumerate(clusters) for _ in range(counts[names.index(c)])]
        outcomes = [right[u] for u in drawn_units]
        if len(set(outcomes)) < 2:
            assert math.isnan(value)
        else:
            again = by_hand([scores[u] for u in drawn_units], outcomes, [weights[u] for u in drawn_units])
            assert value == pytest.approx(again, abs=1e-12)


@given(samples())
def test_only_the_order_counts_and_both_ways_round_sum_to_one(drawn: Any) -> None:
    scores, right, weights, clusters = drawn
    found = auc(Scored(scores, right, clusters, weights), resamples=40)
    monotone = auc(Scored([math.atan(s) - 7 for s in scores], right, clusters, weights), resamples=40)
    turned = auc(Scored([-s for s in scores], right, clusters, weights), resamples=40)
    assert monotone == found
    assert turned.value == pytest.approx(1 - found.value)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value <= found.high + 1e-12 or found.high == pytest.approx(found.value)


def noisy(seed: int, problems: int, samples: int, effect: float) -> tuple[list[float], list[bool], list[int]]:
    """Rollouts of problems that are more and less hard, and scores that know the outcome and the problem."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=(problems, 1))
    right = rng.random((problems, samples)) < 1 / (1 + np.exp(hard))
    scores = effect * right + rng.normal(size=(problems, samples)) + 0.7 * rng.normal(size=(problems, 1))
    return scores.ravel().tolist(), right.ravel().tolist(), np.repeat(np.arange(problems), samples).tolist()


def truth(effect: float) -> float:
    return 0.5 * (1 + math.erf(effect / math.sqrt(2 * (1 + 0.7**2)) / math.sqrt(2)))


def test_the_interval_holds_the_truth_about_as_often_as_it_says_and_needs_its_clusters() -> None:
    held = {"clustered": 0, "as if independent": 0}
    for seed in range(100):
        scores, right, clusters = noisy(seed, 30, 8, 0.5)
        for name, given_clusters in (("clustered", clusters), ("as if independent", None)):
            found = auc(Scored(scores, right, given_clusters), resamples=300, seed=seed)
            held[name] += found.low <= truth(0.5) <= found.high
    assert 0.88 <= held["clustered"] / 100 <= 0.99
    assert held["as if independent"] <= held["clustered"] + 3


def test_copies_are_not_taken_for_evidence() -> None:
    scores, right, clusters = noisy(1, 60, 1, 0.8)
    once = auc(Scored(scores, right, clusters))
    copied = auc(Scored(scores * 5, right * 5, clusters * 5))
    assert copied == once
    as_if_independent = auc(Scored(scores * 5, right * 5))
    assert as_if_independent.high - as_if_independent.low < 0.6 * (once.high - once.low)


def test_a_paired_difference_is_narrower_than_two_intervals_and_is_zero_against_itself() -> None:
    scores, right, clusters = noisy(2, 80, 2, 0.4)
    sample = Scored(scores, right, clusters)
    better = Scored([s + 0.3 * r for s, r in zip(scores, right)], right, clusters)
    assert auc_difference(sample, sample) == Interval(0.0, 0.0, 0.0)
    gain = auc_difference(better, sample)
    one, other = auc(better), auc(sample)
    assert gain.value == pytest.approx(one.value - other.value)
    assert gain.low > 0
    assert gain.high - gain.low < 0.7 * (one.high - one.low + other.high - other.low)


def test_a_difference_may_compare_pools_of_different_sizes() -> None:
    """K teachers a rollout against one: what is paired are the problems."""
    scores, right, clusters = noisy(3, 40, 1, 0.5)
    pool = Scored([s for s in scores for _ in range(3)], [r for r in right for _ in range(3)],
                  [c for c in clusters for _ in range(3)], [1 / 3] * 120)  # fmt: skip
    assert auc_difference(pool, Scored(scores, right, clusters)).value == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="same clusters on both sides"):
        auc_difference(pool, Scored(scores[1:], right[1:], clusters[1:]))


def test_right_and_wrong_apart_altogether_leave_room_for_doubt() -> None:
    apart = Scored([1.0] * 6 + [0.0] * 30, [True] * 6 + [False] * 30)
    found = auc(apart)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(wilson(6, 6).low)
    assert auc(Scored([-s for s in apart.scores], apart.right)).high == pytest.approx(1 - found.low)
    ties = auc(Scored([0.0] * 36, apart.right))
    assert ties == Interval(0.5, 0.5, 0.5)  # nothing differs: that is certain


def test_the_seed_decides_the_interval() -> None:
    sample = Scored(*noisy(4, 20, 2, 0.4))
    assert auc(sample, seed=1) == auc(sample, seed=1) != auc(sample, seed=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], [True, True]), "all alike"),
        (([], []), "all alike"),
        (([1.0, 2.0], [True]), "another number"),
        (([1.0, 2.0], [True, False], ["a"]), "another number"),
        (([1.0, math.nan], [True, False]), "not finite"),
        (([1.0, 2.0], [True, False], None, [1.0, 0.0]), "not positive"),
    ],
)
def test_what_has_no_auc_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scored(*arguments)
