"""Methods that follow the outcome, most of them with teachers who say which tokens it is owed to."""

from __future__ import annotations

from typing import Literal

from sgsd.contexts.base import NoContext
from sgsd.contexts.controls import Null
from sgsd.contexts.references import Answer, Shown
from sgsd.contexts.rollouts import Hints, Sibling
from sgsd.methods.method import Method, PolicyGradient, Reduce, TeacherKind
from sgsd.methods.objectives import (
    ContrastHints,
    FollowOutcome,
    MatchDistribution,
    RouteByEntropy,
    WeighByTeacher,
)
from sgsd.methods.stances import OnSuccess

Scale = Literal["group", "batch", "none"]


def grpo(
    group: int = 8,
    iterations: int = 2,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    scale_rewards: Scale = "group",
    reduce: Reduce = "rollout",
    dual_clip: float | None = None,
    kl: float = 0.0,
) -> Method:
    """Group-relative policy optimisation of the outcome alone, arXiv 2402.03300."""
    return Method(
        name="grpo",
        context=Null() if kl else NoContext(),
        objective=FollowOutcome(),
        outcome=PolicyGradient(
            scale=scale_rewards, epsilon=epsilon, epsilon_high=epsilon_high, dual_clip=dual_clip, kl=kl
        ),
        teacher="frozen" if kl else "live",
        reduce=reduce,
        tokens="all",  # the outcome says when to stop, too: the end token is learned
        group=group,
        iterations=iterations,
        paper="arXiv 2402.03300",
    )


def reinforce() -> Method:
    """The policy gradient of the outcome with the step's mean as its baseline: the least that a teacher has to beat."""
    return Method(
        name="reinforce",
        context=NoContext(),
        objective=FollowOutcome(),
        outcome=PolicyGradient(scale="none", baseline="batch"),
        tokens="all",
        paper="Williams 1992",
    )


def dasd(
    show: Shown = "solution_or_answer",
    beta: float = 0.02,
    quantile: float = 0.8,
    group: int = 8,
    epsilon: float = 0.2,
    teacher: TeacherKind = "live",
) -> Method:
    """Direction-adaptive self-distillation: entropy decides which way a teacher pulls, arXiv 2605.22263."""
    return Method(
        name="dasd",
        context=Answer(show),
        objective=RouteByEntropy(beta, quantile),
        outcome=PolicyGradient(epsilon=epsilon),
        teacher=teacher,
        group=group,
        paper="arXiv 2605.22263",
    )


def rlcsd(
    wrong: int = 4,
    strength: float = 0.5,
    tau: float = 0.02,
    least: float = 0.02,
    group: int = 8,
    epsilon: float = 0.2,
    teacher: TeacherKind = "periodic",
) -> Method:
    """Right and wrong hints contrasted, the verifier's sign kept, arXiv 2606.11709."""
    return Method(
        name="rlcsd",
        context=Hints(wrong),
        objective=ContrastHints(strength, tau, least),
        outcome=PolicyGradient(epsilon=epsilon),
        reduce="token",
        teacher=teacher,
        group=group,
        paper="arXiv 2606.11709",
    )


def rlsd(
    show: Shown = "answer",
    strength: float = 0.5,
    bound: float = 0.2,
    group: int = 8,
    epsilon: float = 0.2,
    teacher: TeacherKind = "periodic",
) -> Method:
    """The advantage weighed by what the teacher confirms, arXiv 2604.03128."""
    return Method(
        name="rlsd",
        context=Answer(show),
        objective=WeighByTeacher("+", strength, bound),
        outcome=PolicyGradient(epsilon=epsilon),
        reduce="token",
        teacher=teacher,
        group=group,
        paper="arXiv 2604.03128",
    )


def rlrt(
    strength: float = 0.5, bound: float = 1.0, group: int = 8, epsilon: float = 0.2, teacher: TeacherKind = "live"
) -> Method:
    """On successes, more weight on what the student found and its teacher would not have said, arXiv 2605.10781."""
    return Method(
        name="rlrt",
        context=Sibling(),
        objective=WeighByTeacher("-", strength, bound, successes_only=True),
        outcome=PolicyGradient(epsilon=epsilon),
        reduce="token",
        teacher=teacher,
        group=group,
        paper="arXiv 2605.10781",
    )


def sdpg(
    show: Shown = "answer", share: float = 1e-3, group: int = 8, epsilon: float = 0.2, teacher: TeacherKind = "live"
) -> Method:
    """The policy gradient and, on rollouts better than their group, a reverse divergence, arXiv 2606.04036."""
    return Method(
        name="sdpg",
        context=Answer(show),
        stance=OnSuccess(by="advantage"),
        objective=MatchDistribution(beta=1.0, clip=None, share=share),
        outcome=PolicyGradient(epsilon=epsilon),
        reduce="token",
        teacher=teacher,
        group=group,
        paper="arXiv 2606.04036",
    )
