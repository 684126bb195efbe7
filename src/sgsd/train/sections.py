"""The sections of a configuration: typed, strict, each key with its unit and meaning beside it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from sgsd.rollout import Sampling


class Section(BaseModel):
    """A part of the configuration: no unknown keys, no silent conversions, no changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelConfig(Section):
    """Which weights to train."""

    path: str = "lab"
    """Hub name, local folder, or "lab" for the bundled policy."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""
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


class DataConfig(Section):
    """Where problems come from."""

    path: str = "lab:train"
    """JSONL, JSON, Parquet or CSV file, hub data set, or lab:train, lab:held-out."""
    split: str = "train"
    revision: str | None = None
    problem: str = "problem"
    """Column of the problem's text."""
    answer: str = "answer"
    """Column of the reference answer."""
    solution: str | None = None
    """Column of a reference solution, for methods that show one."""
    limit: PositiveInt | None = None


class PromptConfig(Section):
    """Wording and thinking modes."""

    folder: str = "math"
    """A bundled set (math, lab) or your own folder of templates."""
    student_thinking: bool = False
    teacher_thinking: bool = True
    evaluation_thinking: bool = True
    max_tokens: PositiveInt = 4096
    """Longest prompt allowed; a longer one is an error, never cut."""


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


class VerifierConfig(Section):
    """Who says right or wrong."""

    name: str = "math"
    """math, or module:callable of your own."""
    options: dict[str, Any] = {}
    """Handed to it by name; math knows timeout (seconds an answer) and workers."""


class BankConfig(Section):
    """The skill bank, for methods that retrieve from one."""

    path: str | None = None
    """JSON file or store, or "lab" for the bundled bank."""
    retrieval: Literal["bm25", "random"] = "bm25"


class OptimizerConfig(Section):
    """AdamW."""

    lr: PositiveFloat = 5e-6
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.0
    grad_clip: PositiveFloat = 0.1
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0


class TeacherConfig(Section):
    """Settings of teachers that are not the student itself."""

    ema_decay: float = Field(default=0.95, ge=0, lt=1)
    """What a teacher of kind "ema" keeps of itself at each step."""
    period: PositiveInt = 25
    """Steps between copies for a teacher of kind "periodic"."""


class EvaluationConfig(Section):
    """Held-out accuracy, before, during and after."""

    data: DataConfig | None = None
    problems: PositiveInt = 512
    samples: PositiveInt = 4
    every: NonNegativeInt = 0
    """Steps between evaluations; 0: only before and after."""
    sampling: SamplingConfig = SamplingConfig()


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
