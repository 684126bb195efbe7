"""Teachers that are not the student itself: frozen, averaged or copied now and then. Weights never swap places."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sgsd.config.sections import LoraConfig, TeacherConfig
from sgsd.distributed.replicated import Strategy
from sgsd.methods.method import TeacherKind
from sgsd.scorer import TEACHER_ADAPTER, TeacherWeights


def teacher_weights(kind: TeacherKind, *, lora: bool) -> TeacherWeights:
    """Where the weights of a kind of teacher are: with an adapter nothing of the base is ever copied."""
    if kind == "live":
        return "live"
    if not lora:
        return "copy"
    return "base" if kind == "frozen" else "adapter"


def teacher_rank(kind: TeacherKind, lora: LoraConfig) -> int:
    """An average of products has a higher rank than its terms; twice the student's keeps nearly all of it."""
    return 2 * lora.rank if kind == "ema" else lora.rank


def frozen_copy(model: Any) -> Any:
    return copy.deepcopy(model).requires_grad_(False).eval()


class TeacherUpdater:
    """Brings a teacher up to date after each step.

    ema:       W_T ← d W_T + (1 − d) W_S        periodic:  W_T ← W_S every `period` steps
    """

    def __init__(
        self, kind: TeacherKind, config: TeacherConfig, model: Any, teacher_copy: Any, strategy: Strategy | None = None
    ) -> None:
        self.kind, self.config, self.model, self.teacher_copy = kind, config, model, teacher_copy
        self.strategy = strategy or Strategy()

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        if self.kind == "ema":
            decay = self.config.ema_decay
        elif self.kind == "periodic" and step % self.config.period == 0:
            decay = 0.0
        else:
            return
        self.strategy.settle()
        if self.teacher_copy is not None:
            # Number by number, so parts of a weight do as well as the whole.
            for teacher, student in zip(self.teacher_copy.parameters(), self.model.parameters()):
                with self.strategy.writing([teacher, student]):
                    teacher.lerp_(student.to(teacher.dtype), 1 - decay)
        else:
            for layer in lora_layers(self.model):
                with self.strategy.writing(factors(layer)):
                    blend_lora(layer, decay, self.strategy)


def lora_layers(model: Any) -> Iterator[Any]:
    """Every layer that holds both the student's and the teacher's adapter."""
    return (m for m in model.modules() if TEACHER_ADAPTER in getattr(m, "lora_A", {}))


def factors(layer: Any) -> list[Tensor]:
    """B and A of the teacher, then of the student."""
    names = (TEACHER_ADAPTER, "default")
    return [factor[name].weight for name in names for factor in (layer.lora_B, layer.lora_A)]


def blend_lora(layer: Any, decay: float, strategy: Strategy | None = None) -> None:
    """B_T A_T ← d·B_T A_T + (1 − d)·B_S A_S, cut back to the teacher's rank.

    Averaging the factors would not average the products. The sum of the two products is [d·B_T, (1−d)·B_S][A_T; A_S];
    QR of both stacks leaves a small core whose singular values say what to keep.
    """
    strategy = strategy or Strategy()
    into_b, into_a, *_ = factors(layer)
    b_teacher, a_teacher, b_student, a_student = map(strategy.read, factors(layer))
    ratio = layer.scaling["default"] / layer.scaling[TEACHER_ADAPTER]
    if decay == 0 and b_student.shape == b_teacher.shape:
        b, a = ratio * b_student, a_student
    else:
        b, a = low_rank_sum(decay * b_teacher, a_teacher, (1 - decay) * ratio * b_student, a_student)
    strategy.write(into_b, b)
    strategy.write(into_a, a)


def low_rank_sum(b_left: Tensor, a_left: Tensor, b_right: Tensor, a_right: Tensor) -> tuple[Tensor, Tensor]:
    """The best approximation of b_left a_left + b_right a_right of the rank of `a_left`, as two factors."""
    rank = a_left.shape[0]
    q_b, r_b = torch.linalg.qr(torch.cat([b_left, b_right], dim=1).float())
    q_a, r_a = torch.linalg.qr(torch.cat([a_left, a_right], dim=0).float().T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T)
    kept = min(rank, s.numel())
    root = s[:kept].sqrt()
    b, a = q_b @ (u[:, :kept] * root), (root[:, None] * vh[:kept]) @ q_a.T
    padded_b, padded_a = torch.zeros_like(b_left, dtype=b.dtype), torch.zeros_like(a_left, dtype=a.dtype)
    padded_b[:, :kept], padded_a[:kept] = b, a
    return padded_b, padded_a
