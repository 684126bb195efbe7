"""Teachers that are not the student itself: frozen, averaged or copied now and then. Weights never swap places."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn import functional as F

from sgsd.config.sections import LoraConfig, TeacherConfig
from sgsd.distributed.replicated import Strategy
from sgsd.methods.method import TeacherKind
from sgsd.scorer import TEACHER_ADAPTER, TeacherWeights
from sgsd.types import UserError


def teacher_weights(kind: TeacherKind, *, lora: bool) -> TeacherWeights:
    """The place of a kind of teacher's weights: with an adapter nothing of the base is ever copied."""
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
    return (m for m in model.modules() if isinstance(m, LoraLayer) and TEACHER_ADAPTER in m.scaling)


def factors(layer: Any) -> list[Tensor]:
    """B and A of the teacher, then of the student, as the layer holds them."""
    pairs = (layer.lora_B, layer.lora_A)
    if TEACHER_ADAPTER in layer.lora_embedding_A:
        pairs = (layer.lora_embedding_B, layer.lora_embedding_A)
    held = (pair[name] for name in (TEACHER_ADAPTER, "default") for pair in pairs)
    return [getattr(factor, "weight", factor) for factor in held]


def blend_lora(layer: Any, decay: float, strategy: Strategy | None = None) -> None:
    """B_T A_T ← d·B_T A_T + (1 − d)·B_S A_S, cut back to the teacher's rank; for a stack of experts, of each by itself.

    Averaging the factors would not average the products. The sum of the two products is [d·B_T, (1−d)·B_S][A_T; A_S];
    QR of both stacks leaves a small core whose singular values say what to keep.
    """
    strategy = strategy or Strategy()
    experts = getattr(layer, "num_experts", 1)
    into_b, into_a, *_ = factors(layer)
    b_teacher, a_teacher, b_student, a_student = map(strategy.read, factors(layer))
    (b_teacher, a_teacher), (b_student, a_student) = (
        by_expert(b, a, experts) for b, a in ((b_teacher, a_teacher), (b_student, a_student))
    )
    ratio = layer.scaling["default"] / layer.scaling[TEACHER_ADAPTER]
    if decay == 0:
        room = b_teacher.shape[-1] - b_student.shape[-1]
        b, a = F.pad(ratio * b_student, (0, room)), F.pad(a_student, (0, 0, 0, room))
    else:
        b, a = low_rank_sum(decay * b_teacher, a_teacher, (1 - decay) * ratio * b_student, a_student)
    if experts > 1:
        b = b.permute(1, 2, 0)
    strategy.write(into_b, b.reshape(into_b.shape))
    strategy.write(into_a, a.reshape(into_a.shape))


def by_expert(b: Tensor, a: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """B [experts, out, rank] and A [experts, rank, in] of a stack of experts; of any other layer the factors they are.

    PEFT keeps the stack's as [out, rank · experts] and [experts · rank, in].
    """
    if experts == 1:
        return b, a
    return b.unflatten(1, (-1, experts)).permute(2, 0, 1), a.unflatten(0, (experts, -1))


def low_rank_sum(b_left: Tensor, a_left: Tensor, b_right: Tensor, a_right: Tensor) -> tuple[Tensor, Tensor]:
    """The best approximation of b_left a_left + b_right a_right of the rank of `a_left`, as two factors.

    Shapes: factors [..., out, rank] and [..., rank, in].
    """
    rank = a_left.shape[-2]
    q_b, r_b = torch.linalg.qr(torch.cat([b_left, b_right], dim=-1).float())
    q_a, r_a = torch.linalg.qr(torch.cat([a_left, a_right], dim=-2).float().mT)
    u, s, vh = torch.linalg.svd(r_b @ r_a.mT)
    kept = min(rank, s.shape[-1])
    root = s[..., :kept].sqrt()
    b, a = q_b @ (u[..., :kept] * root[..., None, :]), (root[..., None] * vh[..., :kept, :]) @ q_a.mT
    padded_b, padded_a = torch.zeros_like(b_left, dtype=b.dtype), torch.zeros_like(a_left, dtype=a.dtype)
    padded_b[..., :kept], padded_a[..., :kept, :] = b, a
    return padded_b, padded_a


# ── Whether the average is right ───────────────────────────────────────────────────────────────────────────────────

#: How far a teacher that has been made equal to the student may be from it, as a share of the largest change.
EQUAL = {torch.float32: 1e-5, torch.bfloat16: 2**-6}


@torch.no_grad()
def check_blending(kind: TeacherKind, model: Any) -> None:
    """Make the teacher the student in one layer of each kind, on numbers put there for it, and compare what PEFT sees.

    Once at decay 0, and once more as the mean of the two, which are one by then. The adapters are as before after it.
    Raises UserError: they differ by more than rounding.
    """
    seen = set()
    names = {layer: name for name, layer in model.named_modules()}
    for layer in lora_layers(model):
        held = factors(layer)
        looks = (type(layer), getattr(layer, "num_experts", 1), *(tensor.shape for tensor in held))
        if looks in seen or held[0].is_meta:
            continue
        seen.add(looks)
        if (off := _difference(layer, held)) is not None:
            leaf = getattr(layer, "parameter_name", names[layer].rpartition(".")[2])
            raise UserError(
                f"method.teacher: {kind}: on {leaf} ({type(layer).__name__}) a teacher that was made the student is off"
                f" by {off:.1g} of the largest change; leave {leaf} out of lora.target_modules, or take live or frozen"
            )


def _difference(layer: Any, held: list[Tensor]) -> float | None:
    """How far student and teacher are apart after an update that should make them one; None: by rounding only."""
    saved = [tensor.clone() for tensor in held]
    generator = torch.Generator(held[0].device).manual_seed(0)
    try:
        for tensor in held:
            tensor.copy_(torch.randn(tensor.shape, generator=generator, device=tensor.device))
        for decay in (0.0, 0.5):
            blend_lora(layer, decay)
            student, teacher = (layer.get_delta_weight(adapter) for adapter in ("default", TEACHER_ADAPTER))
            off = float((teacher - student).abs().max() / student.abs().max())
            if not off <= EQUAL.get(student.dtype, 1e-5):
                return off
    finally:
        for tensor, value in zip(held, saved):
            tensor.copy_(value)
    return None
