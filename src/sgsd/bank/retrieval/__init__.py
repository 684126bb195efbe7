"""Retrieval: rankers over a bank's items, and the pairs of a skill and a mistake that they make."""
