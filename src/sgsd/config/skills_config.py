"""The sections of a configuration about skills: the bank and its retrieval, their writer, and how they are made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from sgsd.bank import EmbeddingSettings, Pairing, Retrieval, check_retrieval
from sgsd.config.base import Section
from sgsd.types import UserError


class EmbeddingConfig(Section):
    """The model that embeds problems and items, by sentence-transformers."""

    model: str
    """Hub name, for instance Qwen/Qwen3-Embedding-0.6B, or local folder; safetensors only, never code of its own."""
    revision: str | None = None
    """Commit on the hub; without one the model may change, and a warning says so."""
    instruction: str | None = None
    """Text put before each problem to the letter; none: the model's own query prompt. Items get none of it."""
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    """Device of the embedding model: cpu, cuda or cuda:N."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the embedding model."""
    batch: PositiveInt = 1
    """Items (of equal length) embedded at a time; above 1 their last bits may depend on the batch on a GPU."""
    cache: str | None = None
    """Folder of the vectors; none: ~/.cache/sgsd/embeddings."""

    def to_settings(self) -> EmbeddingSettings:
        return EmbeddingSettings(**self.model_dump())


class BankConfig(Section):
    """The skill bank, for methods that retrieve from one. See docs/bank.md and docs/retrieval.md."""

    path: str | None = None
    """JSON file or store, or "lab" for the bundled bank."""
    retrieval: Retrieval = "bm25"
    """Retrieval by words (bm25), by meaning (embedding), by both (hybrid), or at random as a control."""
    embedding: EmbeddingConfig | None = None
    """The embedding model of retrieval by embedding or hybrid."""
    diversity: float = Field(default=0.0, ge=0, le=1)
    """Weight of unlikeness among the retrieved items against their score; 0: the score alone."""
    pairing: Pairing = "rank"
    """Pair skill and mistake of the same rank, as published, or rotated by problem, so that items change partners."""
    rerank: NonNegativeFloat = 0.0
    """Factor of an item's trust, learned in the run, in its retrieval score; 0: no part."""
    reweigh: NonNegativeFloat = 0.0
    """Largest log-factor by which trust changes a pair's weight before scaling; 0: no change."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        embedding = None if self.embedding is None else self.embedding.to_settings()
        try:
            check_retrieval(self.retrieval, self.diversity, embedding)
        except UserError as error:
            yield "retrieval", str(error)


class WriterConfig(Section):
    """The model that writes skills: the policy itself, a model in this process, or a server."""

    kind: Literal["policy", "transformers", "vllm", "server"] = "policy"
    """The policy, another model by transformers or vllm in this process, or an OpenAI-compatible server."""
    model: str | None = None
    """Model folder or hub name, or the server's name for it; every kind but policy needs it."""
    revision: str | None = None
    """Commit, tag or branch on the hub, for a model in this process."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server; none: the client's own."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable with the server's key; the key itself is never stored."""
    azure_version: str | None = None
    """API version of an Azure server; none: the server is not an Azure one."""
    json_schema: bool = True
    """Ask the server to decode by schema."""
    temperature: NonNegativeFloat = 0.0
    """Sampling temperature of the writer; 0 takes the likeliest token."""
    thinking: bool = False
    """Thinking mode of the chat template in the writer's prompts."""
    max_model_len: PositiveInt = 32768
    """Tokens of a prompt and its answer together, for a model in this process; a longer request fails."""
    batch: PositiveInt = 8
    """Requests at a time: in a batch, or in flight to the server."""
    timeout: PositiveFloat = 600.0
    """Seconds a call to the server may take."""
    retries: NonNegativeInt = 5
    """Further tries, with growing pauses, when the server is busy or broken."""
    options: dict[str, Any] = Field(default={})
    """Further arguments of vLLM by name, for instance gpu_memory_utilization, low enough for the policy beside it."""
    failure_budget: float = Field(default=0.2, ge=0, le=1)
    """Share of requests that may fail before a build stops."""
    critique_tokens: PositiveInt = 2048
    """Longest critique of one rollout, in tokens, for methods whose teachers are shown one."""
    prompts: str = "growth"
    """Folder of the writer's prompt templates; "growth" is the bundled one."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.kind != "policy" and self.model is None:
            yield "model", f"a writer of kind {self.kind} needs the name of its model"
        if self.kind != "server" and (self.base_url or self.azure_version):
            yield "base_url", "only a writer of kind server has an address"
        if self.kind != "vllm" and self.options:
            yield "options", "only a writer of kind vllm takes options"


class SkillsConfig(Section):
    """How skills and mistakes are made from rollouts, and kept up during training. See docs/bank.md."""

    rollouts: PositiveInt = 256
    """Rollouts that a bank is built from, one a problem."""
    items: PositiveInt = 3
    """Most items the writer may propose from one rollout."""
    solution_chars: PositiveInt = 12_000
    """Longest solution in a prompt of the writer, in characters; a longer one loses its middle, and is counted."""
    extract_tokens: PositiveInt = 1024
    """Longest answer of the writer about one rollout, in tokens."""
    merge_tokens: PositiveInt = 8192
    """Longest answer of the writer that merges a group of items, in tokens."""
    merge_group: int = Field(default=32, ge=2)
    """Items that are merged in one call."""
    merge_patience: PositiveInt = 3
    """Rounds of merging in a row that do not shrink the set before merging ends."""
    every: NonNegativeInt = 0
    """Steps between updates of the bank during training (25 as published); 0: the bank stays as it is."""
    threshold: float = Field(default=0.8, ge=0, le=1)
    """Share of right rollouts since the last update from which no update is made."""
    add: PositiveInt = 5
    """Most new items of one update."""
    capacity: PositiveInt = 30
    """Items learned during training that are kept."""
    prune: Literal["paper", "evidence"] = "paper"
    """The learned item that goes first: the oldest (paper), or the one of the lowest standing (evidence)."""
