"""Which choices at the joints do not go together, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sgsd.contexts.rollouts import Hints
from sgsd.contexts.skill_pairs import SkillPairs
from sgsd.methods.gates import Absolute, NoGate
from sgsd.methods.joints import (
    ContrastHints,
    LedgerTrust,
    MatchDistribution,
    MatchSampledToken,
    RetrievalSoftmax,
    VerifiedSupport,
)

if TYPE_CHECKING:
    from sgsd.methods.method import Method


def broken_mix(method: Method) -> str | None:
    """Why the choices do not make a method; none where they do."""
    return next((why for broken, why in _rules(method) if broken), None)


def _rules(m: Method) -> Iterator[tuple[bool, str]]:
    from_bank = "bank" in m.context.all_needs()
    shapes = m.direction is not None and not isinstance(m.direction, MatchSampledToken | MatchDistribution)
    verified = isinstance(m.stance, VerifiedSupport)

    # What learns at all.
    yield (
        m.direction is None and m.has_teachers,
        "without a direction its teachers would be scored for nothing; give it a direction, or no context",
    )
    yield (
        m.direction is not None and not m.has_teachers,
        "distillation needs a context to make a teacher",
    )
    yield (
        m.direction is None and m.outcome is None,
        "it would learn nothing; give it a direction with a context, or an outcome to follow",
    )
    yield (
        shapes and m.outcome is None,
        f"{type(m.direction).__name__} shapes the outcome's advantage; give it an outcome to follow",
    )

    # Stances and gates.
    yield (
        verified and m.direction is None,
        "without teachers there is no support to verify; use always()",
    )
    yield (
        verified and shapes,
        "the outcome's advantage already says which way a rollout counts; use always()",
    )
    yield (
        shapes and not isinstance(m.gate, NoGate),
        "the gate is on a gap that is matched; a shaped advantage has bounds of its own, use no gate",
    )
    yield (
        isinstance(m.direction, MatchDistribution) and isinstance(m.gate, Absolute),
        "a divergence is its own absolute value; use no gate",
    )
    yield (
        isinstance(m.direction, MatchDistribution) and isinstance(m.gate, NoGate) and m.gate.clip is not None,
        "a divergence is clipped by the direction's own clip; leave the gate's out",
    )
    yield (
        isinstance(m.direction, MatchDistribution) and isinstance(m.stance, LedgerTrust),
        "trust may be negative, and a divergence pushed up has no bound; match the sampled token",
    )
    yield (
        isinstance(m.direction, MatchDistribution) and verified and isinstance(m.gate, NoGate),
        "a reversed divergence without a gate has no bound; use a bounded gate",
    )

    # What a context can serve.
    yield (
        isinstance(m.stance, LedgerTrust) and not from_bank,
        "trust is in a bank's items and is learned from their support; show skill pairs",
    )
    yield (
        m.contrasts and m.part(SkillPairs) is None,
        "a contrast is with an irrelevant skill in a pair's place; this context shows none, use raw or ratio",
    )
    yield (
        isinstance(m.weights, RetrievalSoftmax) and not from_bank,
        "retrieval_softmax() weighs retrieved pairs; this context retrieves nothing, use uniform()",
    )
    yield (
        isinstance(m.direction, ContrastHints) and not isinstance(m.context, Hints),
        "it contrasts a right hint with wrong ones; the context must be hints()",
    )
    yield (
        not m.has_teachers and m.teacher != "live",
        f"there is no teacher to be {m.teacher}; leave it live",
    )

    # Rollouts that were not sampled.
    yield (not 0 < m.on_policy <= 1, f"on_policy is a share in (0, 1], not {m.on_policy}")
    yield (
        m.on_policy < 1 and (not isinstance(m.direction, MatchDistribution) or m.outcome is not None),
        "a reference solution has no outcome of the policy's own; only a distribution matched without one goes with"
        " on_policy below 1",
    )

    # Groups and repeated updates.
    yield (m.compares_siblings and m.group < 2, "an advantage or a context within a group needs group ≥ 2")
    yield (m.iterations < 1, "iterations must be at least 1")
    yield (
        m.iterations > 1 and m.outcome is None,
        "only the clipped policy gradient corrects for rollouts of an older policy; use iterations=1",
    )
    yield (
        m.iterations > 1 and isinstance(m.direction, MatchSampledToken | MatchDistribution),
        "a teacher's own term has no correction for rollouts of an older policy; use iterations=1",
    )
