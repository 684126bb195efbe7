"""The scorer: log-probs of given tokens under given contexts, without [tokens × vocabulary] logits."""

from sgsd.scorer.layouts import Layout, PackedBatch, Row, collate, plan_layout, plan_microbatches, teacher_layout
from sgsd.scorer.logits import not_finite
from sgsd.scorer.module import TEACHER_ADAPTER, Role, Scorer, Scores, TeacherWeights, is_teacher_adapter
from sgsd.scorer.texts import score

__all__ = [
    "TEACHER_ADAPTER",
    "Layout",
    "PackedBatch",
    "Role",
    "Row",
    "Scorer",
    "Scores",
    "TeacherWeights",
    "collate",
    "is_teacher_adapter",
    "not_finite",
    "plan_layout",
    "plan_microbatches",
    "score",
    "teacher_layout",
]
