"""Lengths of texts, numbers of a model and rows of a step: what memory and time go by."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from sgsd.plan.meta_model import MetaModel, head_size, kv_heads
from sgsd.scorer.module import causal_lm


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of texts in tokens."""

    student_prompt: int
    teacher_prompt: int
    completion: int  # the mean
    longest: int  # of a batch; sampling goes on until that one has ended

    @property
    def student(self) -> int:
        return self.student_prompt + self.completion

    @property
    def teacher(self) -> int:
        return self.teacher_prompt + self.completion

    def at(self, completion: int) -> Lengths:
        """The same with all completions this long."""
        return replace(self, completion=completion, longest=completion)


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of a model that memory and operations go by."""

    layers: int
    hidden: int
    vocabulary: int
    attention: int  # layers · heads · head size
    cached: int  # numbers that a token leaves in the cache: layers · 2 · key-value heads · head size
    body: int  # numbers of the layers' matrices, without adapters
    head_trains: bool

    @classmethod
    def of(cls, meta: MetaModel) -> Shape:
        lm, text = causal_lm(meta.whole.model), meta.text
        head, embedding = lm.get_output_embeddings().weight, lm.get_input_embeddings().weight
        matrices = [
            parameter
            for name, parameter in lm.base_model.named_parameters()
            if parameter is not embedding and parameter.dim() >= 2 and ".lora_" not in name
        ]
        return cls(
            layers=meta.layers,
            hidden=head.shape[1],
            vocabulary=head.shape[0],
            attention=meta.layers * text.num_attention_heads * head_size(text),
            cached=meta.layers * 2 * kv_heads(text) * head_size(text),
            body=sum(parameter.numel() for parameter in matrices),
            head_trains=head.requires_grad,
        )

    def operations(self, prompt: int, completion: int) -> float:
        """Multiplications of one row's forward: t·body + 2·t²·attention + completion·V·D, with t tokens in all."""
        tokens = prompt + completion
        return tokens * (self.body + 2 * tokens * self.attention) + completion * self.vocabulary * self.hidden


@dataclass(frozen=True, slots=True)
class Rows:
    """The work of one process in a step, and how many rows go through the model together."""

    rollouts: int
    teachers: int  # rows of teachers, null ones among them
    iterations: int
    per_batch: int  # rollouts that are sampled together
    per_student: int  # rows of a student's micro-batch
    per_teacher: int

    @classmethod
    def of(cls, meta: MetaModel, lengths: Lengths, processes: int = 1) -> Rows:
        """Whole groups stay together, so the first process may have one more than the last."""
        config, method, compute = meta.config, meta.method, meta.config.compute
        rollouts = math.ceil(config.rollouts / config.group_size / processes) * config.group_size
        teachers = rollouts * (method.context.teachers + method.stance.needs_null)
        widest = lengths.student_prompt + config.sampling.max_tokens

        def fit(budget: int, length: int, rows: int) -> int:
            return max(1, min(budget // max(1, length), rows))

        return cls(
            rollouts=rollouts,
            teachers=teachers,
            iterations=method.iterations,
            per_batch=fit(compute.rollout_tokens, widest, rollouts),
            per_student=fit(compute.student_tokens, lengths.student, rollouts),
            per_teacher=fit(compute.teacher_tokens, lengths.teacher, max(1, teachers)),
        )

    @property
    def student_microbatches(self) -> int:
        return math.ceil(self.rollouts / self.per_student) * self.iterations


def bytes_in(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
