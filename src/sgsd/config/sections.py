"""The sections of a configuration: typed, strict, each key with its unit and meaning beside it."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sgsd.bank import EmbeddingSettings, Pairing, Retrieval, check_retrieval
from sgsd.rollout import Sampling
from sgsd.types import UserError


class Section(BaseModel):
    """A part of the configuration: no unknown keys, no silent conversions, no changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelConfig(Section):
    """Which weights to train."""

    path: str = "lab"
    """Hub name, local folder, or "lab" for the bundled policy."""
    revision: str | None = None
    """Commit, tag or branch on the hub, of model and tokenizer alike."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False
    """Run code that comes with the model; off unless you have read it."""


class LoraConfig(Section):
    """A low-rank adapter; without this section all weights train."""

    rank: PositiveInt = 64
    alpha: PositiveInt = 128
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    start: str | None = None
    """Folder of a saved PEFT adapter to start from, of this rank, alpha and targets; none: a fresh one."""


class DataConfig(Section):
    """Where problems come from."""

    path: str = "lab:train"
    """JSONL, JSON, Parquet or CSV file, folder or hub data set; lab:train, lab:held-out; gym:TASK or gym:TASK,TASK."""
    subset: str | None = None
    """Which part of a hub data set that comes in several."""
    split: str = "train"
    """Of a hub data set or a folder; train or held-out of gym tasks."""
    revision: str | None = None
    """Commit on the hub; a branch or a tag may move."""
    layout: Literal["auto", "plain", "dapo", "conversational", "openthoughts"] = "auto"
    """What a row looks like (docs/data.md); auto goes by the columns of the first row."""
    problem: str = "problem"
    """Column of the problem's text, where rows are plain."""
    answer: str = "answer"
    """Column of the reference answer, where rows are plain."""
    solution: str | None = None
    """Column of a reference solution, where rows are plain, for methods that show one."""
    rubric: str | None = None
    """Column of what a good solution is judged by, a text or a list, where rows are plain, for methods that show it."""
    domain: str | None = None
    """Keep only rows whose column "domain" says this."""
    strip_instruction: bool = True
    """Take off the instruction that DAPO and OpenThoughts write round each problem, where it is there to the letter."""
    duplicates: Literal["drop", "keep"] = "drop"
    """What happens to a row that repeats problem, answer and solution of an earlier one."""
    unusable: Literal["error", "skip"] = "error"
    """What a row without a problem or an answer is: an error, or left out and counted."""
    limit: PositiveInt | None = None
    """Take the first so many problems."""


class PromptConfig(Section):
    """Wording and thinking modes."""

    folder: str = "math"
    """A bundled set (math, lab) or your own folder of templates."""
    student_thinking: bool = False
    teacher_thinking: bool = True
    evaluation_thinking: bool = True
    max_tokens: PositiveInt = 4096
    """Longest prompt allowed; nothing is ever cut."""
    unfit: Literal["error", "skip"] = "error"
    """What a longer prompt, or an empty context, is: an error, or a problem or teacher left out and counted."""


class SamplingConfig(Section):
    """How rollouts are drawn."""

    temperature: NonNegativeFloat = 1.0
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: NonNegativeInt = 0
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: PositiveFloat = 1.0
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    max_tokens: PositiveInt = 1024

    def to_sampling(self) -> Sampling:
        return Sampling(**self.model_dump())


