"""Choices that do not go together are refused when a method is declared, and the message says why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sgsd import contexts as C
from sgsd.methods import ZOO, build
from sgsd.methods import joints as J
from sgsd.methods.gates import Absolute, Bounded, NoGate
from sgsd.train import make_config
from sgsd.types import UserError

DISTRIBUTION = J.MatchDistribution()


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("sgsd", {"direction": None}, "scored for nothing"),
        ("sgsd", {"context": C.NoContext(), "weights": J.Uniform()}, "needs a context"),
        ("grpo", {"outcome": None, "iterations": 1}, "learn nothing"),
        ("dasd", {"outcome": None}, "give it an outcome"),
        ("grpo", {"stance": J.VerifiedSupport()}, "no support to verify"),
        ("dasd", {"stance": J.VerifiedSupport()}, "already says which way"),
        ("rlsd", {"gate": Bounded()}, "bounds of its own"),
        ("opsd", {"gate": Absolute()}, "its own absolute value"),
        ("opsd", {"gate": NoGate(clip=1.0)}, "direction's own clip"),
        ("trusted", {"direction": DISTRIBUTION, "gate": Bounded(), "outcome": None}, "trust may be negative"),
        ("sgsd", {"direction": DISTRIBUTION, "gate": NoGate()}, "without a gate has no bound"),
        ("trusted", {"context": C.Answer(), "weights": J.Uniform()}, "trust is in a bank's items"),
        ("sgsd_calibrated", {"context": C.Answer(), "weights": J.Uniform()}, "irrelevant skill in a pair's place"),
        ("sgsd", {"context": C.Answer()}, "retrieves nothing"),
        ("rlcsd", {"context": C.Answer()}, "must be hints"),
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
        (lambda: J.VerifiedSupport(clip=0), "clip must be positive"),
        (lambda: J.VerifiedSupport(kind="rare"), "raw, contrast or ratio"),
        (lambda: J.VerifiedSupport(kind="ratio", clip=11), "use clip"),
        (lambda: J.VerifiedSupport(force="luck"), "verdict or the advantage"),
        (lambda: J.LedgerTrust(floor=0.5), "floor of the trust"),
        (lambda: J.MatchDistribution(tail=True), "set top_k"),
        (lambda: J.MatchDistribution(top_of="both"), "top_of must be"),
        (lambda: J.MatchDistribution(share=0.0), "share of the divergence"),
        (lambda: J.RouteByEntropy(quantile=1.0), "quantile"),
        (lambda: J.ContrastHints(tau=0.0), "strength and tau"),
        (lambda: J.WeighByTeacher(strength=0.0), r"must lie in \(0, 1\]"),
        (lambda: J.WeighByTeacher(sign="±"), "exponent is"),
        (lambda: J.FollowOutcome(epsilon=0.0), "epsilon"),
        (lambda: J.FollowOutcome(baseline="batch"), "deviation over the batch"),
        (lambda: J.FollowOutcome(share=0.0), "leave the term out"),
        (lambda: J.RetrievalSoftmax(0.0), "temperature of the weights"),
        (lambda: C.SkillPairs(0), "at least 1"),
        (lambda: C.SkillPairs(1, "half"), "its skill or its mistake"),
        (lambda: C.Hints(0), "at least 1 wrong hint"),
        (lambda: Bounded(0.0), "tau must be positive"),
        (lambda: NoGate(-1.0), "clip of the gate"),
        (lambda: build("sgsd", gate="soft"), "the gate is one of bounded, none"),
    ],
)
def test_a_joint_refuses_what_it_cannot_mean(make: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make()


@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_zoo_entry_is_not_a_broken_mix(name: str) -> None:
    assert build(name).name == name


def test_the_config_is_where_an_impossible_mix_fails() -> None:
    with pytest.raises(UserError, match=r"method\.gate: input should be 'bounded'"):
        make_config({"method": {"name": "sgsd", "gate": "soft"}, "bank": {"path": "lab"}})
    with pytest.raises(UserError, match="group: sdpo compares rollouts of one problem"):
        make_config({"method": {"name": "sdpo"}, "group": 1})
