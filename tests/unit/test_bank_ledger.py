"""The ledger: what it adds up, that no order matters, and that it survives a file."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsd.bank import Ledger, TeacherObservation
from sgsd.bank.item_stats import ItemStats, OutcomeStats, class_balance
from sgsd.types import UserError

IDS = st.sampled_from(["s1", "s2", "m1", "m2", "m3"])
GAPS = st.floats(-3.0, 3.0)
SIGHTINGS = st.builds(
    lambda items, outcome, support, polarity: TeacherObservation(
        tuple(items), outcome, support, polarity * abs(outcome)
    ),
    st.lists(IDS, min_size=1, max_size=2, unique=True),
    st.sampled_from([-1, 0, 1]),
    GAPS,
    st.sampled_from([-1, 0, 1]),
)


def seen(item: str, outcome: int, support: float, confidence: float = 0.05) -> TeacherObservation:
    """A sighting with the polarity that SGSD would give it."""
    stance = 0 if abs(support) <= confidence else math.copysign(1, support)
    return TeacherObservation((item,), outcome, support, int(outcome * stance))


def text(ledger: Ledger) -> str:
    return json.dumps(ledger.to_json())


# What it adds up


def test_one_step_by_hand() -> None:
    step = [
        TeacherObservation(("s", "m"), 1, 0.2, 1),
        TeacherObservation(("s",), -1, 0.3, -1),
        TeacherObservation(("s",), -1, -0.1, 1),
        TeacherObservation(("t",), -1, 0.0, 0),
        TeacherObservation(("s",), 0, 2.0, 0),
    ]
    ledger = Ledger().observe(step)
    balance = {1: 0.5 / (1 / 4), -1: 0.5 / (3 / 4)}
    weight = (1 + 0.98 + 0.98**2) / 3
    gain = weight * (balance[1] * 0.2 - balance[-1] * (0.3 - 0.1))
    assert ledger.evidence("s") == pytest.approx(gain / (3 * weight + 5), rel=1e-14)
    assert ledger.pair_evidence("s", "m") == ledger.evidence("m") == pytest.approx(balance[1] * 0.2 / 6, rel=1e-14)
    assert ledger.standing("s") == pytest.approx((0.2 - 0.1) / 2 * 1 / (1 + 5), rel=1e-14)
    assert ledger.trust("s") == math.tanh(ledger.standing("s") / 0.05)
    stats = ledger.stats("s")
    assert stats.retrieved == 4
    assert stats.success == OutcomeStats(validated=1, support=0.2)
    assert stats.failure == OutcomeStats(validated=1, reversed=1, support=math.fsum([0.3, -0.1]))
    assert stats.contrast == pytest.approx((0.2 - 0.1) / 2)
    assert ledger.stats("t").failure == OutcomeStats(neutral=1)
    assert ledger.stats("t").contrast is None


def test_what_was_never_shown_has_no_opinion() -> None:
    ledger = Ledger().observe([seen("a", 1, 0.5), seen("b", -1, 0.5)])
    assert ledger.evidence("new") == ledger.trust("new") == ledger.pair_evidence("a", "b") == 0.0
    assert (ledger.posterior("new").alpha, ledger.posterior("new").beta) == (1.0, 1.0)
    assert ledger.stats("new") == ItemStats()


def test_a_steps_uses_weigh_the_mean_of_what_all_their_orders_would_give() -> None:
    start = ItemStats(evidence=0.7, uses=11.0)
    step = [seen("a", 1, 0.4), seen("a", -1, 0.1), seen("a", -1, -0.3), seen("a", 1, 0.9)]
    balance = {1: 1.0, -1: 1.0}

    def one_by_one(order: tuple[TeacherObservation, ...]) -> tuple[float, float]:
        total, uses = start.evidence, start.uses
        for s in order:
            total, uses = 0.98 * total + s.outcome * s.support, 0.98 * uses + 1
        return total, uses

    expected = np.mean([one_by_one(order) for order in permutations(step)], axis=0)
    together = start.plus(step, balance, 0.98)
    assert (together.evidence, together.uses) == pytest.approx(tuple(expected), rel=1e-12)


@pytest.mark.parametrize("size", [1, 7, 200])
def test_the_memory_is_fifty_uses_long_whatever_the_batch(size: int) -> None:
    stats = ItemStats()
    for _ in range(2000 // size):
        stats = stats.plus([seen("a", 1, 0.5)] * size, {1: 1.0, -1: 1.0}, 0.98)
    assert stats.uses == pytest.approx(50.0, rel=1e-6)
    assert stats.success.total == 2000 // size * size


def test_no_decay_is_allowed_and_counts_all() -> None:
    stats = ItemStats().plus([seen("a", 1, 0.5)] * 8, {1: 1.0, -1: 1.0}, 1.0)
    assert (stats.uses, stats.evidence) == (8.0, 4.0)


def test_a_step_of_one_outcome_is_counted_but_is_no_evidence() -> None:
    before = Ledger().observe([seen("a", 1, 0.5), seen("b", -1, 0.5)])
    after = before.observe([seen("a", -1, -0.4)] * 30)
    assert class_balance([seen("a", -1, 0.0)] * 3) == {}
    assert (after.evidence("a"), after.stats("a").uses) == (before.evidence("a"), before.stats("a").uses)
    assert after.stats("a").failure == OutcomeStats(validated=30, support=math.fsum([-0.4] * 30))
    assert after.posterior("a").alpha == 32.0


def test_unknown_outcomes_are_retrievals_only() -> None:
    known = [seen("a", 1, 0.5), seen("a", -1, 0.2)]
    with_unknown = Ledger().observe([*known, TeacherObservation(("a", "b"), 0, 9.0, 0)])
    without = Ledger().observe(known)
    assert with_unknown.evidence("a") == without.evidence("a")
    assert with_unknown.posterior("a") == without.posterior("a")
    assert with_unknown.stats("a").retrieved == 3
    assert with_unknown.stats("b") == ItemStats(retrieved=1)


def test_several_items_are_pooled_by_their_sums() -> None:
    ledger = Ledger(items={"s": ItemStats(evidence=1.0, uses=5.0), "m": ItemStats(evidence=-0.25, uses=15.0)})
    assert ledger.evidence("s", "m") == pytest.approx(0.75 / 25)


def test_standings_are_pooled_by_their_sightings() -> None:
    step = [seen("s", 1, 0.4), seen("s", -1, -0.2), seen("m", 1, 0.1), seen("m", 1, 0.1), seen("m", -1, 0.4)]
    ledger = Ledger(prior_uses=2.0).observe(step)
    assert ledger.standing("s", "m") == pytest.approx((0.6 / 3 - 0.2 / 2) / 2 * 2 / (2 + 2))
    assert ledger.standing("s") == pytest.approx((0.4 + 0.2) / 2 * 1 / (1 + 2))
    assert Ledger().observe(step[:1]).standing("s") == 0.0, "one outcome alone says nothing"


def test_observing_changes_no_ledger_that_was_there() -> None:
    first = Ledger().observe([seen("a", 1, 0.5), seen("b", -1, 0.5)])
    before = text(first)
    first.observe([seen("a", -1, 0.5), seen("c", 1, 0.1)])
    assert text(first) == before


# No order matters


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(SIGHTINGS, max_size=12), max_size=5), st.randoms(use_true_random=False))
def test_any_order_and_any_split_over_processes_give_the_same_bits(
    steps: list[list[TeacherObservation]], rng: random.Random
) -> None:
    one = other = Ledger()
    for step in steps:
        mixed = rng.sample(step, len(step))
        cut = rng.randint(0, len(mixed))
        one, other = one.observe(step), other.observe(iter(mixed[cut:] + mixed[:cut]))
    assert text(one) == text(other)


# It survives a file


@settings(max_examples=50, deadline=None)
@given(st.lists(SIGHTINGS, max_size=12), st.lists(SIGHTINGS, max_size=12))
def test_a_ledger_comes_back_to_the_bit_and_goes_on_as_if_nothing_had_been(
    first: list[TeacherObservation], second: list[TeacherObservation]
) -> None:
    ledger = Ledger(decay=0.97, prior_uses=4.0, trust_scale=0.1).observe(first)
    back = Ledger.from_json(json.loads(text(ledger)))
    assert back == ledger
    assert text(back) == text(ledger)
    assert text(back.observe(second)) == text(ledger.observe(second))


def _broken(change: Callable[[dict[str, Any]], object]) -> Any:
    record = (
        Ledger()
        .observe([TeacherObservation(("s1", "m1"), 1, 0.5, 1), TeacherObservation(("s1",), -1, 0.5, -1)])
        .to_json()
    )
    record = copy.deepcopy(record)
    change(record)
    return record


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.pop("items"), "field 'items' is missing"),
        (lambda r: r.update(format=2), "field 'format' is 2, this version reads 1"),
        (lambda r: r.update(decay="0.98"), "field 'decay' must be a finite number"),
        (lambda r: r.update(decay=0.0), "decay is 0.0"),
        (lambda r: r.update(items=[]), "'items' must be an object"),
        (lambda r: r.update(more=1), "field 'more' is not part of the format"),
        (lambda r: r["items"].update(s1=3), "item 's1', must be an object, not a number"),
        (lambda r: r["items"]["s1"].pop("uses"), "item 's1', field 'uses' is missing"),
        (lambda r: r["items"]["s1"].update(uses=-1), "item 's1', field 'uses' is -1.0, below 0"),
        (lambda r: r["items"]["s1"].update(evidence=math.nan), "item 's1', field 'evidence' must be a finite"),
        (lambda r: r["items"]["s1"].update(evidence=10**400), "item 's1', field 'evidence' must be a finite"),
        (lambda r: r["items"]["s1"].update(retrieved=1), "item 's1', field 'retrieved' is 1, less than"),
        (lambda r: r["items"]["s1"].update(retrieved=True), "item 's1', field 'retrieved' must be a whole number"),
        (lambda r: r["items"]["s1"].update(success=[]), "item 's1', field 'success' must be an object, not a list"),
        (lambda r: r["items"]["s1"]["success"].update(neutral=-1), "item 's1', field 'success.neutral' must be"),
        (lambda r: r["items"]["s1"]["failure"].update(x=1), "item 's1', field 'failure.x' is not part"),
        (lambda r: r["items"]["s1"]["failure"].pop("support"), "item 's1', field 'failure.support' is missing"),
        (lambda r: r["pairs"].append(r["pairs"][0]), r"pairs\[1\], repeats the pair 's1' \+ 'm1'"),
        (lambda r: r["pairs"][0].update(skill=1), r"pairs\[0\], fields 'skill' and 'mistake' must be strings"),
        (lambda r: r["pairs"][0].update(uses="1"), r"pair 's1' \+ 'm1', field 'uses' must be a finite number"),
    ],
)
def test_a_broken_file_is_refused_by_item_and_field(change: Callable[[dict[str, Any]], object], words: str) -> None:
    with pytest.raises(UserError, match=words) as refusal:
        Ledger.from_json(_broken(change), "run/ledger.json")
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="the ledger: must be an object, not a list"):
        Ledger.from_json([])


def test_an_impossible_sighting_is_refused() -> None:
    for items, outcome, support, polarity in [
        ((), 1, 0.1, 1),
        (("a", "a"), 1, 0.1, 1),
        (("a", "b", "c"), 1, 0.1, 1),
        (("a",), 2, 0.1, 1),
        (("a",), 1, 0.1, -2),
        (("a",), 0, 0.1, 1),
        (("a",), 1, math.nan, 1),
    ]:
        with pytest.raises(UserError, match="a sighting of"):
            TeacherObservation(items, outcome, support, polarity)
    for values in [(1.1, 5.0, 0.05), (0.98, 0.0, 0.05), (0.98, 5.0, math.nan)]:
        with pytest.raises(UserError, match="the ledger's decay"):
            Ledger(*values)