class RolloutConfig(Section):
    """Which engine samples: transformers in this process, vLLM beside it, or vLLM servers. See docs/vllm.md."""

    engine: Literal["transformers", "vllm", "server"] = "transformers"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What vLLM computes in; none: what the trainer does, and of a server, which does not say, bfloat16."""
    context: PositiveInt | None = None
    """Tokens that a prompt and its completion may have together; none: all that the run may ask for."""
    memory: float | None = Field(default=None, gt=0, le=1)
    """Share of the device's memory that vLLM takes (gpu_memory_utilization); none: vLLM's own."""
    tensor_parallel: PositiveInt = 1
    """Devices over which vLLM spreads each matrix."""
    sleep: Literal[1, 2] | None = None
    """Give memory back between samplings: 1 keeps the weights in main memory, 2 forgets them; none: never."""
    overlap: bool = False
    """Sample the next step's rollouts while this step trains: from the second step on they are one update stale."""
    options: dict[str, Any] = {}
    """Handed to vLLM by name, for instance max_num_seqs."""
    base_url: str | list[str] | None = None
    """Address of a running vLLM server, or of several, which share the rollouts."""
    key_variable: str = "VLLM_API_KEY"
    """Name of the environment variable that holds the servers' key; empty or not set: none is sent."""
    concurrency: PositiveInt = 256
    """Requests under way at a time, over all servers."""
    folder: str | None = None
    """Folder for weights on their way, which a server must see under the same path; none: RUN/engine."""
    start_timeout: PositiveFloat = 600.0
    """Seconds until vLLM must be there, or a server that went away be back."""
    timeout: PositiveFloat = 1800.0
    """Seconds that a request to a server may take, or vLLM beside the trainer be silent between two completions."""
    retries: NonNegativeInt = 2
    """Further tries of a call after the engine died, hung or answered with less than it was asked for."""
    gap_alarm: PositiveFloat | None = None
    """Mean gap between sampler and trainer worth a warning, nats a token; none: half of what stops the run."""
    importance_cap: PositiveFloat | None = None
    """Weigh each token's loss by min(student / sampler probability, this); none: not at all."""


class VerifierConfig(Section):
    """Who says right or wrong."""

    name: str = "math"
    """math, gym (for gym tasks), or module:callable of your own."""
    options: dict[str, Any] = {}
    """Handed to it by name; math knows timeout (seconds an answer) and workers, gym knows timeout."""


class EmbeddingConfig(Section):
    """The model that embeds problems and items, by sentence-transformers."""

    model: str
    """Hub name, for instance Qwen/Qwen3-Embedding-0.6B, or local folder; safetensors only, never code of its own."""
    revision: str | None = None
    """Commit on the hub; without one the model may change, and a warning says so."""
    instruction: str | None = None
    """Put before each problem to the letter; none: the model's own query prompt. Items get none of it."""
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch: PositiveInt = 1
    """Items (of equal length) embedded at a time; above 1 their last bits may depend on the batch on a GPU."""
    cache: str | None = None
    """Folder of the vectors; none: ~/.cache/sgsd/embeddings."""

    def to_settings(self) -> EmbeddingSettings:
        return EmbeddingSettings(**self.model_dump())


class BankConfig(Section):
    """The skill bank, for methods that retrieve from one."""

    path: str | None = None
    """JSON file or store, or "lab" for the bundled bank."""
    retrieval: Retrieval = "bm25"
    """By words, by meaning, by both (hybrid), or at random as a control."""
    embedding: EmbeddingConfig | None = None
    """The model of retrieval by embedding or hybrid."""
    diversity: float = Field(default=0.0, ge=0, le=1)
    """How much unlike one another the items of a pool must be; 0: not at all."""
    pairing: Pairing = "rank"
    """Skill and mistake of the same rank, as published, or rotated by the problem, so that items change partners."""
    rerank: NonNegativeFloat = 0.0
    """How far trust, as the run's ledger has it, moves an item's score; 0: not at all."""
    reweigh: NonNegativeFloat = 0.0
    """How far trust moves a pair's weight: a factor of e to this power at most, before scaling; 0: not at all."""

    @model_validator(mode="after")
    def _together(self) -> BankConfig:
        embedding = None if self.embedding is None else self.embedding.to_settings()
        try:
            check_retrieval(self.retrieval, self.diversity, embedding)
        except UserError as error:
            raise PydanticCustomError("retrieval", "{reason}", {"reason": str(error)}) from error
        return self


class WriterConfig(Section):
    """Who writes skills: a server, a model in this process, or the policy itself."""

    kind: Literal["policy", "transformers", "vllm", "server"] = "policy"
    model: str | None = None
    """Model folder or hub name, or the name under which the server knows it; the policy needs none."""
    revision: str | None = None
    base_url: str | None = None
    """Address of an OpenAI-compatible server; none: the client's own."""
    key_variable: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the server's key; the key itself is never stored."""
    azure_version: str | None = None
    """API version, which makes the server an Azure one."""
    json_schema: bool = True
    """Ask the server to decode by schema."""
    temperature: NonNegativeFloat = 0.0
    thinking: bool = False
    context: PositiveInt = 32768
    """Tokens that a prompt and its answer may have together, for a model in this process."""
    batch: PositiveInt = 8
    """Requests at a time: in a batch, or under way to the server."""
    timeout: PositiveFloat = 600.0
    """Seconds a call to the server may take."""
    retries: NonNegativeInt = 5
    """With growing pauses, for a busy or broken server."""
    options: dict[str, Any] = {}
    """Handed to vLLM by name, for instance gpu_memory_utilization, which the policy beside it needs to be low."""
    failure_budget: float = Field(default=0.2, ge=0, le=1)
    """Share of requests that may fail before a build stops."""
    critique_tokens: PositiveInt = 2048
    """Of a critique of one rollout, for methods whose teachers are shown one."""
    prompts: str = "growth"
    """Folder of the templates it is asked with; "growth" is the bundled one."""


