"""What a probe makes of scored rollouts: figures, the three outcomes of its rule, and what it must not say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from sgsd.bank import Ledger
from sgsd.evaluation import probe as module
from sgsd.evaluation.probe import (
    FEWEST,
    MARGIN,
    SOURCES,
    STANCES,
    Findings,
    ProbedRollout,
    Separation,
    TeacherSupport,
    compute_findings,
    decide,
    item_by_item,
    rollouts_needed,
    separations,
    teacher_observations,
)
from sgsd.evaluation.stats import Interval, Scored, auc
from sgsd.methods.stances import StanceKind

ITEMS = 12
RAW: tuple[StanceKind, ...] = ("raw",)


def observations(
    seed: int,
    knows: Mapping[str, float],
    *,
    count: int = 160,
    share: float = 0.5,
    misleading: int = 0,
    bias: float = -0.05,
    k: int = 3,
) -> list[ProbedRollout]:
    """Rollouts read by pools whose teachers know the outcome as well as `knows` says (nats), with noise 0.1.

    Problems move all supports of a pool, and teachers are biased, as they are in truth; the first `misleading` of the
    bank's items know it the wrong way round.
    """
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        problem = int(rng.integers(count // 2))
        outcome = 1 if rng.random() < share else -1
        own = float(np.random.default_rng([seed, problem]).normal()) * 0.05
        pools = {}
        for source in SOURCES:
            readings = []
            for item in rng.choice(ITEMS, size=1 if source == "null" else k, replace=False).tolist():
                sign = -1 if source == "bank" and item < misleading else 1
                support = bias + own + sign * outcome * knows.get(source, 0.0) + 0.1 * float(rng.normal())
                readings.append(TeacherSupport((f"{source}_{item}",), 1 / k, dict.fromkeys(STANCES, support)))
            pools[source] = tuple(readings)
        found.append(ProbedRollout(index, f"p{problem}", outcome, pools))
    return found


def test_a_bank_that_knows_is_told_from_its_controls() -> None:
    found = compute_findings(observations(0, {"bank": 0.06}), seed=0)
    assert (found.rollouts, found.unknown, found.left_out) == (160, 0, 0)
    assert found.right + found.wrong == 160
    for stance in STANCES:
        by_source = found.separations[stance]
        assert set(by_source) == set(SOURCES)
        assert by_source["bank"].gain is None
        assert by_source["bank"].auc.low > 0.6
        assert by_source["irrelevant"].auc.low < 0.5 < by_source["irrelevant"].auc.high
        gain = by_source["irrelevant"].gain
        assert gain is not None
        assert gain.value == pytest.approx(by_source["bank"].auc.value - by_source["irrelevant"].auc.value)
    verdict = decide(found, "raw")
    assert (verdict.answer, verdict.needed) == ("yes", None)
    assert verdict.sentence.startswith("Yes: as a whole, AUC 0.")
    assert "\n" not in verdict.sentence


def test_the_whole_is_the_weighted_auc_of_all_teachers() -> None:
    seen = observations(1, {"bank": 0.04})
    rows = [(r.support["raw"], o.outcome > 0, o.problem_id, r.weight) for o in seen for r in o.pools["bank"]]
    scores, right, clusters, weights = map(list, zip(*rows))
    by_hand = auc(Scored(np.round(scores, 5).tolist(), right, clusters, weights), seed=3)
    assert separations(seen, "raw", seed=3)["bank"].auc == by_hand


def test_half_a_bank_that_misleads_cancels_out_as_a_whole_and_not_item_by_item() -> None:
    found = compute_findings(observations(2, {"bank": 0.08}, misleading=ITEMS // 2, count=240), seed=0, stances=RAW)
    whole = found.separations["raw"]["bank"].auc
    assert whole.value < 0.56
    assert found.by_item["raw"].auc.low > 0.6
    verdict = decide(found, "raw")
    assert verdict.answer == "yes"
    assert verdict.sentence.startswith("Yes: item by item")


def test_a_bank_that_misleads_altogether_can_teach_by_being_reversed() -> None:
    found = compute_findings(observations(3, {"bank": 0.08}, misleading=ITEMS), seed=0, stances=RAW)
    assert found.separations["raw"]["bank"].auc.high < 0.5
    assert decide(found, "raw").sentence.startswith("Yes: item by item")


def test_no_bank_is_praised_for_what_any_text_does() -> None:
    """Off-topic text that separates as well leaves no gain; the bank's AUC alone would have said yes."""
    found = compute_findings(observations(4, dict.fromkeys(SOURCES, 0.06)), seed=0, stances=RAW)
    assert found.separations["raw"]["bank"].auc.low > 0.6
    assert decide(found, "raw").answer != "yes"


def test_a_bank_that_knows_nothing_is_seldom_said_to_teach() -> None:
    """At most one in twenty by its rule; of ten, more than three would be a fault of it (p < 0.002)."""
    answers = []
    for seed in range(10):
        seen = observations(seed, {}, count=60, bias=-0.05 if seed % 2 else 0.05)
        found = compute_findings(seen, seed=seed, stances=RAW)
        answers.append(decide(found, "raw").answer)
    assert answers.count("yes") <= 3
    assert "cannot tell" in answers


def test_an_item_is_read_by_what_other_problems_have_taught_of_it() -> None:
    """One problem holds everything its items know: nobody else has taught it, so nothing is read."""
    seen = [
        replace(o, pools={**o.pools, "bank": tuple(replace(r, items=(f"of_{o.problem_id}",)) for r in o.pools["bank"])})
        for o in observations(5, {"bank": 0.5})
    ]
    assert item_by_item(seen, "raw", seed=0).auc == Interval(0.5, 0.5, 0.5)


