"""The sections of a configuration about model, data, sampling, optimisation, evaluation and records."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from sgsd.config.base import Section
from sgsd.types import Sampling


class ModelConfig(Section):
    """The weights to train."""

    path: str = "lab"
    """Hub name, local folder, or "lab" for the bundled policy of 0.3 M parameters."""
    revision: str | None = None
    """Commit, tag or branch on the hub, for the model and the tokenizer; none: the default branch."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of the weights."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention implementation of transformers; flash_attention_2 needs bfloat16."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    trust_remote_code: bool = False
    """Run code that comes with the model; leave it off unless you have read that code."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.attention == "flash_attention_2" and self.dtype == "float32":
            yield "attention", "flash_attention_2 needs dtype bfloat16"


class LoraConfig(Section):
    """A low-rank adapter, also where the section is left out; with `lora: null` all weights train."""

    rank: PositiveInt = 64
    """Rank of the update of each matrix."""
    alpha: PositiveInt = 128
    """Scale of the update: it is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's inputs that are dropped while training."""
    target_modules: list[str] = Field(default=["auto"], min_length=1)
    """Layers that get an adapter: names, patterns, all-linear; auto: attention and MLP, by whatever name."""
    start: str | None = None
    """Folder of a saved PEFT adapter to start from, with this rank, alpha and target_modules; none: a fresh one."""

    @field_validator("target_modules", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value  # as PEFT takes a pattern or "all-linear"


class DataConfig(Section):
    """The problems to train on."""

    path: str = "lab:train"
    """JSONL, JSON, Parquet or CSV file, folder or hub data set; lab:train, lab:held-out; gym:TASK or gym:TASK,TASK."""
    subset: str | None = None
    """Configuration of a hub data set that has several."""
    split: str = "train"
    """Split of a hub data set or a folder; train or held-out for gym tasks."""
    revision: str | None = None
    """Commit on the hub; a branch or a tag may move."""
    layout: Literal["auto", "plain", "dapo", "conversational", "openthoughts"] = "auto"
    """Layout of a row (docs/data.md); auto decides by the columns of the first row."""
    problem: str = "problem"
    """Column with the text of the problem, in plain rows."""
    answer: str = "answer"
    """Column with the reference answer, in plain rows."""
    solution: str | None = None
    """Column with a reference solution, in plain rows; methods that show or learn from one need it."""
    rubric: str | None = None
    """Column with the criteria of a good solution, a text or a list, in plain rows; methods that show it need it."""
    domain: str | None = None
    """Keep only rows whose column "domain" has this value; none: keep all."""
    strip_instruction: bool = True
    """Remove the instruction that DAPO and OpenThoughts put around each problem, where it matches to the letter."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Drop or keep rows that repeat problem, answer and solution of an earlier row."""
    unusable: Literal["error", "skip"] = "error"
    """Rows without a problem or an answer are an error, or are skipped and counted."""
    limit: PositiveInt | None = None
    """Number of problems to take from the start; none: all."""


class PromptConfig(Section):
    """Wording and thinking modes."""

    folder: str = "math"
    """A bundled set of templates (math, lab) or your own folder of them."""
    student_thinking: bool = False
    """Thinking mode of the chat template in the student's prompts."""
    teacher_thinking: bool = True
    """Thinking mode of the chat template in the teachers' prompts."""
    evaluation_thinking: bool = True
    """Thinking mode of the chat template in the evaluation's prompts."""
    template_kwargs: dict[str, Any] = Field(default={})
    """Other switches of the chat template, for every prompt alike, for instance {reasoning_effort: low}."""
    max_tokens: PositiveInt = 4096
    """Longest prompt allowed, in tokens; nothing is ever cut."""
    unfit: Literal["error", "skip"] = "error"
    """A longer prompt, or an empty context, is an error, or its problem or teacher is skipped and counted."""


class SamplingConfig(Section):
    """Sampling of completions."""

    temperature: NonNegativeFloat = 1.0
    """Divisor of the logits; 0 takes the likeliest token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Keep the likeliest tokens that together have this probability; 1: all."""
    top_k: NonNegativeInt = 0
    """Keep this many of the likeliest tokens; 0: all."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Keep tokens with at least this share of the likeliest one's probability; 0: all."""
    repetition_penalty: PositiveFloat = 1.0
    """Factor against tokens of the prompt and the completion so far; 1: none."""
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    """Subtracted from the logits of tokens that the completion has already; 0: none."""
    max_tokens: PositiveInt = 1024
    """Longest completion, in tokens."""

    def to_sampling(self) -> Sampling:
        return Sampling(**self.model_dump())


class VerifierConfig(Section):
    """The verifier that grades completions."""

    name: str = "math"
    """math, gym (for gym tasks), or your own function or class: module:name or file.py:name."""
    options: dict[str, Any] = Field(default={})
    """Arguments of the verifier by name; math takes timeout (seconds an answer) and workers, gym takes timeout."""
    threshold: float | None = Field(default=None, gt=0, le=1)
    """Your own: rewards from here on are correct, those below incorrect; none: only 0 and 1 have a verdict."""
    on_error: Literal["stop", "unknown"] = "stop"
    """Your own: where it raises, stop the run, or go on without a verdict on that completion."""
    timeout: PositiveFloat = 60.0
    """Your own: seconds that one call may take."""
    completions: Literal["text", "messages"] = "text"
    """Your own, of several completions: each a text, or a list of messages as in TRL's conversational data."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.name in ("math", "gym"):
            for key in ("threshold", "on_error", "timeout", "completions"):
                if getattr(self, key) != VerifierConfig.model_fields[key].default:
                    way_out = "; set verifier.options.timeout" if key == "timeout" else ""
                    yield key, f"{self.name} does not take it, only a verifier of your own{way_out}"


class OptimizerConfig(Section):
    """AdamW and its learning rate."""

    lr: PositiveFloat = 5e-6
    """Learning rate after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the means of gradient and squared gradient."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""
    max_grad_norm: PositiveFloat = 0.1
    """The gradient is scaled down to this norm where it is larger."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up: constant, or down to 0 along a line or a cosine."""
    warmup_steps: NonNegativeInt = 0
    """Steps in which the learning rate rises linearly from 0."""

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 1…steps."""
        if step <= self.warmup_steps:
            return self.lr * step / self.warmup_steps
        progress = (step - 1 - self.warmup_steps) / max(1, steps - self.warmup_steps)
        fall = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}
        return self.lr * fall[self.schedule]


class TeacherConfig(Section):
    """Teachers that are not the student itself."""

    ema_decay: float = Field(default=0.95, ge=0, lt=1)
    """Share of its own weights that a teacher of kind "ema" keeps at each step."""
    period: PositiveInt = 25
    """Steps between copies of the student for a teacher of kind "periodic"."""
    reason_tokens: PositiveInt = 1024
    """Longest text, in tokens, that a teacher that reasons first may write."""


class EvaluationConfig(Section):
    """Held-out accuracy before, during and after training."""

    data: DataConfig | None = None
    """The held-out problems, with the keys of the section data; none: no evaluation."""
    problems: PositiveInt = 512
    """Problems to evaluate on, from the start of the data."""
    samples: PositiveInt = 4
    """Sampled completions of each problem; their mean accuracy is avg@samples."""
    every: NonNegativeInt = 0
    """Steps between evaluations; 0: only before and after."""
    sampling: SamplingConfig = SamplingConfig()
    """Sampling of the completions, with the keys of the section sampling."""
    skills: NonNegativeInt = 0
    """Pairs of skill and mistake from the bank in each of the evaluation's prompts; 0: plain prompts."""


class CheckpointConfig(Section):
    """Checkpoints during training."""

    every: NonNegativeInt = 0
    """Steps between checkpoints; 0: only at the end, or when interrupted."""
    keep: PositiveInt = 2
    """Number of checkpoints to keep; older ones are deleted."""


class ComputeConfig(Section):
    """Sizes of batches; they change speed and memory, and results by rounding only."""

    student_tokens: PositiveInt = 8192
    """Tokens in a micro-batch of the student, which keeps activations for the gradient."""
    teacher_tokens: PositiveInt = 32768
    """Tokens in a micro-batch of the teachers, without gradient."""
    rollout_tokens: PositiveInt = 65536
    """Rows × (prompt + completion) tokens of a generation batch of engine transformers."""
    threads: PositiveInt | None = None
    """CPU threads; none: torch decides."""


class TrackConfig(Section):
    """A tracker beside the run's own files; `track: wandb` is short for `track: {to: wandb}`."""

    to: Literal["none", "trackio", "wandb", "tensorboard", "mlflow"] = "none"
    """The tracker."""
    project: str = Field(default="sgsd", min_length=1)
    """Name of the project there."""
    entity: str | None = None
    """Name of a team, for wandb only."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"to": value} if isinstance(value, str) else value

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if self.entity is not None and self.to != "wandb":
            yield "entity", "only wandb has teams; leave it out, or set track.to to wandb"
