"""Evaluation and its error bars."""

from sgsd.evaluation.evaluator import Evaluation, Evaluator
from sgsd.evaluation.stats import Estimate, avg_at_k, over_seeds, wilson

__all__ = ["Estimate", "Evaluation", "Evaluator", "avg_at_k", "over_seeds", "wilson"]
