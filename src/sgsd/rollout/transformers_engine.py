"""Rollouts from a transformers model in this process: batched, cached, with a seed for every rollout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sgsd.contexts.prompts import turn_end
from sgsd.rollout.engine import completion, uniforms
from sgsd.types import Completion, Sampling, UserError


class TransformersEngine:
    """Samples from the very weights that are trained, so there is nothing to sync.

    Args:
        model: A causal language model of transformers, or a PEFT model around one.
        tokenizer: Its tokenizer.
        token_budget: Tokens that a batch's cache may hold: rows × (longest prompt + max_tokens).

    Raises:
        ValueError: neither tokenizer nor generation config names an end token.
    """

    def __init__(self, model: Any, tokenizer: Any, *, token_budget: int = 65_536, logprobs_at: float = 1.0) -> None:
        # An adapter's layers stand inside the base model, which is the one that knows how to generate.
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.tokenizer = tokenizer
        self.token_budget = token_budget
        self.logprobs_at = logprobs_at  # the temperature at which log-probs are given
        self.end_ids = end_token_ids(self.model, tokenizer)
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self.end_ids)

    @property
    def dtype(self) -> str:
        """The dtype it computes in."""
        return str(self.model.dtype).removeprefix("torch.")

    def sync(self) -> None:
        """Nothing to do: the model sampled from is the model trained."""

    def sample(
        self, prompts: Sequence[Sequence[int]], indices: Sequence[int], sampling: Sampling, *, seed: int
    ) -> list[Completion]:
        if len(prompts) != len(indices):
            raise ValueError(f"{len(prompts)} prompts but {len(indices)} indices")
        done: dict[int, Completion] = {}
        by_length = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        while by_length:
            width = len(prompts[by_length[-1]]) + sampling.max_tokens
            rows = [by_length.pop() for _ in range(min(len(by_length), max(1, self.token_budget // width)))]
            batch = self._generate([prompts[i] for i in rows], [indices[i] for i in rows], sampling, seed)
            done.update(zip(rows, batch))
        return [done[i] for i in range(len(prompts))]

    @torch.no_grad()
    def _generate(
        self, prompts: Sequence[Sequence[int]], indices: Sequence[int], sampling: Sampling, seed: int
    ) -> list[Completion]:
        device, width = self.model.device, max(map(len, prompts))
        pads = [width - len(prompt) for prompt in prompts]
        input_ids = torch.tensor([[self.pad_id] * n + list(p) for n, p in zip(pads, prompts)], device=device)
        mask = torch.tensor([[0] * n + [1] * len(p) for n, p in zip(pads, prompts)], device=device)
        numbers = np.stack([uniforms(seed, index, sampling.max_tokens) for index in indices])
        sampler = SeededSampler(sampling, torch.from_numpy(numbers).to(device), mask.bool(), self.logprobs_at)
        with self._undisturbed():
            out = self.model.generate(
                input_ids=input_ids,
                attention_mask=mask,
                generation_config=self._generation_config(sampling),
                logits_processor=LogitsProcessorList([sampler]),
            )
        ids = out[:, width:].tolist()
        logps = torch.stack(sampler.logps, dim=1).tolist()
        return [completion(i, t, self._decode, self.end_ids, lp) for i, t, lp in zip(indices, ids, logps)]

    def _generation_config(self, sampling: Sampling) -> GenerationConfig:
        """Greedy over the one token the sampler leaves."""
        return GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            do_sample=False,
            eos_token_id=sorted(self.end_ids),
            pad_token_id=self.pad_id,
        )

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Put the model in eval mode, without its own generation defaults, which fill in what a call leaves open."""
        was_training, own = self.model.training, self.model.generation_config
        self.model.eval()
        self.model.generation_config = GenerationConfig()
        try:
            yield
        finally:
            self.model.generation_config = own
            self.model.train(was_training)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))


class SeededSampler(LogitsProcessor):
    """Draws every row's next token from that row's own random number and leaves nothing else possible.

    With the filtered distribution's cumulative sum F over the vocabulary, the token is the first v with F(v) ≥ u:
    a row depends on its own u_t and its own logits, never on its neighbours.
    """

    def __init__(
        self, sampling: Sampling, uniforms_BT: Tensor, prompt_mask_BP: Tensor, logprobs_at: float = 1.0
    ) -> None:
        self.sampling, self.logprobs_at = sampling, logprobs_at
        self.uniforms_BT = uniforms_BT
        self.prompt_mask_BP = prompt_mask_BP
        self.logps: list[Tensor] = []  # of the drawn tokens, nothing filtered, at `logprobs_at`
        self.filters = _filters(sampling)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        raw_BV = scores.float()
        position = input_ids.shape[1] - self.prompt_mask_BP.shape[1]
        filtered_BV = self._penalise(input_ids, raw_BV)
        if self.sampling.temperature == 0:
            tokens_B = filtered_BV.argmax(-1)
        else:
            cdf_BV = self.filters(input_ids, filtered_BV).double().softmax(-1).cumsum(-1)
            target_B1 = self.uniforms_BT[:, position, None] * cdf_BV[:, -1:]
            tokens_B = torch.searchsorted(cdf_BV, target_B1).squeeze(-1).clamp(max=cdf_BV.shape[-1] - 1)
        if self.logprobs_at != 1:
            raw_BV = raw_BV / self.logprobs_at
        self.logps.append(raw_BV.log_softmax(-1).gather(-1, tokens_B[:, None]).squeeze(-1))
        return torch.full_like(scores, -torch.inf).scatter_(-1, tokens_B[:, None], 0.0)

    def _penalise(self, input_ids: Tensor, logits_BV: Tensor) -> Tensor:
        """Apply repetition (prompt and completion) and presence penalties (completion); left pads do not count."""
        s = self.sampling
        if s.repetition_penalty == 1.0 and s.presence_penalty == 0.0:
            return logits_BV
        prompt_width = self.prompt_mask_BP.shape[1]
        written_BV = _seen(input_ids[:, prompt_width:], None, logits_BV)
        seen_BV = written_BV | _seen(input_ids[:, :prompt_width], self.prompt_mask_BP, logits_BV)
        softer_BV = torch.where(logits_BV > 0, logits_BV / s.repetition_penalty, logits_BV * s.repetition_penalty)
        return torch.where(seen_BV, softer_BV, logits_BV) - s.presence_penalty * written_BV.float()


def _seen(ids_BT: Tensor, mask_BT: Tensor | None, like_BV: Tensor) -> Tensor:
    counts = torch.zeros_like(like_BV)
    ones = torch.ones_like(ids_BT, dtype=like_BV.dtype) if mask_BT is None else mask_BT.to(like_BV.dtype)
    return counts.scatter_add_(-1, ids_BT, ones) > 0


def _filters(sampling: Sampling) -> LogitsProcessorList:
    filters = LogitsProcessorList()
    if sampling.temperature not in (0, 1):
        filters.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k > 0:
        filters.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        filters.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        filters.append(MinPLogitsWarper(sampling.min_p))
    return filters


def end_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer: the tokenizer's, those of the generation config, and the turn's end.

    A base model's generation config often names the end of a text alone, while its chat template ends turns by another.

    Raises:
        UserError: there is none, so that no completion could ever end.
    """
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured]), turn_end(tokenizer)}
    ids -= {None}
    if not ids:
        raise UserError(
            "model: neither tokenizer nor generation config names an end token, and the chat template shows none:"
            " no completion could ever end; set eos_token in tokenizer_config.json"
        )
    return frozenset(ids)
