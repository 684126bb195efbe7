"""One prompt's keys and values for all the completions that follow it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from sgsd.scorer.layouts import Prefixes


class PrefixLayer(DynamicLayer):
    """A layer's keys and values of P prompts, [P, heads, L, size], as the R rows that continue them see it.

    An update sets each row's prompt before the row's own keys and keeps nothing: so the prompts are held once, and
    their copies for the rows live for one layer at a time.
    """

    def __init__(self, prompts: DynamicLayer, prompt_R: Tensor) -> None:
        super().__init__()
        assert prompts.keys is not None
        assert prompts.values is not None
        self.lazy_initialization(prompts.keys, prompts.values)
        self.keys, self.values, self.prompt_R = prompts.keys, prompts.values, prompt_R

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = (kept.index_select(0, self.prompt_R) for kept in (self.keys, self.values))
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def prefix_cache(lm: Any, prefixes: Prefixes) -> DynamicCache:
    """Take the prompts through the model; the cache is for one micro-batch of the rows that continue them."""
    cache = DynamicCache(config=lm.config)
    lm.base_model(input_ids=prefixes.input_ids_PL, past_key_values=cache, use_cache=True)
    cache.layers = [PrefixLayer(layer, prefixes.prompt_R) for layer in cache.layers]
    return cache


def can_share(lm: Any) -> bool:
    """True if every layer attends to all that came before; a window or a recurrent state is no list of keys."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=lm.config).layers)
