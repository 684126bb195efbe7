"""Floating-point operations of a step, counted by hand: matrix products only, a multiplication and an addition being 2.

    forward of a body      2·t·P + 4·t·c·a          t tokens, P numbers in the layers' matrices, c tokens in a row,
    its backward           2·t·P (frozen) or 4·t·P  a = layers · heads · head size; adapters as P, always with 4·t·P
    attention's backward   10·t·c·a fused, as the scores are computed again; else 8·t·c·a
    head                   2·n·V·D, n completion tokens: once for a teacher, twice frozen, four times where it trains

Causal attention is counted whole, as torch's own counter does; kernels that skip half of it are that much faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from sgsd.methods import Method
from sgsd.plan.meta_pass import Ghost, head_size, kv_heads
from sgsd.scorer import TEACHER_ADAPTER, teacher_layout
from sgsd.scorer.module import causal_lm

#: Products of head size for each teacher of a method that compares whole distributions, by whether the head trains:
#: student's logits, teacher's, and the gradient pulled back; and in backward all again with the weight's gradient.
DIVERGENCE_PRODUCTS = {False: 3, True: 6}


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of texts, in tokens."""

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

    def cut(self, completion: int) -> Lengths:
        """The same with no completion longer than this."""
        return replace(self, completion=min(self.completion, completion), longest=min(self.longest, completion))


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model decides the arithmetic."""

    layers: int
    hidden: int
    vocabulary: int
    attention: int  # layers · heads · head size
    cached: int  # numbers that a token leaves in the cache: layers · 2 · key-value heads · head size
    body: int  # numbers of the layers' matrices that a token meets: of experts those that are asked
    adapter: int  # of the student's adapter; 0 without
    teacher_adapter: int  # that a teacher computes with
    full: bool  # whether the body trains
    head_trains: bool
    fused: bool
    checkpointing: bool

    @classmethod
    def of(cls, ghost: Ghost) -> Shape:
        scorer, text = ghost.whole, ghost.text
        lm = causal_lm(scorer.model)
        head = lm.get_output_embeddings().weight
        size, layers = head_size(text), ghost.layers
        adapter = _numbers(lm, ".default.", text)
        own = {"live": adapter, "adapter": _numbers(lm, f".{TEACHER_ADAPTER}.", text), "base": 0, "copy": 0}
        return cls(
            layers=layers,
            hidden=head.shape[1],
            vocabulary=head.shape[0],
            attention=layers * text.num_attention_heads * size,
            cached=layers * 2 * kv_heads(text) * size,
            body=_numbers(lm, "", text),
            adapter=adapter,
            teacher_adapter=own[scorer.teacher_weights],
            full=ghost.config.lora is None,
            head_trains=head.requires_grad,
            fused=ghost.config.model.attention != "eager",
            checkpointing=ghost.config.model.gradient_checkpointing,
        )

    # ── Operations ─────────────────────────────────────────────────────────────────────────────────────────────────

    def forward(self, tokens: float, context: float, adapter: int) -> float:
        return 2 * tokens * (self.body + adapter) + 4 * tokens * context * self.attention

    def student(self, tokens: float, context: float) -> float:
        """Forward and backward of the body, and forward again where activations are not kept."""
        linear = 2 * tokens * self.body * (2 if self.full else 1) + 4 * tokens * self.adapter
        scores = (10 if self.fused else 8) * tokens * context * self.attention
        return self.forward(tokens, context, self.adapter) * (2 if self.checkpointing else 1) + linear + scores

    def teacher(self, tokens: float, context: float) -> float:
        return self.forward(tokens, context, self.teacher_adapter)

    def head(self, tokens: float, products: float) -> float:
        return 2 * tokens * self.vocabulary * self.hidden * products

    @property
    def student_products(self) -> int:
        return 4 if self.head_trains else 2


def _numbers(lm: Any, adapter: str, text: Any) -> int:
    """In the matrices of the body, or of the adapter of that name; three dimensions are experts, of which some work."""
    embedding = lm.get_input_embeddings().weight
    experts = next((n for key in ("num_experts", "num_local_experts") if (n := getattr(text, key, None))), 1)
    share = (getattr(text, "num_experts_per_tok", None) or experts) / experts
    total = 0.0
    for name, parameter in lm.base_model.named_parameters():
        is_lora = ".lora_" in name
        if parameter is embedding or parameter.dim() < 2 or is_lora != bool(adapter) or adapter not in name:
            continue
        total += parameter.numel() * (share if parameter.dim() == 3 else 1)
    return round(total)


# ── A step ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Rows:
    """What one process has to do in a step."""

    rollouts: int
    teachers: int  # rows of teachers, null ones among them
    iterations: int
    per_batch: int  # rollouts that are sampled together
    per_student: int  # rows of a student's pass
    per_teacher: int
    sharing: int = 1  # rows of teachers that share the computation of a prompt

    @classmethod
    def of(cls, ghost: Ghost, lengths: Lengths, processes: int = 1, device: str = "cuda") -> Rows:
        """Whole groups stay together, so the first process may have one more than the last."""
        config, method = ghost.config, ghost.method
        layout = teacher_layout(
            group=config.group_size,
            attention=config.model.attention,
            device=device,
            shares=ghost.whole.shares_prefixes,
        )
        size, compute = config.group_size, config.compute
        rollouts = math.ceil(config.rollouts / size / processes) * size
        teachers = rollouts * (method.context.teachers + method.contrasts)
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
            sharing=size if layout == "shared" else 1,
        )

    @property
    def batches(self) -> int:
        return math.ceil(self.rollouts / self.per_batch)

    @property
    def student_passes(self) -> int:
        return math.ceil(self.rollouts / self.per_student) * self.iterations

    @property
    def teacher_passes(self) -> int:
        return math.ceil(self.teachers / self.per_teacher)


@dataclass(frozen=True, slots=True)
class Operations:
    """Of one process in one step."""

    prefill: float
    decode: float
    student: float
    student_head: float
    teachers: float
    teachers_head: float

    @classmethod
    def of(cls, method: Method, shape: Shape, rows: Rows, lengths: Lengths) -> Operations:
        b, k, n, i = rows.rollouts, rows.teachers, lengths.completion, rows.iterations
        products: float = shape.student_products
        if method.matches_distribution:
            products += DIVERGENCE_PRODUCTS[shape.head_trains] * k / b
        tokens, prompt = b * lengths.longest, lengths.student_prompt
        middle = prompt + lengths.longest / 2
        return cls(
            prefill=shape.forward(b * prompt, prompt, shape.adapter) + shape.head(b, 1),
            # Rows that have ended go on as pads until the batch's longest has.
            decode=shape.forward(tokens, middle, shape.adapter) + shape.head(tokens, 1),
            student=i * shape.student(b * lengths.student, lengths.student),
            student_head=i * shape.head(b * n, products),
            teachers=shape.teacher(k * n, lengths.teacher)
            + shape.teacher(k / rows.sharing * lengths.teacher_prompt, lengths.teacher),
            teachers_head=shape.head(k * n, 1) if method.reads_tokens else 0.0,
        )

    @property
    def sample(self) -> float:
        return self.prefill + self.decode

    @property
    def score(self) -> float:
        return self.teachers + self.teachers_head

    @property
    def update(self) -> float:
        return self.student + self.student_head


def bytes_in(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