def test_unknown_outcomes_and_missing_pools_are_counted_and_left_out() -> None:
    seen = observations(6, {"bank": 0.06})
    broken = [replace(o, outcome=0) for o in seen[:10]] + [
        replace(o, pools={**o.pools, "bank": ()}) for o in seen[10:17]
    ]
    found = compute_findings([*broken, *seen[17:]], seed=0, stances=RAW)
    assert (found.rollouts, found.unknown, found.left_out) == (160, 10, 7)
    rest = compute_findings(seen[17:], seed=0, stances=RAW)
    assert found.separations == rest.separations
    assert found.by_item == rest.by_item


@pytest.mark.parametrize(
    ("share", "said", "advice"), [(0.0, "wrong", "easier"), (0.03, "wrong", "easier"), (1.0, "right", "harder")]
)
def test_where_nearly_all_rollouts_have_one_outcome_it_says_so(share: float, said: str, advice: str) -> None:
    found = compute_findings(observations(7, {"bank": 0.5}, share=share), seed=0, stances=RAW)
    assert found.rarer < FEWEST
    assert (found.separations, found.by_item) == ({}, {})
    verdict = decide(found, "raw")
    assert verdict.answer == "cannot tell"
    assert f"nearly all rollouts are {said}" in verdict.sentence
    assert f"Take {advice} problems" in verdict.sentence
    assert "nan" not in json.dumps(found.to_dict()).lower()
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["right"] == found.right


def findings(whole: Interval, gain: Interval, by_item: Interval, item_gain: Interval) -> Findings:
    sources = {"bank": Separation(whole), "irrelevant": Separation(Interval(0.5, 0.4, 0.6), gain)}
    return Findings(200, 0, 0, 100, 100, 200, 90, {"raw": sources}, {"raw": Separation(by_item, item_gain)})  # type: ignore[dict-item]


NO_IDEA = Interval(0.5, 0.42, 0.58), Interval(0.0, -0.1, 0.1)
CLEAR = Interval(0.6, 0.55, 0.65), Interval(0.1, 0.05, 0.15)
NARROW = Interval(0.5, 0.48, 0.52), Interval(0.0, -0.03, 0.03)


@pytest.mark.parametrize(
    ("whole", "by_item", "answer"),
    [
        (CLEAR, NO_IDEA, "yes"),
        (NO_IDEA, CLEAR, "yes"),
        (NO_IDEA, NO_IDEA, "cannot tell"),
        (NARROW, NO_IDEA, "cannot tell"),
        (NARROW, NARROW, "no"),
        ((CLEAR[0], NO_IDEA[1]), NO_IDEA, "cannot tell"),  # separates, but no better than off-topic text
        ((NO_IDEA[0], CLEAR[1]), NO_IDEA, "cannot tell"),  # better than off-topic text, which is worse than chance
    ],
)
def test_the_rule_has_three_outcomes(
    whole: tuple[Interval, Interval], by_item: tuple[Interval, Interval], answer: str
) -> None:
    verdict = decide(findings(*whole, *by_item), "raw")
    assert verdict.answer == answer
    assert verdict.sentence.lower().startswith(answer)
    assert verdict.needed is None or answer == "cannot tell"


def way(auc: float, gain: float, half: float) -> Separation:
    return Separation(Interval(auc, auc - half, auc + half), Interval(gain, gain - half, gain + half))


@pytest.mark.parametrize(
    ("ways", "needed"),
    [
        ([way(0.6, 0.1, 0.2), way(0.5, 0.2, 0.2)], 800),  # yes, as a whole: twice as narrow
        ([way(0.55, 0.1, 0.2), way(0.5, 0.2, 0.2)], 3200),  # and its AUC is what takes longest
        ([way(0.5, 0.0, 0.1), way(0.5, 0.01, 0.06)], 800),  # no: the wider of the two gains
        ([way(0.4, 0.1, 0.1), way(0.4, -0.1, 0.1)], None),  # better than off-topic text, yet worse than chance
        ([way(0.5, 0.0, 0.02), way(0.5, 0.0, 0.02)], 200),
    ],
)
def test_the_rollouts_needed_are_those_that_would_bring_a_figure_off_its_bound(
    ways: list[Separation], needed: int | None
) -> None:
    assert rollouts_needed(200, ways) == needed


def test_a_ledger_is_told_what_the_method_would_have_judged() -> None:
    seen = observations(8, {"bank": 0.2}, count=40)
    told = teacher_observations(seen, "bank", "raw", 0.05)
    assert len(told) == 3 * 40
    for sighting in told:
        stance = (sighting.support > 0.05) - (sighting.support < -0.05)
        assert sighting.polarity == sighting.outcome * stance
    assert min(Ledger().observe(told).standing(f"bank_{item}") for item in range(ITEMS)) > 0
    renamed = teacher_observations(
        seen, "bank", "raw", 0.05, lambda o, r: tuple(f"{item} @ {o.problem_id}" for item in r.items)
    )
    assert {s.items[0].split(" @ ")[0] for s in renamed} == {s.items[0] for s in told}


def test_supports_that_differ_by_rounding_alone_are_equal() -> None:
    seen = [
        replace(o, pools={**o.pools, "null": (TeacherSupport((), 1.0, dict.fromkeys(STANCES, 1e-7 * (o.index % 5))),)})
        for o in observations(9, {})
    ]
    assert separations(seen, "raw", seed=0)["null"].auc == Interval(0.5, 0.5, 0.5)


def test_the_rule_is_written_where_its_numbers_are() -> None:
    assert str(MARGIN) in module.RULE
    assert "95 %" in module.RULE
