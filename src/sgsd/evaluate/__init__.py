"""Evaluation and its error bars."""

from sgsd.evaluate.evaluator import Evaluation, Evaluator
from sgsd.evaluate.stats import Estimate, avg_at_k, over_seeds, wilson

__all__ = ["Estimate", "Evaluation", "Evaluator", "avg_at_k", "over_seeds", "wilson"]
