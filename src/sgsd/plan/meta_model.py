"""The most bytes that a forward or backward of a model holds, traced on the model's own code without data.

The model is built on torch's meta device, where tensors have shapes and no memory, with one layer and with two; what
the second adds, every further one adds. Nothing is loaded but the model's configuration.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicCache

from sgsd.config.run_config import RunConfig
from sgsd.methods import Method
from sgsd.rollout import Sampling
from sgsd.rollout.transformers_engine import SeededSampler
from sgsd.scorer import Scorer
from sgsd.scorer.module import causal_lm
from sgsd.train.models import announce, make_scorer, resolve_path
from sgsd.types import UserError

FUSED = "sgsd_fused"  # under which transformers knows the attention below


@dataclass(frozen=True)
class MetaModel:
    """A run's model without its numbers. The peaks are bytes; weights and gradients that were there are not in them."""

    config: RunConfig
    method: Method
    settings: Any  # the model's own configuration
    built: dict[int, Scorer] = field(default_factory=dict, compare=False, repr=False)  # by their layers
    traced: dict[tuple[Any, ...], float] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, config: RunConfig) -> MetaModel:
        """Raises UserError where there is no configuration of a causal language model."""
        return cls(config, config.build_method(), model_settings(config))

    @property
    def text(self) -> Any:
        return self.settings.get_text_config()

    @property
    def layers(self) -> int:
        return int(self.text.num_hidden_layers)

    @property
    def whole(self) -> Scorer:
        """The model with all layers."""
        return self.scorer(self.layers)

    def scorer(self, layers: int) -> Scorer:
        """Student, teacher and adapters as a run makes them, with the first few layers."""
        if layers not in self.built:
            self.built[layers] = self._build(layers)
        return self.built[layers]

    def _build(self, layers: int) -> Scorer:
        model, settings = self.config.model, type(self.settings).from_dict(self.settings.to_dict())
        text = settings.get_text_config()
        kinds, text.num_hidden_layers = getattr(text, "layer_types", None), layers
        if kinds:
            text.layer_types = kinds[:layers]
        lora = self.config.lora and self.config.lora.model_copy(update={"start": None})
        with torch.device("meta"):
            lm = transformers.AutoModelForCausalLM.from_config(
                settings,
                dtype=getattr(torch, model.dtype),
                attn_implementation="eager" if model.attention == "eager" else FUSED,
                trust_remote_code=model.trust_remote_code,
            )
            if model.gradient_checkpointing:
                lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            return make_scorer(
                lm, self.method, lora, self.config.seed, gradient_checkpointing=model.gradient_checkpointing
            )

    def student_peak(self, rows: int, length: int) -> float:
        """The peak of forward and backward of the body, onto gradients that are there already."""

        def run(scorer: Scorer) -> float:
            lm = causal_lm(scorer.model.train())
            for parameter in lm.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.empty_like(parameter)
            with traced(scorer) as trace:
                hidden = lm.base_model(input_ids=_ids(rows, length), use_cache=False).last_hidden_state
                # One position through the head: a tied weight holds the head's gradient until the embedding's is there.
                loss = hidden.sum() + F.linear(hidden[:1, -1], lm.get_output_embeddings().weight).sum()
                loss.backward()
                return trace.peak

        return self._by_layers(("student", rows, length), run)

    def teacher_peak(self, rows: int, length: int) -> float:
        """The peak of a forward of the body without a gradient; prefill is one too."""

        def run(scorer: Scorer) -> float:
            lm = causal_lm(scorer.model.eval())
            with torch.no_grad(), traced(scorer) as trace:
                lm.base_model(input_ids=_ids(rows, length), use_cache=False)
                return trace.peak

        return self._by_layers(("teacher", rows, length), run)

    def decode_peak(self, rows: int, context: int, sampling: Sampling) -> float:
        """The peak of one token a row, `context` being in the cache, and its draw; the cache of before is not in it."""

        def run(scorer: Scorer) -> float:
            lm, text = causal_lm(scorer.model.eval()), self.text
            cache = DynamicCache(config=lm.config)
            shape = (rows, kv_heads(text), context, head_size(text))
            for number in range(lm.config.get_text_config().num_hidden_layers):
                keys, values = (torch.empty(shape, dtype=lm.dtype, device="meta") for _ in range(2))
                cache.update(keys, values, number)
            mask = torch.ones(rows, context, dtype=torch.bool, device="meta")
            draw = SeededSampler(sampling, torch.empty(rows, 1, dtype=torch.double, device="meta"), mask)
            with torch.no_grad(), traced(scorer, cache) as trace:
                logits = lm(input_ids=_ids(rows, 1), past_key_values=cache, use_cache=True).logits
                draw(_ids(rows, context), logits[:, -1].float())
                return trace.peak

        return self._by_layers(("decode", rows, context, sampling), run)

    def _by_layers(self, key: tuple[Any, ...], run: Callable[[Scorer], float]) -> float:
        """The first layer's, and what the second adds for each further one."""
        if key not in self.traced:
            one, two = run(self.scorer(1)), run(self.scorer(2))
            self.traced[key] = one + (two - one) * (self.layers - 1)
        return self.traced[key]


def model_settings(config: RunConfig) -> Any:
    """The model's configuration, from a folder, the hub or the lab. Raises UserError."""
    announce(config.model)
    try:
        return transformers.AutoConfig.from_pretrained(
            resolve_path(config.model.path),
            revision=config.model.revision,
            trust_remote_code=config.model.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        first = " ".join(str(error).split())[:240]
        raise UserError(f"model.path: {config.model.path}: its configuration cannot be read: {first}") from error


def kv_heads(text: Any) -> int:
    return int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)


def head_size(text: Any) -> int:
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def _ids(rows: int, length: int) -> Tensor:
    return torch.empty(rows, length, dtype=torch.long, device="meta")


# ── Tracing ────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def traced(scorer: nn.Module, cache: DynamicCache | None = None) -> Iterator[MemoryTrace]:
    """Trace what is computed inside; what the module and the cache hold already is free."""
    there = [*scorer.parameters(), *scorer.buffers(), *(p.grad for p in scorer.parameters() if p.grad is not None)]
    if cache is not None:
        there += [tensor for layer in cache.layers for tensor in (layer.keys, layer.values) if tensor is not None]
    trace = MemoryTrace(there)
    with torch.device("meta"), NoPads(), trace:
        yield trace


class MemoryTrace(TorchDispatchMode):
    """Follows the bytes that live; `peak` is the most at one time."""

    def __init__(self, there: list[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: dict[int, int] = {}
        self.known = {tensor.untyped_storage()._cdata for tensor in there}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in (leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)):
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self.known or key in self.alive:
                continue
            self.alive[key] = storage.nbytes()
            self.now += self.alive[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, key)
        return out

    def _free(self, key: int) -> None:
        self.now -= self.alive.pop(key, 0)


class NoPads(TorchFunctionMode):
    """Answers the one thing that models ask of their data, whether it has pads: here there is no data and no pad."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return True if function is Tensor.__bool__ else function(*args, **(kwargs or {}))


def fused_attention(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    """Keeps and writes what fused kernels do, no scores; on the meta device torch would take attention apart."""
    return _Fused.apply(query, key, value), None


def no_mask(*_: Any, **__: Any) -> None:
    """Makes no mask: rows without pads need none."""


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows, heads, length, size = query.shape
        out = query.new_empty(rows, length, heads, size)
        ctx.save_for_backward(query, key, value, out, query.new_empty(rows, heads, length, dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


AttentionInterface.register(FUSED, fused_attention)
AttentionMaskInterface.register(FUSED, no_mask)
