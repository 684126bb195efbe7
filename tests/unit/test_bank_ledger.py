"""The ledger: what it adds up, that no order matters, and that it survives a file."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsd.bank import Ledger, TeacherObservation
from sgsd.bank.item_stats import ItemStats, OutcomeStats
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
    assert ledger.standing("new") == ledger.trust("new") == 0.0
    assert ledger.stats("new") == ItemStats()


def test_a_step_of_one_outcome_is_counted_but_moves_no_standing_of_an_unknown_side() -> None:
    after = Ledger().observe([seen("a", -1, -0.4)] * 30)
    assert after.stats("a").failure == OutcomeStats(validated=30, support=math.fsum([-0.4] * 30))
    assert after.standing("a") == 0.0


def test_unknown_outcomes_are_retrievals_only() -> None:
    known = [seen("a", 1, 0.5), seen("a", -1, 0.2)]
    with_unknown = Ledger().observe([*known, TeacherObservation(("a", "b"), 0, 9.0, 0)])
    without = Ledger().observe(known)
    assert with_unknown.standing("a") == without.standing("a")
    assert with_unknown.stats("a").retrieved == 3
    assert with_unknown.stats("b") == ItemStats(retrieved=1)


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
    ledger = Ledger(prior_uses=4.0, trust_scale=0.1).observe(first)
    back = Ledger.from_json(json.loads(text(ledger)))
    assert back == ledger
    assert text(back) == text(ledger)
    assert text(back.observe(second)) == text(ledger.observe(second))


def test_a_ledger_of_format_1_is_read_without_its_decayed_sums_and_its_pairs() -> None:
    ledger = Ledger().observe([seen("a", 1, 0.5), seen("a", -1, -0.2)])
    old = json.loads(text(ledger)) | {"format": 1, "decay": 0.98, "pairs": [{"skill": "a", "mistake": "b"}]}
    old["items"]["a"] |= {"evidence": 0.1, "uses": 2.0}
    assert Ledger.from_json(old) == ledger


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
        (lambda r: r.update(format=3), "field 'format' is 3, this version reads up to 2"),
        (lambda r: r.update(prior_uses="5"), "field 'prior_uses' must be a finite number"),
        (lambda r: r.update(prior_uses=0.0), "prior is 0.0"),
        (lambda r: r.update(items=[]), "'items' must be an object"),
        (lambda r: r.update(more=1), "field 'more' is not part of the format"),
        (lambda r: r["items"].update(s1=3), "item 's1', must be an object, not a number"),
        (lambda r: r["items"]["s1"].pop("failure"), "item 's1', field 'failure' is missing"),
        (lambda r: r["items"]["s1"]["success"].update(support=math.nan), "field 'success.support' must be a finite"),
        (lambda r: r["items"]["s1"]["success"].update(support=10**400), "field 'success.support' must be a finite"),
        (lambda r: r["items"]["s1"].update(retrieved=1), "item 's1', field 'retrieved' is 1, less than"),
        (lambda r: r["items"]["s1"].update(retrieved=True), "item 's1', field 'retrieved' must be a whole number"),
        (lambda r: r["items"]["s1"].update(success=[]), "item 's1', field 'success' must be an object, not a list"),
        (lambda r: r["items"]["s1"]["success"].update(neutral=-1), "item 's1', field 'success.neutral' must be"),
        (lambda r: r["items"]["s1"]["failure"].update(x=1), "item 's1', field 'failure.x' is not part"),
        (lambda r: r["items"]["s1"]["failure"].pop("support"), "item 's1', field 'failure.support' is missing"),
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
        with pytest.raises(UserError, match="an observation of"):
            TeacherObservation(items, outcome, support, polarity)
    for values in [(0.0, 0.05), (math.inf, 0.05), (5.0, math.nan)]:
        with pytest.raises(UserError, match="the ledger's prior"):
            Ledger(*values)
