"""The way from a model's last hidden state to its logits, measured on the model itself.

Between them stand a factor on the hidden state, the head, and a factor or a cap, or nothing, after it. Which it is, no
name in a configuration says but two passes of a few states through it: as it is, and with numbers put in place of the
head's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgsd.scorer.tiles import UNCHANGED, LogitChange
from sgsd.types import UserError

TOKENS = 4

#: How far two ways of computing may be apart, as a share of the largest number.
ROUNDING = {torch.float32: 2e-5, torch.float64: 2e-5}
HALF_ROUNDING = 2**-6


class Operands(NamedTuple):
    """Hidden states [N, D'] and a matrix [V, D'] whose product, with the bias [V], are the head's outputs."""

    hidden_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None


@dataclass(frozen=True)
class Readout:
    """The way from last hidden states to logits, as one model goes it."""

    before: float = 1.0  # factor on the hidden states
    change: LogitChange = UNCHANGED

    def operands(self, head: Any, hidden_ND: Tensor) -> Operands:
        """The head's two factors; those of an adapter that is on stand beside its own, [h, s A h] and [W, B]."""
        if self.before != 1:
            hidden_ND = hidden_ND * self.before
        if isinstance(head, nn.Linear):
            return Operands(hidden_ND, head.weight, head.bias)
        base = head.base_layer
        states, weights = [hidden_ND], [base.weight]
        for name in [] if head.disable_adapters or head.merged else head.active_adapters:
            low_Nr = F.linear(head.lora_dropout[name](hidden_ND).to(head.lora_A[name].weight), head.lora_A[name].weight)
            states.append((low_Nr * head.scaling[name]).to(hidden_ND))
            weights.append(head.lora_B[name].weight.to(base.weight))
        return Operands(torch.cat(states, dim=1), torch.cat(weights, dim=1), base.bias)


