"""Accuracy of the lab's policy under each kind of context on held-out problems: the check of a pre-training recipe."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from sgsd.contexts.prompts import encode_chat, load_prompts
from sgsd.evaluation.stats import Estimate, wilson
from sgsd.lab import task_skills as S
from sgsd.lab.pretrain import messages_for
from sgsd.lab.task import ALL_RIGHT, LabProblem, held_out_problems
from sgsd.rollout import Sampling, TransformersEngine

KINDS = (S.HELPFUL, S.MISLEADING, S.STYLISTIC, S.IRRELEVANT)


def contexts_for(problem: LabProblem, name: str, rng: random.Random) -> dict[str, object]:
    """A context of one kind for one problem: "plain", "answer", a kind of item, or a kind in unseen words."""
    if name == "plain":
        return {}
    if name == "answer":
        return {"answer": problem.solve(ALL_RIGHT).answer}
    kind, _, unseen = name.partition(" ")
    phrasings = S.HELD_OUT_PHRASINGS if unseen else S.TRAINED_PHRASINGS
    about_branch = kind in (S.HELPFUL, S.MISLEADING)

    def aim() -> S.Aim:
        return S.Aim(kind, rng.choice(problem.branches)) if about_branch else rng.choice(S.aims(kind))

    return {
        "skill": S.make_skill("skill", aim(), rng, phrasings),
        "mistake": S.make_mistake("mistake", aim(), rng, phrasings),
    }


def measure(
    model: Any, tokenizer: Any, *, problems: int = 512, seed: int = 0, names: Sequence[str] = ()
) -> Mapping[str, tuple[Estimate, Estimate]]:
    """Measure (sampled, greedy) accuracy under each context; one sample a problem, Wilson's intervals."""
    prompts, engine = load_prompts("lab"), TransformersEngine(model, tokenizer)
    pool = held_out_problems(problems)
    names = names or ("plain", "answer", *KINDS, *(f"{kind} unseen" for kind in KINDS[:3]))
    found = {}
    for name in names:
        rng = random.Random(f"{name}/{seed}")
        ids = [
            encode_chat(tokenizer, messages_for(prompts, p, contexts_for(p, name, rng)), thinking=False) for p in pool
        ]
        found[name] = (_accuracy(engine, ids, pool, 1.0, seed), _accuracy(engine, ids, pool, 0.0, seed))
    return found


def _accuracy(
    engine: TransformersEngine,
    ids: Sequence[tuple[int, ...]],
    pool: Sequence[LabProblem],
    temperature: float,
    seed: int,
) -> Estimate:
    sampling = Sampling(temperature=temperature, max_tokens=96)
    done = engine.sample(ids, range(len(ids)), sampling, seed=seed)
    right = [f"\\boxed{{{problem.solve(ALL_RIGHT).answer}}}" for problem in pool]
    return wilson(sum(c.text.endswith(answer) for c, answer in zip(done, right)), len(right))
