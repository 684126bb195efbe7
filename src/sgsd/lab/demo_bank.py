"""The demo's bank: half of its items help, a quarter mislead, a quarter are about style or about something else."""

from __future__ import annotations

import random

from sgsd.bank import Bank
from sgsd.lab.task_skills import IRRELEVANT, aims, make_items, make_mistake, make_skill

DEMO_MIX = {"helpful": 12, "misleading": 6, "stylistic": 3, "irrelevant": 3}


def demo_bank(seed: int = 0, **mix: int) -> Bank:
    """Make `mix[kind]` skills and as many mistakes of each kind; the demo's mix where nothing is given."""
    counts = {**DEMO_MIX, **mix}
    skills, mistakes = make_items(counts, seed=seed)
    return Bank(tuple(skills), tuple(mistakes), {"source": "sgsd lab", "seed": seed, "mix": counts})


def off_topic_bank(seed: int = 0, count: int = 24) -> Bank:
    """Make `count` skills and as many mistakes about something else, which controls put in the place of a pair."""
    rng, subjects = random.Random(f"off-topic/{seed}"), aims(IRRELEVANT)
    about = [subjects[i % len(subjects)] for i in range(count)]
    return Bank(
        tuple(make_skill(f"off_topic_skill_{i:02d}", aim, rng) for i, aim in enumerate(about)),
        tuple(make_mistake(f"off_topic_mistake_{i:02d}", aim, rng) for i, aim in enumerate(about)),
        {"source": "sgsd lab", "seed": seed, "mix": {IRRELEVANT: count}},
    )
