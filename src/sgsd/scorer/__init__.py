"""The scorer: log-probs of given tokens under given contexts, without [tokens × vocabulary] logits."""

from sgsd.scorer.module import TEACHER_ADAPTER, Role, Scorer, Scores, TeacherWeights
from sgsd.scorer.passes import Pack, Row, collate, plan_passes

__all__ = [
    "TEACHER_ADAPTER",
    "Pack",
    "Role",
    "Row",
    "Scorer",
    "Scores",
    "TeacherWeights",
    "collate",
    "plan_passes",
]
