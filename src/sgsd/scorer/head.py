"""The LM head without its logits: log-probabilities of given tokens from hidden states, tile by tile.

    log p(y) = z_y − log Σ_v e^{z_v},   z = W h + b,   ∂ log p(y) / ∂h = W_y − Σ_v p_v W_v

Matrix products of [tokens × hidden] × [hidden × vocabulary] size that a call makes, backward included:

    1  nothing needs a gradient (a teacher): the logits
    2  the head is frozen: the logits, and E_p[W] accumulated online; backward is one multiply
    4  the head trains: the logits, and in backward the logits again, P W and Pᵀ H

Shapes: N tokens, D hidden, V vocabulary; lower case n and v are one tile of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    tile_size,
    tiles,
    without_autocast,
)

# e^x is computed as 2^(x·log₂e): torch.exp on a CPU drops to a path 20 to 40 times slower when results underflow,
# which the far tail of a vocabulary does all the time; torch.exp2 has no such path, and is faster everywhere else.
LOG2_E = math.log2(math.e)

# (token tile, vocabulary tile). CPU, measured at 151,936 × 256: 4 to 32 MB are equally fast within noise, and fewer
# tiles wait less for threads on a busy machine. Elsewhere not measured: large enough for kernel launches not to show.
CPU_TILES = (2048, 2048)
OTHER_TILES = (4096, 8192)


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """Per-token results: log-probabilities (nats, differentiable) and entropies (nats, detached) if asked for."""

    logps_N: Tensor
    entropy_N: Tensor | None


def token_logps(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    change: LogitChange = UNCHANGED,
    entropy: bool = False,
    token_tile: int | None = None,
    vocab_tile: int | None = None,
) -> HeadOutput:
    """Log-probabilities of `targets_N` under softmax(h Wᵀ + b), and the entropies of that softmax when asked.

    Equations: log p(y) = z_y − log Σ_v e^{z_v};  H = −Σ_v p_v log p_v, for z = h Wᵀ + b, or what `change` makes of it.
    Shapes: hidden_ND [N, D], weight_VD [V, D], targets_N [N] integers, bias_V [V]; results [N]. N may be 0.
    Units: nats; float32 (float64 for float64 inputs). Under autocast the operands are rounded to autocast's dtype.
    Gradients: log p with respect to hidden, weight and bias, once; the entropy is a detached diagnostic.
    Memory: one or two tiles [token_tile, vocab_tile], and with a frozen head one [N, D] kept for backward.
    Raises: ValueError for shapes, dtypes and tiles that do not fit, and for targets outside the vocabulary. On CUDA
    looking at the targets would stall the queue: there such a token's log p is NaN, or the device asserts.

    >>> token_logps(torch.zeros(2, 3), torch.zeros(5, 3), torch.tensor([0, 4])).logps_N.exp()
    tensor([0.2000, 0.2000])
    """
    _check(hidden_ND, weight_VD, targets_N, bias_V)
    defaults = CPU_TILES if hidden_ND.device.type == "cpu" else OTHER_TILES
    plan = _Plan(
        precision=Precision.of(hidden_ND, weight_VD),
        token_tile=tile_size("token_tile", token_tile, defaults[0], hidden_ND.shape[0]),
        vocab_tile=tile_size("vocab_tile", vocab_tile, defaults[1], weight_VD.shape[0]),
        entropy=entropy,
        change=change,
    )
    targets_N = targets_N.long()
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (hidden_ND, weight_VD, bias_V)):
        return HeadOutput(*_TokenLogps.apply(hidden_ND, weight_VD, bias_V, targets_N, plan))
    with torch.no_grad(), without_autocast(hidden_ND):
        scan = _Head(plan, weight_VD, bias_V).scan(hidden_ND, targets_N, keep_direction=False)
    return HeadOutput(scan.logps_N, scan.entropy_N)


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, plan: _Plan
    ) -> tuple[Tensor, Tensor | None]:
        head_trains = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        with without_autocast(hidden_ND):
            head = _Head(plan, weight_VD, bias_V)
            scan = head.scan(hidden_ND, targets_N, keep_direction=not head_trains)
        ctx.plan, ctx.hidden_dtype = plan, hidden_ND.dtype
        if head_trains:
            ctx.save_for_backward(None, weight_VD, bias_V, hidden_ND, targets_N, scan.logsumexp_N)
        else:
            ctx.save_for_backward(scan.direction_ND)
        if scan.entropy_N is not None:
            ctx.mark_non_differentiable(scan.entropy_N)
        return scan.logps_N, scan.entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        direction_ND, *saved = ctx.saved_tensors
        if direction_ND is not None:
            return (grad_N[:, None] * direction_ND).to(ctx.hidden_dtype), None, None, None, None
        weight_VD, bias_V, *tokens = saved
        with without_autocast(grad_N):
            gradients = _Head(ctx.plan, weight_VD, bias_V).gradients(grad_N, *tokens, wanted=ctx.needs_input_grad[:3])
        return *gradients, None, None


@dataclass(frozen=True, slots=True)
class _Plan:
    """How to walk the [tokens × vocabulary] plane, and what to collect on the way."""

    precision: Precision
    token_tile: int
    vocab_tile: int
    entropy: bool
    change: LogitChange


@dataclass(frozen=True, slots=True)
class _Scan:
    """The results of one walk over the head."""

    logps_N: Tensor
    logsumexp_N: Tensor
    entropy_N: Tensor | None
    direction_ND: Tensor | None  # W_y − E_p[W]: the gradient of log p with respect to the hidden state


class _OnlineSoftmax:
    """Sums over the vocabulary seen so far, one row a token, each relative to the running maximum `peak`."""

    def __init__(self, rows: int, like: Tensor, spare: Tensor | None) -> None:
        # Finite, not −inf: −inf − (−inf) would be NaN where a bias masks a whole tile.
        self.lowest = torch.finfo(like.dtype).min
        self.peak_n1 = like.new_full((rows, 1), self.lowest)
        self.mass_n1 = like.new_zeros((rows, 1))  # Σ e^{z − peak}
        self.moment_n1 = like.new_zeros((rows, 1))  # Σ e^{z − peak} (z − peak), where a spare tile is lent for it
        self.spare = spare

    def absorb(self, logits_nv: Tensor) -> tuple[Tensor, Tensor]:
        """Turn a tile of logits, in place, into e^{z − peak}; also the factor [n, 1] that rescales older sums."""
        old_peak_n1, self.peak_n1 = self.peak_n1, torch.maximum(self.peak_n1, logits_nv.amax(1, keepdim=True))
        shift_n1 = (old_peak_n1 - self.peak_n1).clamp_(min=self.lowest)
        decay_n1 = torch.exp2(shift_n1 * LOG2_E)
        gaps_nv = logits_nv.sub_(self.peak_n1)
        if self.spare is None:
            masses_nv = gaps_nv.mul_(LOG2_E).exp2_()
        else:
            masses_nv = torch.mul(gaps_nv, LOG2_E, out=_view(self.spare, gaps_nv.shape)).exp2_()
            # A bias of −inf gives 0 · −inf: its limit is 0.
            gaps_nv.clamp_(min=self.lowest).mul_(masses_nv)
            moved_n1 = (self.moment_n1 + shift_n1 * self.mass_n1) * decay_n1
            self.moment_n1 = moved_n1.add_(gaps_nv.sum(1, keepdim=True))
        self.mass_n1 = (self.mass_n1 * decay_n1).add_(masses_nv.sum(1, keepdim=True))
        return masses_nv, decay_n1

    def entropy_n1(self) -> Tensor:
        return self.mass_n1.log() - self.moment_n1 / self.mass_n1


@dataclass(frozen=True, slots=True)
class _Head:
    """The head's matrix and bias, walked tile by tile as the plan says."""

    plan: _Plan
    weight_VD: Tensor
    bias_V: Tensor | None

    def scan(self, hidden_ND: Tensor, targets_N: Tensor, *, keep_direction: bool) -> _Scan:
        """One pass over the vocabulary for every tile of tokens."""

        def blank(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=self.plan.precision.total, device=hidden_ND.device)

        count, size = hidden_ND.shape
        entropy_N = blank(count) if self.plan.entropy else None
        scan = _Scan(blank(count), blank(count), entropy_N, blank(count, size) if keep_direction else None)
        scratch, spare = self._scratch(hidden_ND), self._scratch(hidden_ND) if self.plan.entropy else None
        for rows in tiles(count, self.plan.token_tile):
            direction_nD = None if scan.direction_ND is None else scan.direction_ND[rows]
            softmax = _OnlineSoftmax(rows.stop - rows.start, scratch, spare)
            chosen_n1 = self._scan_rows(softmax, hidden_ND[rows], targets_N[rows], scratch, direction_nD)
            log_mass_n1 = softmax.mass_n1.log()
            scan.logps_N[rows] = (chosen_n1 - softmax.peak_n1 - log_mass_n1).squeeze(1)
            scan.logsumexp_N[rows] = (softmax.peak_n1 + log_mass_n1).squeeze(1)
            if scan.entropy_N is not None:
                scan.entropy_N[rows] = softmax.entropy_n1().squeeze(1)
        return scan

    def _scan_rows(
        self,
        softmax: _OnlineSoftmax,
        hidden_nD: Tensor,
        targets_n: Tensor,
        scratch: Tensor,
        direction_nD: Tensor | None,
    ) -> Tensor:
        """Take one tile of tokens through the vocabulary; fills the direction, returns the targets' logits [n, 1]."""
        enter, change = self.plan.precision.enter, self.plan.change
        hidden_nD = enter(hidden_nD)
        chosen_n1 = torch.full_like(softmax.peak_n1, torch.nan)  # a target that no tile holds stays visible
        if direction_nD is not None:
            direction_nD.zero_()
        for columns in tiles(self.weight_VD.shape[0], self.plan.vocab_tile):
            weight_vD = enter(self.weight_VD[columns])
            logits_nv = self._logits(hidden_nD, weight_vD, columns, scratch)
            # z_y is read from the tile, not computed as W_y · h: with the bits it has in the sum, log p ≤ 0.
            place_n1, inside_n1 = _locate(targets_n, columns)
            chosen_n1 = torch.where(inside_n1, logits_nv.gather(1, place_n1), chosen_n1)
            slope_nv = None if direction_nD is None else change.slope(logits_nv)
            masses_nv, decay_n1 = softmax.absorb(logits_nv)
            if direction_nD is not None:
                moving_nv = masses_nv if slope_nv is None else slope_nv.mul_(masses_nv)
                accumulate(direction_nD.mul_(decay_n1), moving_nv, weight_vD)
        if direction_nD is not None:
            target_nD = enter(self.weight_VD.index_select(0, targets_n))
            if (slope_n1 := change.slope(chosen_n1)) is not None:
                target_nD = target_nD * slope_n1
            direction_nD.div_(softmax.mass_n1).neg_().add_(target_nD)
            if change.factor != 1:
                direction_nD.mul_(change.factor)
        return chosen_n1

    def gradients(
        self, grad_N: Tensor, hidden_ND: Tensor, targets_N: Tensor, logsumexp_N: Tensor, *, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of Σ g log p for (hidden, weight, bias): with R = P − onehot(y), −g R W, −Rᵀ (g H) and −Rᵀ g.

        The vocabulary is the outer loop, so that the float32 sum of the weight's gradient is one tile [v, D]; and the
        one-hot goes into the tile of P: no scattered sum over repeated targets, so the same bits every time.
        """
        enter, total, change = self.plan.precision.enter, self.plan.precision.total, self.plan.change
        entered_ND = enter(hidden_ND)
        weighted_ND = grad_N.to(total)[:, None] * entered_ND
        grad_hidden_ND = torch.zeros_like(weighted_ND) if wanted[0] else None
        grad_weight_VD = torch.empty_like(self.weight_VD) if wanted[1] else None
        grad_bias_V = None if self.bias_V is None or not wanted[2] else torch.zeros_like(self.bias_V, dtype=total)
        scratch = self._scratch(hidden_ND)
        for columns in tiles(self.weight_VD.shape[0], self.plan.vocab_tile):
            weight_vD = enter(self.weight_VD[columns])
            grad_weight_vD = torch.zeros_like(weight_vD, dtype=total)
            for rows in tiles(hidden_ND.shape[0], self.plan.token_tile):
                logits_nv = self._logits(entered_ND[rows], weight_vD, columns, scratch)
                slope_nv = change.slope(logits_nv)
                residual_nv = logits_nv.sub_(logsumexp_N[rows, None]).mul_(LOG2_E).exp2_()
                place_n1, inside_n1 = _locate(targets_N[rows], columns)
                residual_nv.scatter_add_(1, place_n1, -inside_n1.to(total))
                if slope_nv is not None:
                    residual_nv.mul_(slope_nv)
                if change.factor != 1:
                    residual_nv.mul_(change.factor)
                if grad_hidden_ND is not None:
                    accumulate(grad_hidden_ND[rows], residual_nv, weight_vD)
                if grad_weight_VD is not None:
                    accumulate(grad_weight_vD, residual_nv.t(), weighted_ND[rows].to(weight_vD.dtype))
                if grad_bias_V is not None:
                    grad_bias_V[columns].addmv_(residual_nv.t(), grad_N[rows].to(total))
            if grad_weight_VD is not None:
                grad_weight_VD[columns] = grad_weight_vD.neg_()
        if grad_hidden_ND is not None:
            grad_hidden_ND = grad_hidden_ND.mul_(-grad_N[:, None]).to(hidden_ND.dtype)
        if grad_bias_V is not None and self.bias_V is not None:
            grad_bias_V = grad_bias_V.neg_().to(self.bias_V.dtype)
        return grad_hidden_ND, grad_weight_VD, grad_bias_V

    def _logits(self, hidden_nD: Tensor, weight_vD: Tensor, columns: slice, scratch: Tensor) -> Tensor:
        logits_nv = multiply(hidden_nD, weight_vD.t(), _view(scratch, (hidden_nD.shape[0], weight_vD.shape[0])))
        if self.bias_V is not None:
            logits_nv.add_(self.bias_V[columns].to(logits_nv.dtype))
        return self.plan.change.apply_(logits_nv)

    def _scratch(self, like: Tensor) -> Tensor:
        """One tile, allocated once a pass: a fresh one at every step would be paid for in page faults."""
        size = self.plan.token_tile * self.plan.vocab_tile
        return torch.empty(size, dtype=self.plan.precision.total, device=like.device)


def _view(scratch: Tensor, shape: Sequence[int]) -> Tensor:
    """A contiguous [rows, columns] view of the start of a flat buffer."""
    return scratch[: shape[0] * shape[1]].view(shape)


def _locate(targets_n: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Find where in the tile each target lies, and whether it does; no shape depends on data, so no device sync."""
    targets_n1 = targets_n[:, None]
    inside_n1 = (targets_n1 >= columns.start) & (targets_n1 < columns.stop)
    return torch.where(inside_n1, targets_n1 - columns.start, 0), inside_n1


def _check(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, bias_V: Tensor | None) -> None:
    check_head("hidden_ND", hidden_ND, "weight_VD", weight_VD, bias_V)
    if targets_N.shape != hidden_ND.shape[:1] or targets_N.is_floating_point() or targets_N.dtype == torch.bool:
        raise ValueError(
            f"targets_N is {targets_N.dtype} {list(targets_N.shape)}: give {hidden_ND.shape[0]} integer token ids"
        )
    if targets_N.device.type == "cuda" or targets_N.numel() == 0:
        return
    vocabulary = weight_VD.shape[0]
    wrong = ((targets_N < 0) | (targets_N >= vocabulary)).nonzero()
    if wrong.numel():
        index = int(wrong[0])
        raise ValueError(
            f"targets_N[{index}] is {int(targets_N[index])}, outside the vocabulary: ids are 0 to {vocabulary - 1}"
        )