class GrowthConfig(Section):
    """How skills are made from experience."""

    rollouts: PositiveInt = 256
    """Rollouts of a cold start, one a problem."""
    items: PositiveInt = 3
    """Items that one rollout may bring."""
    solution_chars: PositiveInt = 12_000
    """Of a solution in a prompt; a longer one loses its middle, which is said and counted."""
    extract_tokens: PositiveInt = 1024
    """Of an answer about one rollout."""
    merge_tokens: PositiveInt = 8192
    """Of an answer that merges a group."""
    merge_group: int = Field(default=32, ge=2)
    merge_patience: PositiveInt = 3
    """Layers that do not shrink before merging ends."""
    every: NonNegativeInt = 0
    """Steps between updates of the bank during training (25 as published); 0: the bank stays as it is."""
    threshold: float = Field(default=0.8, ge=0, le=1)
    """Success of the window from which no update is needed."""
    add: PositiveInt = 5
    """New items an update may bring."""
    capacity: PositiveInt = 30
    """Items learned during training that are kept."""
    prune: Literal["paper", "evidence"] = "paper"
    """Which of them goes first: the oldest (as published), or the one of the lowest standing."""


class OptimizerConfig(Section):
    """AdamW."""

    lr: PositiveFloat = 5e-6
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.0
    grad_clip: PositiveFloat = 0.1
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0

    def rate(self, step: int, steps: int) -> float:
        """Of step 1…steps: linear warm-up, then constant, or down to 0 along a line or a cosine."""
        if step <= self.warmup_steps:
            return self.lr * step / self.warmup_steps
        progress = (step - 1 - self.warmup_steps) / max(1, steps - self.warmup_steps)
        fall = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}
        return self.lr * fall[self.schedule]


class TeacherConfig(Section):
    """Settings of teachers that are not the student itself."""

    ema_decay: float = Field(default=0.95, ge=0, lt=1)
    """What a teacher of kind "ema" keeps of itself at each step."""
    period: PositiveInt = 25
    """Steps between copies for a teacher of kind "periodic"."""
    reason_tokens: PositiveInt = 1024
    """Of what a teacher that reasons first may write before it judges."""


class EvaluationConfig(Section):
    """Held-out accuracy, before, during and after."""

    data: DataConfig | None = None
    problems: PositiveInt = 512
    samples: PositiveInt = 4
    every: NonNegativeInt = 0
    """Steps between evaluations; 0: only before and after."""
    sampling: SamplingConfig = SamplingConfig()
    skills: NonNegativeInt = 0
    """Pairs of the bank that the evaluation's prompts show; 0: plain prompts."""


class CheckpointConfig(Section):
    """When to save."""

    every: NonNegativeInt = 0
    """Steps between checkpoints; 0: only at the end, or when interrupted."""
    keep: PositiveInt = 2


class ComputeConfig(Section):
    """How much goes through the model at a time; changes speed and memory, not results beyond rounding."""

    student_tokens: PositiveInt = 8192
    """Tokens in a pass that keeps activations for the gradient."""
    teacher_tokens: PositiveInt = 32768
    """Tokens in a pass without gradient."""
    rollout_tokens: PositiveInt = 65536
    """Rows × (prompt + completion) of a generation batch."""
    threads: PositiveInt | None = None
    """CPU threads; none: torch decides."""


class TrackConfig(Section):
    """Where the run's numbers are shown besides its own files; `track: wandb` is short for `track: {to: wandb}`."""

    to: Literal["none", "trackio", "wandb", "tensorboard", "mlflow"] = "none"
    project: str = Field(default="sgsd", min_length=1)
    entity: str | None = None
    """Team, which only wandb has."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"to": value} if isinstance(value, str) else value
