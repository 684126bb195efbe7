"""The demo's bank: half of its items help, a quarter mislead, a quarter are about style or about something else."""

from __future__ import annotations

from sgsd.bank import Bank
from sgsd.lab.skills import make_items

DEMO_MIX = {"helpful": 12, "misleading": 6, "stylistic": 3, "irrelevant": 3}


def demo_bank(seed: int = 0, **mix: int) -> Bank:
    """As many skills, and as many mistakes, of each kind as `mix` says; the demo's mix where it says nothing."""
    counts = {**DEMO_MIX, **mix}
    skills, mistakes = make_items(counts, seed=seed)
    return Bank(tuple(skills), tuple(mistakes), {"source": "sgsd lab", "seed": seed, "mix": counts})
