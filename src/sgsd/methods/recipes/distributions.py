"""Methods that match whole next-token distributions, whatever the outcome."""

from __future__ import annotations

from sgsd.contexts.base import Joined
from sgsd.contexts.references import Answer, Demonstration, OtherProblem, ReasonFirst, Rubric, Shown
from sgsd.contexts.rollouts import Critique, Feedback, Sibling
from sgsd.methods.method import ClipLevel, Method, TeacherKind
from sgsd.methods.objectives import MatchDistribution


def opsd(
    show: Shown = "solution_or_answer",
    beta: float = 0.0,
    clip: float | None = 0.05,
    clip_level: ClipLevel = "token",
    top_k: int | None = None,
    reason_first: bool = False,
    on_policy: float = 1.0,
    teacher: TeacherKind = "frozen",
) -> Method:
    """Answer-conditioned on-policy self-distillation of whole distributions, arXiv 2601.18734."""
    return Method(
        name="opsd",
        context=ReasonFirst(Answer(show)) if reason_first else Answer(show),
        objective=MatchDistribution(beta=beta, clip=clip, clip_level=clip_level, top_k=top_k),
        reduce="token",
        teacher=teacher,
        on_policy=on_policy,
        paper="arXiv 2601.18734",
    )


def sdpo(
    beta: float = 0.5, top_k: int | None = 100, feedback: bool = False, group: int = 8, teacher: TeacherKind = "ema"
) -> Method:
    """Self-distillation from a sibling that succeeded, or from feedback, arXiv 2601.20802."""
    return Method(
        name="sdpo",
        context=Feedback() if feedback else Sibling(),
        objective=MatchDistribution(beta=beta, top_k=top_k, tail=top_k is not None, top_of="student", clip=None),
        reduce="token",
        teacher=teacher,
        group=group,
        paper="arXiv 2601.20802",
    )


def sdft(beta: float = 0.0, teacher: TeacherKind = "ema") -> Method:
    """Self-distillation from a demonstration, arXiv 2601.19897; its results come from β = 0, its text says β = 1."""
    return Method(
        name="sdft",
        context=Demonstration(),
        objective=MatchDistribution(beta=beta, clip=None),
        reduce="token",
        teacher=teacher,
        paper="arXiv 2601.19897",
    )


def op2sd(beta: float = 0.0, clip: float | None = 0.05, teacher: TeacherKind = "frozen") -> Method:
    """OPSD whose teacher is shown another problem and its solution, arXiv 2608.09228."""
    return Method(
        name="op2sd",
        context=OtherProblem(),
        objective=MatchDistribution(beta=beta, clip=clip),
        reduce="token",
        teacher=teacher,
        paper="arXiv 2608.09228",
    )


def rcsd(
    show: Shown = "answer", top_k: int | None = 20, clip: float | None = 0.05, teacher: TeacherKind = "frozen"
) -> Method:
    """Self-distillation from the answer and a rubric, arXiv 2606.19327."""
    return Method(
        name="rcsd",
        context=Joined((Answer(show), Rubric())),
        objective=MatchDistribution(beta=0.0, top_k=top_k, clip=clip),
        reduce="token",
        teacher=teacher,
        paper="arXiv 2606.19327",
    )


def critique(beta: float = 0.0, clip: float | None = 0.05, teacher: TeacherKind = "frozen") -> Method:
    """Self-distillation from a critique of the rollout that goes step by step, arXiv 2606.11173."""
    return Method(
        name="critique",
        context=Critique(),
        objective=MatchDistribution(beta=beta, clip=clip),
        reduce="token",
        teacher=teacher,
        paper="arXiv 2606.11173",
    )
