"""The scorer: log-probs of given tokens under given contexts, without [tokens × vocabulary] logits."""

from sgsd.scorer.module import TEACHER_ADAPTER, Role, Scorer, Scores, TeacherWeights
from sgsd.scorer.passes import Layout, Pack, Row, collate, plan_layout, plan_passes, teacher_layout

__all__ = [
    "TEACHER_ADAPTER",
    "Layout",
    "Pack",
    "Role",
    "Row",
    "Scorer",
    "Scores",
    "TeacherWeights",
    "collate",
    "plan_layout",
    "plan_passes",
    "teacher_layout",
]
