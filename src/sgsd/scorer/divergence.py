"""Divergences between whole next-token distributions, a tile of tokens at a time.

Where a method compares full vocabularies (OPSD's generalised JSD) both rows of logits are needed at once, so the
vocabulary cannot be cut; the tokens can, and the logits of one tile of them are all that ever exists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sgsd.scorer.tiles import (
    UNCHANGED,
    LogitChange,
    Precision,
    accumulate,
    check_head,
    multiply,
    tiles,
    without_autocast,
)

#: (student logits [n, V], teacher logits [n, V]) → values [n]; given sampled tokens [n] as well → [2, n]: the values,
#: and a figure of each token that has no gradient.
Divergence = Callable[..., Tensor]

# Elements of one tile of logits: 64 MiB in float32. Student, teacher, the gradient and what the divergence keeps for
# it are some 6 to 10 tensors of that size.
MAX_ELEMENTS = 2**24
VOCAB_TILE = 8192


def tiled_divergence(
    student_hidden_ND: Tensor,
    teacher_hidden_NE: Tensor,
    student_weight_VD: Tensor,
    teacher_weight_VE: Tensor,
    divergence: Divergence,
    *,
    student_bias_V: Tensor | None = None,
    teacher_bias_V: Tensor | None = None,
    sampled_N: Tensor | None = None,
    change: LogitChange = UNCHANGED,
    max_elements: int = MAX_ELEMENTS,
) -> Tensor:
    """Values [N] of `divergence` between the student's and the teacher's logits, without [N, V] logits.

    Equation: value_n = divergence(h_n W_Sᵀ + b_S, h'_n W_Tᵀ + b_T), or of what `change` makes of both logits.
    The divergence must treat rows independently: then the gradient is linear in the incoming g_n, and with a frozen
    head g_n ∂value_n/∂h_n is kept from forward as one [N, D] tensor, so that backward is one multiply. When the head
    trains, backward computes each tile again.
    With `sampled_N` the divergence is also given the tile's sampled tokens, and the result is [2, N]: the values, and a
    figure of each token without a gradient.
    Shapes: hidden states [N, D] and [N, E], weights [V, D] and [V, E], biases [V]; the divergence gets float32
    logits [n, V] (float64 for float64 inputs) with autocast off, and returns [n]. N may be 0.
    Memory: n is the largest count for which one tile of logits stays within `max_elements` elements (at least 1).
    Gradients: with respect to the student's hidden states, weight and bias, once; the teacher gets none.
    Raises: ValueError for shapes that do not fit, and for a divergence that returns anything but [n] values or does
    not depend on the student's logits.
    """
    check_head("student_hidden_ND", student_hidden_ND, "student_weight_VD", student_weight_VD, student_bias_V)
    check_head("teacher_hidden_NE", teacher_hidden_NE, "teacher_weight_VE", teacher_weight_VE, teacher_bias_V)
    student_shape, teacher_shape = (
        [hidden.shape[0], weight.shape[0]]
        for hidden, weight in ((student_hidden_ND, student_weight_VD), (teacher_hidden_NE, teacher_weight_VE))
    )
    if student_shape != teacher_shape:
        raise ValueError(f"[tokens, vocabulary] is {student_shape} for the student, {teacher_shape} for the teacher")
    if max_elements < 1:
        raise ValueError(f"max_elements is {max_elements}: give a positive number of logits per tile")
    comparison = _Comparison(
        divergence,
        token_tile=max(1, max_elements // student_weight_VD.shape[0]),
        student=Precision.of(student_hidden_ND, student_weight_VD),
        teacher=Precision.of(teacher_hidden_NE, teacher_weight_VE),
        sampled_N=sampled_N,
        change=change,
    )
    student = (student_hidden_ND, student_weight_VD, student_bias_V)
    teacher_bias_V = None if teacher_bias_V is None else teacher_bias_V.detach()
    teacher = (teacher_hidden_NE.detach(), teacher_weight_VE.detach(), teacher_bias_V)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in student):
        return _TiledDivergence.apply(*student, *teacher, comparison)
    with torch.no_grad(), without_autocast(student_hidden_ND):
        return comparison.values(_Side(*student), _Side(*teacher), direction_ND=None)


class _TiledDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *tensors, comparison = inputs
        student, teacher = _Side(*tensors[:3]), _Side(*tensors[3:])
        head_trains = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        direction_ND = None
        if not head_trains:
            direction_ND = torch.zeros_like(student.hidden_ND, dtype=comparison.student.total)
        ctx.comparison, ctx.hidden_dtype = comparison, student.hidden_ND.dtype
        ctx.save_for_backward(direction_ND, *(tensors if head_trains else ()))
        with without_autocast(student.hidden_ND):
            return comparison.values(student, teacher, direction_ND=direction_ND)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        nothing = (None,) * 4  # for the teacher and the comparison
        direction_ND, *tensors = ctx.saved_tensors
        grad_N = grad_N if ctx.comparison.sampled_N is None else grad_N[0]
        if direction_ND is not None:
            return (grad_N[:, None] * direction_ND).to(ctx.hidden_dtype), None, None, *nothing
        student, teacher = _Side(*tensors[:3]), _Side(*tensors[3:])
        with without_autocast(grad_N):
            return *ctx.comparison.gradients(grad_N, student, teacher, wanted=ctx.needs_input_grad[:3]), *nothing


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two models: its hidden states and its head."""

    hidden_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None

    def logits(self, rows: slice, precision: Precision, change: LogitChange) -> Tensor:
        """Logits [n, V]; the weight enters a few columns at a time, so that no widened copy of it is ever whole."""
        hidden_nD, vocabulary = precision.enter(self.hidden_ND[rows]), self.weight_VD.shape[0]
        logits_nV = hidden_nD.new_empty((hidden_nD.shape[0], vocabulary), dtype=precision.total)
        for columns in tiles(vocabulary, VOCAB_TILE):
            multiply(hidden_nD, precision.enter(self.weight_VD[columns]).t(), logits_nV[:, columns])
        if self.bias_V is not None:
            logits_nV.add_(self.bias_V.to(precision.total))
        return change.apply_(logits_nV)

    def pull_back(self, grad_nV: Tensor, into_nD: Tensor, precision: Precision) -> None:
        """Add to `into_nD` the gradient of the hidden states that the gradient of the logits brings."""
        for columns in tiles(self.weight_VD.shape[0], VOCAB_TILE):
            accumulate(into_nD, grad_nV[:, columns], precision.enter(self.weight_VD[columns]))


@dataclass(frozen=True, slots=True)
class _Comparison:
    """The divergence, and how to walk the tokens."""

    divergence: Divergence
    token_tile: int
    student: Precision
    teacher: Precision
    sampled_N: Tensor | None = None
    change: LogitChange = UNCHANGED

    def compare(self, rows: slice, student_logits_nV: Tensor, teacher_logits_nV: Tensor) -> Tensor:
        """Values [n], or [2, n] where the divergence is given the sampled tokens."""
        sampled = () if self.sampled_N is None else (self.sampled_N[rows],)
        values = self.divergence(student_logits_nV, teacher_logits_nV, *sampled)
        n = len(student_logits_nV)
        if tuple(values.shape) != ((2, n) if sampled else (n,)):
            raise ValueError(f"the divergence returned shape {list(values.shape)} for {n} tokens: one value per token")
        return values

    def values(self, student: _Side, teacher: _Side, *, direction_ND: Tensor | None) -> Tensor:
        """Values [N]; fills `direction_ND`, where there is one, with ∂value_n/∂h_n."""
        N = len(student.hidden_ND)
        values = student.hidden_ND.new_empty((N,) if self.sampled_N is None else (2, N), dtype=self.student.total)
        for rows in tiles(N, self.token_tile):
            if direction_ND is None:
                student_nV = student.logits(rows, self.student, self.change)
                teacher_nV = teacher.logits(rows, self.teacher, self.change)
                values[..., rows] = self.compare(rows, student_nV, teacher_nV)
            else:
                ones_n = values.new_ones(rows.stop - rows.start)
                values[..., rows], grad_nV = self._differentiate(rows, student, teacher, ones_n)
                student.pull_back(grad_nV, direction_ND[rows], self.student)
        return values

    def gradients(
        self, grad_N: Tensor, student: _Side, teacher: _Side, *, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of Σ g_n value_n for the student's (hidden, weight, bias), from logits computed again."""
        enter, total = self.student.enter, self.student.total
        grad_hidden_ND, grad_weight_VD, grad_bias_V = (
            torch.zeros_like(tensor, dtype=total) if wants and tensor is not None else None
            for wants, tensor in zip(wanted, (student.hidden_ND, student.weight_VD, student.bias_V))
        )
        for rows in tiles(grad_N.shape[0], self.token_tile):
            _, grad_nV = self._differentiate(rows, student, teacher, grad_N[rows])
            if grad_hidden_ND is not None:
                student.pull_back(grad_nV, grad_hidden_ND[rows], self.student)
            if grad_weight_VD is not None:
                accumulate(grad_weight_VD, grad_nV.t(), enter(student.hidden_ND[rows]))
            if grad_bias_V is not None:
                grad_bias_V.add_(grad_nV.sum(0))
        return (
            None if grad_hidden_ND is None else grad_hidden_ND.to(student.hidden_ND.dtype),
            None if grad_weight_VD is None else grad_weight_VD.to(student.weight_VD.dtype),
            None if grad_bias_V is None or student.bias_V is None else grad_bias_V.to(student.bias_V.dtype),
        )

    def _differentiate(self, rows: slice, student: _Side, teacher: _Side, grad_n: Tensor) -> tuple[Tensor, Tensor]:
        """The values of one tile and their gradient, weighted by `grad_n`, by the logits as the student's head is."""
        student_logits_nV = student.logits(rows, self.student, self.change).requires_grad_()
        teacher_logits_nV = teacher.logits(rows, self.teacher, self.change)
        with torch.enable_grad():
            values = self.compare(rows, student_logits_nV, teacher_logits_nV)
            values_n = values if self.sampled_N is None else values[0]
        if not values.requires_grad:
            raise ValueError("the divergence does not depend on the student's logits: nothing would be learned")
        (grad_nV,) = torch.autograd.grad(values_n, student_logits_nV, grad_n.to(values.dtype))
        if (slope_nV := self.change.slope(student_logits_nV.detach())) is not None:
            grad_nV = slope_nV.mul_(grad_nV)
        if self.change.factor != 1:
            grad_nV = grad_nV * self.change.factor
        return values.detach(), grad_nV
