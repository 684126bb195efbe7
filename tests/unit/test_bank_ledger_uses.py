"""What the ledger's figures mean and do: the polarity bias cancels, trust moves pairs, a bank is pruned by standing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sgsd.bank import Bank, Hit, Ledger, Proposal, TeacherObservation, add_items, pair_weights, rerank
from sgsd.bank.retrieval.pairing import softmax
from sgsd.types import Mistake, Skill, SkillPair, UserError


def seen(item: str, outcome: int, support: float, confidence: float = 0.05) -> TeacherObservation:
    """A sighting with the polarity that SGSD would give it."""
    stance = 0 if abs(support) <= confidence else math.copysign(1, support)
    return TeacherObservation((item,), outcome, support, int(outcome * stance))


def skill(item_id: str) -> Skill:
    return Skill(item_id, f"Title {item_id}", "Do it.", "Always.")


# Why it is a contrast: a simulation. A step is 32 rollouts; a teacher has support bias + signal · outcome +
# noise, its polarity SGSD's. Seeds and tolerances were fixed before the first run: four standard errors of the mean
# over the items.

BIAS, NOISE, ITEMS = -0.04, 0.06, 60


def simulated(rate: float, signal: float = 0.0, steps: int = 40, seed: int = 0) -> tuple[Ledger, np.ndarray, float]:
    """The ledger, the standings of its items, which all have the same signal, and what the mean signed support is."""
    rng = np.random.default_rng([seed, round(1000 * rate), round(1000 * signal) % 997])
    ledger = Ledger()
    signed = []
    for _ in range(steps):
        step = []
        for outcome in np.where(rng.random(32) < rate, 1, -1).tolist():
            for n in rng.choice(ITEMS, size=8, replace=False).tolist():
                step.append(seen(f"i{n}", outcome, BIAS + signal * outcome + NOISE * rng.standard_normal()))
        ledger = ledger.observe(step)
        signed += [s.outcome * s.support for s in step]
    return ledger, np.array([ledger.standing(f"i{n}") for n in range(ITEMS)]), float(np.mean(signed))


def standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.8, 0.95])
def test_a_teacher_that_knows_nothing_has_no_standing_at_any_success_rate(rate: float) -> None:
    _, standings, _ = simulated(rate)
    assert abs(standings.mean()) < 4 * standard_error(standings)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.8, 0.95])
def test_the_mean_signed_support_would_give_it_one(rate: float) -> None:
    assert simulated(rate)[2] == pytest.approx(BIAS * (2 * rate - 1), abs=0.005)


@pytest.mark.parametrize("rate", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("signal", [-0.05, 0.05])
def test_a_teacher_that_knows_something_has_its_signal_as_standing(rate: float, signal: float) -> None:
    ledger, standings, _ = simulated(rate, signal)
    fewer = np.array([min(s.success.total, s.failure.total) for s in ledger.items.values()])
    assert abs(standings.mean() - signal * float(np.mean(fewer / (fewer + 5)))) < 4 * standard_error(standings)


def test_an_item_of_easy_problems_has_no_contrast_either() -> None:
    rng = np.random.default_rng(5)
    ledger = Ledger()
    for _ in range(400):
        step = [seen("easy", 1 if rng.random() < 0.8 else -1, BIAS + NOISE * rng.standard_normal()) for _ in range(8)]
        step += [seen("hard", 1 if rng.random() < 0.2 else -1, BIAS + NOISE * rng.standard_normal()) for _ in range(8)]
        ledger = ledger.observe(step)
    for item in ("easy", "hard"):
        contrast = ledger.stats(item).contrast
        assert contrast is not None
        assert abs(contrast) < 4 * NOISE / math.sqrt(8 * 400 * 0.2 * 4)


# What it is used for


def _judged() -> Ledger:
    step = [seen("good", 1, 0.3), seen("good", -1, -0.3)] * 20 + [seen("bad", 1, -0.3), seen("bad", -1, 0.3)] * 20
    return Ledger().observe([*step, seen("idle", 1, 0.0), seen("idle", -1, 0.0)])


def test_evidence_reorders_hits_and_leaves_their_scores() -> None:
    hits = [Hit(skill(name), score) for name, score in [("bad", 0.6), ("idle", 0.55), ("new", 0.55), ("good", 0.5)]]
    moved = rerank(hits, _judged())
    assert [hit.item.id for hit in moved] == ["good", "idle", "new", "bad"]
    assert {(hit.item.id, hit.score) for hit in moved} == {(hit.item.id, hit.score) for hit in hits}
    assert rerank(hits, _judged(), weight=0.0) == hits
    assert rerank(hits, Ledger()) == hits


def test_pair_weights_follow_trust_and_without_strength_they_are_retrievals() -> None:
    names = [("good", None), ("idle", "x"), (None, "bad"), ("good", "bad")]
    pairs = [
        SkillPair(skill(s) if s else None, Mistake(m, "d", "w", "h") if m else None, 0.5 - 0.1 * n, 0.25)
        for n, (s, m) in enumerate(names)
    ]
    ledger = _judged()
    weights = pair_weights(pairs, ledger)
    assert math.fsum(weights) == pytest.approx(1.0)
    odds = math.log(weights[0] / weights[2])
    assert odds == pytest.approx(0.2 + ledger.trust("good") - ledger.trust("bad"))
    assert pair_weights(pairs, ledger, strength=0.0) == softmax([pair.score for pair in pairs])
    assert pair_weights(pairs, Ledger(), strength=9.0) == softmax([pair.score for pair in pairs])
    flat = pair_weights(pairs, ledger, strength=0.0, temperature=math.inf)
    assert flat == (0.25,) * 4
    with pytest.raises(UserError, match="temperature"):
        pair_weights(pairs, ledger, temperature=0.0)


def test_a_bank_is_pruned_by_standing() -> None:
    dynamic = tuple(Skill(name, f"Title {name}", "p", "w", {"dynamic": 0}) for name in ("good", "bad", "idle"))
    bank, _ = add_items(Bank(dynamic), [Proposal(skill("new"))], step=1, capacity=3, score=_judged().standing)
    assert [item.id for item in bank.items] == ["good", "idle", "new"]


def test_the_table_begins_with_the_best() -> None:
    ledger = _judged().observe(
        [TeacherObservation(("good", "bad"), 1, 0.3, 1), TeacherObservation(("bad",), -1, 0.0, 0)]
    )
    rows = ledger.rows()
    assert [row.id for row in rows] == ["good", "idle", "bad"]
    best = rows[0]
    assert (best.retrieved, best.validated, best.reversed, best.neutral) == (41, 41, 0, 0)
    assert best.standing == ledger.standing("good")
    assert best.trust == ledger.trust("good")
    assert best.support_on_failure == pytest.approx(-0.3)
    assert best.contrast == pytest.approx(0.3)
