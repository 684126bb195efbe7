"""Choices that do not go together are refused when a method is declared, and the message says why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sgsd import contexts as C
from sgsd.methods import RECIPES, build
from sgsd.methods import method as M
from sgsd.methods import objectives as O
from sgsd.methods import stances as S
from sgsd.methods.gates import Absolute, Bounded, NoGate
from sgsd.train import make_config
from sgsd.types import UserError

DISTRIBUTION = O.MatchDistribution()


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("sgsd", {"objective": O.FollowOutcome()}, "scored for nothing"),
        ("sgsd", {"context": C.NoContext(), "weights": M.Uniform()}, "needs a context"),
        ("grpo", {"outcome": None, "iterations": 1}, "learn nothing"),
        ("dasd", {"outcome": None}, "give it an outcome"),
        ("grpo", {"stance": S.VerifiedSupport()}, "no support to verify"),
        ("dasd", {"stance": S.VerifiedSupport()}, "already says which way"),
        ("rlsd", {"gate": Bounded()}, "bounds of its own"),
        ("opsd", {"gate": Absolute()}, "its own absolute value"),
        ("opsd", {"gate": NoGate(clip=1.0)}, "objective's own clip"),
        ("trusted", {"objective": DISTRIBUTION, "gate": Bounded(), "outcome": None}, "trust may be negative"),
        ("sgsd", {"objective": DISTRIBUTION, "gate": NoGate()}, "without a gate has no bound"),
        ("trusted", {"context": C.Answer(), "weights": M.Uniform()}, "trust is in a bank's items"),
        ("sgsd_calibrated", {"context": C.Answer(), "weights": M.Uniform()}, "irrelevant skill in a pair's place"),
        ("sgsd", {"context": C.Answer()}, "retrieves nothing"),
        ("rlcsd", {"context": C.Answer()}, "must be Hints"),
        ("grpo", {"teacher": "frozen"}, "no teacher to be frozen"),
        ("grpo", {"group": 1}, "group ≥ 2"),
        ("sdpo", {"group": 1}, "group ≥ 2"),
        ("grpo", {"iterations": 0}, "at least 1"),
        ("sgsd", {"iterations": 2}, "older policy"),
        ("sdpg", {"iterations": 2}, "older policy"),
    ],
)
def test_impossible_mixes_say_why(name: str, change: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=f"method {name}: .*{why}"):
        replace(build(name), **change)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: S.VerifiedSupport(clip=0), "clip must be positive"),
        (lambda: S.VerifiedSupport(kind="rare"), "raw, contrast or ratio"),
        (lambda: S.VerifiedSupport(kind="ratio", clip=11), "use clip"),
        (lambda: S.VerifiedSupport(coefficient="luck"), "verdict or the advantage"),
        (lambda: S.LedgerTrust(floor=0.5), "floor of the trust"),
        (lambda: O.MatchDistribution(tail=True), "set top_k"),
        (lambda: O.MatchDistribution(top_of="both"), "top_of must be"),
        (lambda: O.MatchDistribution(share=0.0), "share of the divergence"),
        (lambda: O.RouteByEntropy(quantile=1.0), "quantile"),
        (lambda: O.ContrastHints(tau=0.0), "strength and tau"),
        (lambda: O.WeighByTeacher(strength=0.0), r"must lie in \(0, 1\]"),
        (lambda: O.WeighByTeacher(sign="±"), "exponent is"),
        (lambda: M.PolicyGradient(epsilon=0.0), "epsilon"),
        (lambda: M.PolicyGradient(baseline="batch"), "deviation over the batch"),
        (lambda: M.PolicyGradient(share=0.0), "leave the term out"),
        (lambda: M.RetrievalSoftmax(0.0), "temperature of the weights"),
        (lambda: C.SkillPairs(0), "at least 1"),
        (lambda: C.SkillPairs(1, "half"), "its skill or its mistake"),
        (lambda: C.Hints(0), "at least 1 wrong hint"),
        (lambda: Bounded(0.0), "tau must be positive"),
        (lambda: NoGate(-1.0), "clip of the gate"),
        (lambda: build("sgsd", gate="soft"), "the gate is one of bounded, none"),
    ],
)
def test_a_component_refuses_what_it_cannot_mean(make: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make()


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_is_not_a_broken_mix(name: str) -> None:
    assert build(name).name == name


def test_the_config_is_where_an_impossible_mix_fails() -> None:
    with pytest.raises(UserError, match=r"method\.gate: input should be 'bounded'"):
        make_config({"method": {"name": "sgsd", "gate": "soft"}, "bank": {"path": "lab"}})
    with pytest.raises(UserError, match="group: sdpo compares rollouts of one problem"):
        make_config({"method": {"name": "sdpo"}, "group": 1})
