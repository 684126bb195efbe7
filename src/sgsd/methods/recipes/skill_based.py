"""Methods whose teachers, or whose student, are shown skills and mistakes from a bank."""

from __future__ import annotations

from dataclasses import replace

from sgsd.contexts.base import joined, mixed
from sgsd.contexts.names import named_context
from sgsd.contexts.references import Answer, Shown
from sgsd.contexts.skill_pairs import PairSide, SkillPairs
from sgsd.methods.gates import Bounded, GateName, NoGate, named_gate
from sgsd.methods.method import Method, PolicyGradient, RetrievalSoftmax, TeacherKind
from sgsd.methods.objectives import MatchDistribution, MatchSampledToken
from sgsd.methods.recipes.distributions import opsd
from sgsd.methods.recipes.outcomes import grpo
from sgsd.methods.stances import CoefficientOf, LedgerTrust, StanceKind, VerifiedSupport


def sgsd(
    k: int = 8,
    tau: float = 1.0,
    clip: float = 3.0,
    confidence: float = 0.05,
    teacher: TeacherKind = "live",
    also: Shown | None = None,
    stance: StanceKind = "raw",
    side: PairSide = "pair",
    others: list[str] | None = None,
    gate: GateName = "bounded",
    coefficient: CoefficientOf = "verdict",
    group: int = 1,
) -> Method:
    """Skill-conditioned gated self-distillation, arXiv 2605.28791."""
    pairs = joined(SkillPairs(k, side), *([Answer(also)] if also else []))
    return Method(
        name="sgsd",
        context=mixed(pairs, *(named_context(name, "method.others") for name in others or [])),
        stance=VerifiedSupport(clip=clip, confidence=confidence, kind=stance, coefficient=coefficient),
        gate=named_gate(gate, tau),
        objective=MatchSampledToken(),
        weights=RetrievalSoftmax(),
        teacher=teacher,
        group=group,
        paper="arXiv 2605.28791",
    )


def sgsd_calibrated(
    k: int = 8, tau: float = 1.0, clip: float = 3.0, confidence: float = 0.01, teacher: TeacherKind = "live"
) -> Method:
    """SGSD with its polarity bias taken out: support in contrast to a null teacher, and a narrow dead zone. Ours."""
    return Method(
        name="sgsd_calibrated",
        context=SkillPairs(k),
        stance=VerifiedSupport(clip=clip, confidence=confidence, kind="contrast"),
        gate=Bounded(tau),
        objective=MatchSampledToken(),
        weights=RetrievalSoftmax(),
        teacher=teacher,
        paper="ours, after arXiv 2605.28791",
    )


def sgsd_distribution(
    k: int = 8,
    tau: float = 1.0,
    clip: float = 3.0,
    confidence: float = 0.05,
    top_k: int | None = None,
    tail: bool = False,
    keep_sampled: bool = False,
    teacher: TeacherKind = "live",
) -> Method:
    """SGSD on whole distributions: the gate is on KL(T ‖ S), the stance on the sampled tokens; arXiv 2605.28791.

    With `top_k` and `keep_sampled` both are measured on a local support, each teacher's top k and the sampled token.
    """
    return Method(
        name="sgsd_distribution",
        context=SkillPairs(k),
        stance=VerifiedSupport(clip=clip, confidence=confidence),
        gate=Bounded(tau),
        objective=MatchDistribution(beta=0.0, top_k=top_k, tail=tail, keep_sampled=keep_sampled, clip=None),
        weights=RetrievalSoftmax(),
        teacher=teacher,
        paper="arXiv 2605.28791",
    )


def trusted(
    k: int = 8,
    clip: float = 3.0,
    confidence: float = 0.01,
    outcome: float = 1.0,
    floor: float = -1.0,
    teacher: TeacherKind = "live",
) -> Method:
    """Ledger-trusted SGSD, ours: what all rollouts say of an item decides, and the outcome carries the rest.

    A_t = Σ_k w_k q_k clip(Δ_t^k, ±clip) + λ (r − mean r), with r 1 or 0, which is half of ±1.
    """
    return Method(
        name="trusted",
        context=SkillPairs(k),
        stance=LedgerTrust(clip=clip, confidence=confidence, floor=floor),
        gate=NoGate(clip),
        objective=MatchSampledToken(),
        outcome=PolicyGradient(scale="none", baseline="batch", share=0.5 * outcome) if outcome else None,
        weights=RetrievalSoftmax(),
        teacher=teacher,
        paper="ours",
    )


def grpo_skill(k: int = 3, group: int = 8, iterations: int = 2, epsilon: float = 0.2) -> Method:
    """GRPO whose student reads the best pairs while it trains; a baseline of arXiv 2605.28791."""
    return replace(
        grpo(group, iterations, epsilon), name="grpo_skill", student_context=SkillPairs(k), paper="arXiv 2605.28791"
    )


def opsd_skill(
    k: int = 3, show: Shown = "solution_or_answer", clip: float | None = 0.05, teacher: TeacherKind = "frozen"
) -> Method:
    """OPSD whose student reads the best pairs while it trains; a baseline of arXiv 2605.28791."""
    made = opsd(show, clip=clip, teacher=teacher)
    return replace(made, name="opsd_skill", student_context=SkillPairs(k), paper="arXiv 2605.28791")
