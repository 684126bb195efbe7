"""The retriever of a name."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from sgsd.bank.retrieval.base import Items, Retriever, VectorRetriever
from sgsd.bank.retrieval.bm25 import Bm25Retriever
from sgsd.bank.retrieval.embedding import Embedder, EmbeddingRetriever
from sgsd.bank.retrieval.encoder import EmbeddingSettings, SentenceEncoder
from sgsd.bank.retrieval.hybrid import DiverseRetriever, HybridRetriever
from sgsd.bank.retrieval.random_order import RandomRetriever
from sgsd.types import UserError

Retrieval = Literal["bm25", "embedding", "hybrid", "random"]


def make_retriever(
    kind: Retrieval,
    bank: Items,
    *,
    seed: int = 0,
    diversity: float = 0.0,
    embedding: EmbeddingSettings | None = None,
) -> Retriever:
    """The retriever of a bank; `seed` is the random one's, `embedding` is for "embedding" and "hybrid".

    A bank that grows gets a new retriever each time; the embedding model is loaded once a process.

    Raises:
        UserError: settings that do not go together (see `check_retrieval`), an empty bank, a model that cannot be had.
    """
    check_retrieval(kind, diversity, embedding)
    if kind == "random":
        return RandomRetriever(bank, seed)
    found: VectorRetriever
    if embedding is None:
        found = Bm25Retriever(bank)
    else:
        found = EmbeddingRetriever(bank, _embedder(embedding))
        if kind == "hybrid":
            found = HybridRetriever(bank, found, Bm25Retriever(bank))
    return DiverseRetriever(found, diversity) if diversity else found


def check_retrieval(kind: Retrieval, diversity: float, embedding: EmbeddingSettings | None) -> None:
    """Raises UserError for settings that would be ignored, or are missing."""
    embeds = kind in ("embedding", "hybrid")
    if embeds and embedding is None:
        raise UserError(f"retrieval by {kind} needs an embedding model; name one (bank.embedding.model, or --model)")
    if not embeds and embedding is not None:
        raise UserError(f"an embedding model is named, but retrieval is by {kind}; use embedding or hybrid")
    if kind == "random" and diversity:
        raise UserError("diversity means nothing to random retrieval; leave one of the two out")


@lru_cache(maxsize=2)
def _embedder(settings: EmbeddingSettings) -> Embedder:
    return Embedder(SentenceEncoder(settings), settings.cache_folder)