@torch.no_grad()
def measure(lm: Any) -> Readout:
    """Find out what the model does to its logits.

    Raises UserError: something that the scorer cannot follow, a head of another kind, or weights that are no numbers.
    """
    head, kind = lm.get_output_embeddings(), f"model {lm.config.model_type} ({type(lm).__name__})"
    if not isinstance(getattr(head, "base_layer", head), nn.Linear):
        raise UserError(
            f"{kind}: its head is a {type(head).__name__}, which the scorer cannot follow; only a linear layer"
        )
    if head.weight.is_meta:
        return Readout()
    rounding = ROUNDING.get(head.weight.dtype, HALF_ROUNDING)
    with _evaluating(lm):
        plain = _pass(lm, head)
        if not plain.out.isfinite().all():
            broken = not_finite(lm.named_parameters())
            raise UserError(f"{kind}: {broken or 'its logits overflow, though all its weights are numbers'}")
        probe = torch.randn(plain.out.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
        probe = (probe * 10.0 ** torch.linspace(-3, 4, probe.shape[-1])).to(head.weight.device)
        changed = _pass(lm, head, lambda out: probe).logits
        found = _fit(probe.flatten().double(), changed.flatten().double())
        hidden, into = plain.hidden.flatten().double(), plain.into.flatten().double()
        before = _factor(hidden, into, rounding)
        off = math.inf
        if found is not None and before is not None:
            readout = Readout(before, found)
            states, weight, bias = readout.operands(head, plain.hidden[0])
            ours = found.apply_(F.linear(states, weight, bias).float())
            theirs = plain.logits[0].float()
            off = float((ours.log_softmax(-1) - theirs.log_softmax(-1)).abs().max() / theirs.abs().max().clamp(min=1))
            if off <= rounding:
                return readout
    what = "after its head" if found is None else "before its head" if before is None else f"(off by {off:.1g})"
    raise UserError(
        f"{kind}: the scorer cannot follow what it does to its logits {what}; it can follow a factor on hidden states,"
        " a factor on logits and a cap c·tanh(z/c)"
    )


def not_finite(weights: Iterable[tuple[str, Tensor]]) -> str | None:
    """Which weights hold NaN or an infinity, in words; None: none does."""
    broken, sizes = dict[str, int](), dict[str, int]()
    for name, tensor in weights:
        sizes[name] = tensor.numel()
        if not tensor.is_meta and (bad := int((~tensor.detach().isfinite()).sum())):
            broken[name] = bad
    if not broken:
        return None
    name = next(iter(broken))
    others = len(broken) - 1
    more = f", and so {'are' if others > 1 else 'is'} {others} other weight{'s' * (others > 1)}" if others else ""
    return f"weight {name} is NaN or infinite in {broken[name]} of {sizes[name]} places{more}"


class _Pass(NamedTuple):
    hidden: Tensor  # [1, T, D] as the body gives it
    into: Tensor  # as the head gets it
    out: Tensor  # [1, T, V] as the head gives it
    logits: Tensor  # as the model returns it


class _Body:
    """Stands for the return value of a model's body, as far as the model may ask for it."""

    def __init__(self, hidden_1TD: Tensor) -> None:
        self.last_hidden_state = hidden_1TD

    def __getitem__(self, place: Any) -> Any:
        return (self.last_hidden_state,)[place]

    def __getattr__(self, name: str) -> None:
        return None


def _pass(lm: Any, head: Any, replaced: Callable[[Tensor], Tensor] = lambda out: out) -> _Pass:
    """One pass, from numbers of ours in place of the body's: its kernels may need a device that it is not on yet."""
    weight, body = head.weight, lm.base_model
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, TOKENS, weight.shape[1], generator=generator).to(weight)
    ids = torch.arange(1, TOKENS + 1, device=weight.device)[None] % weight.shape[0]
    seen: dict[str, Tensor] = {}

    def in_place_of_body(*args: Any, **kwargs: Any) -> _Body:
        seen["hidden"] = hidden
        return _Body(hidden)

    def after_head(module: Any, args: Any, out: Tensor) -> Tensor:
        seen["into"], seen["out"] = args[0], replaced(out)
        return seen["out"]

    hook, own = head.register_forward_hook(after_head), vars(body).get("forward")
    body.forward = in_place_of_body
    try:
        logits = lm(input_ids=ids, use_cache=False).logits
    finally:
        del body.forward
        if own is not None:  # a hook of somebody's stood there
            body.forward = own
        hook.remove()
    if "hidden" not in seen:  # a model that calls a part of its body
        seen["hidden"] = body(input_ids=ids, use_cache=False).last_hidden_state
    return _Pass(seen["hidden"], seen["into"], seen["out"], logits)


@contextmanager
def _evaluating(lm: Any) -> Iterator[None]:
    training = lm.training
    lm.eval()
    try:
        yield
    finally:
        lm.train(training)


def _factor(x: Tensor, y: Tensor, rounding: float) -> float | None:
    """a of y = a x; None where it is not that."""
    if x.shape != y.shape:
        return None
    factor = float(x @ y / (x @ x))
    if abs(factor - 1) <= rounding:
        factor = 1.0
    close = (y - factor * x).abs().max() <= rounding * y.abs().max()
    return factor if close else None


def _fit(u: Tensor, z: Tensor) -> LogitChange | None:
    """The change that makes z of u, element by element; None where it is of another kind."""
    if not z.isfinite().all():
        return None
    small = u.abs() < 1e-2  # where a cap does not show
    factor = _round_off(float(u[small] @ z[small] / (u[small] @ u[small])))
    if factor == 0:
        return None
    cap = _round_off(float(z.abs().max()))
    for change in (LogitChange(factor), LogitChange(factor, cap)):
        made = change.apply_(u.clone())
        if bool(((made - z).abs() <= 1e-5 * made.abs() + 1e-9).all()):
            return change
    return None


def _round_off(value: float) -> float:
    """A number as it was probably written, where rounding alone is between the two."""
    return float(f"{value:.5g}") if math.isclose(value, float(f"{value:.5g}"), rel_tol=1e-6) else value
