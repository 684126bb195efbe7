"""The scorer: one module whose `forward` gives log-probs of given tokens under given contexts.

It is what `accelerator.prepare` receives, student and teachers alike go through its forward, and so the hooks of
FSDP, DDP and ZeRO always run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from sgsd.scorer.divergence import Divergence, tiled_divergence
from sgsd.scorer.head import token_logps
from sgsd.scorer.layouts import PackedBatch, Prefixes
from sgsd.scorer.logits import Operands, measure

Role = Literal["student", "teacher"]
TeacherWeights = Literal["live", "base", "adapter", "copy"]
TEACHER_ADAPTER = "teacher"


class Scores(NamedTuple):
    """Results for the N completion tokens of one micro-batch, as far as they were asked for.

    A named tuple, because FSDP finds the tensors to hook in tuples and not in other objects.
    """

    logps_N: Tensor | None = None
    entropy_N: Tensor | None = None
    divergence_KN: Tensor | None = None  # [K, 2, N] where the divergence is given the sampled tokens
    hidden_ND: Tensor | None = None


class Scorer(nn.Module):
    """A causal language model seen as a function from (context, tokens) to log-probs.

    `teacher_weights` says what a teacher is: "live" (the student itself), "base" (its adapter off), "adapter" (a
    second, frozen adapter) or "copy" (a frozen copy of a fully trained model).

    Raises:
        UserError: the model changes its logits in a way that cannot be followed, or its weights are no numbers.
    """

    def __init__(
        self,
        model: Any,
        *,
        teacher_weights: TeacherWeights = "live",
        teacher_copy: Any = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if (teacher_weights == "copy") != (teacher_copy is not None):
            raise ValueError("a teacher copy goes with teacher_weights='copy', and only with it")
        self.model = model
        self.teacher_copy = teacher_copy
        self.teacher_weights = teacher_weights
        readout = measure(causal_lm(model))
        self.readout = replace(readout, change=readout.change.at_temperature(temperature))

    def forward(
        self,
        batch: PackedBatch,
        *,
        role: Role = "student",
        entropy: bool = False,
        hidden_only: bool = False,
        with_hidden: bool = False,
        teacher_hidden_KND: Sequence[Tensor] = (),
        divergence: Divergence | None = None,
        of_sampled: bool = False,
    ) -> Scores:
        """Score one micro-batch: log p(y_t | context, y_<t) in nats. Only completion positions reach the head.

        The teacher runs in eval mode without gradients. `hidden_only` returns its states instead of log-probs,
        `with_hidden` both, for a later call as student that compares whole distributions by
        `divergence(student_logits, teacher_logits)`; with `of_sampled` it is also given the sampled tokens.
        """
        if role == "teacher":
            with torch.no_grad(), self._as_teacher() as lm:
                hidden_ND = self._hidden(lm, batch)
                if hidden_only:
                    return Scores(hidden_ND=hidden_ND)
                scores = self._score(lm, hidden_ND, batch, entropy)
                return scores._replace(hidden_ND=hidden_ND) if with_hidden else scores
        lm = causal_lm(self.model)
        hidden_ND = self._hidden(lm, batch)
        scores = self._score(lm, hidden_ND, batch, entropy)
        if divergence is None:
            return scores
        student = self.readout.operands(lm.get_output_embeddings(), hidden_ND)
        values_KN = [
            tiled_divergence(
                student.hidden_ND,
                teacher.hidden_ND,
                student.weight_VD,
                teacher.weight_VD,
                divergence,
                student_bias_V=student.bias_V,
                teacher_bias_V=teacher.bias_V,
                sampled_N=batch.targets_N if of_sampled else None,
                change=self.readout.change,
            )
            for teacher in self._teacher_operands(teacher_hidden_KND)
        ]
        return scores._replace(divergence_KN=torch.stack(values_KN))

    @property
    def shares_prefixes(self) -> bool:
        """True if a teacher can score several completions of one prompt in a shared micro-batch."""
        return can_share(causal_lm(self.teacher_copy or self.model))

    @torch.no_grad()
    def _teacher_operands(self, states_KND: Sequence[Tensor]) -> list[Operands]:
        """The teacher's side of a comparison, from the states that it left."""
        head = causal_lm(self.teacher_copy or self.model).get_output_embeddings()
        # Only an adapter on the head makes a difference, and which one is on is a state of the whole model.
        with nullcontext() if isinstance(head, nn.Linear) else self._as_teacher():
            return [self.readout.operands(head, states_ND) for states_ND in states_KND]

    @staticmethod
    def _hidden(lm: Any, batch: PackedBatch) -> Tensor:
        states_RLD = lm.base_model(input_ids=batch.input_ids_RL, **_layout_of(lm, batch)).last_hidden_state
        return states_RLD.flatten(0, 1)[batch.predict_N]

    def _score(self, lm: Any, hidden_ND: Tensor, batch: PackedBatch, entropy: bool) -> Scores:
        states_ND, weight_VD, bias_V = self.readout.operands(lm.get_output_embeddings(), hidden_ND)
        change = self.readout.change
        out = token_logps(states_ND, weight_VD, batch.targets_N, bias_V=bias_V, change=change, entropy=entropy)
        return Scores(out.logps_N, out.entropy_N)

    @contextmanager
    def _as_teacher(self) -> Iterator[Any]:
        module = self.teacher_copy if self.teacher_weights == "copy" else self.model
        was_training = module.training
        module.eval()
        weights = {
            "live": nullcontext,
            "copy": nullcontext,
            "base": getattr(self.model, "disable_adapter", nullcontext),
            "adapter": lambda: active_adapter(self.model, TEACHER_ADAPTER),
        }[self.teacher_weights]
        try:  # a micro-batch that ran out of memory is run again, and must find the student as it was
            with weights():
                yield causal_lm(module)
        finally:
            module.train(was_training)


def _layout_of(lm: Any, batch: PackedBatch) -> dict[str, Any]:
    """The arguments of the model for a micro-batch, besides its tokens."""
    if batch.prefixes is not None:
        prefixes = batch.prefixes
        # A cache is only ever taken when `use_cache` is on.
        return {
            "past_key_values": prefix_cache(lm, prefixes),
            "position_ids": prefixes.position_ids_RL,
            "attention_mask": prefixes.mask_RL,
            "use_cache": True,
        }
    if batch.segments is not None:
        segments = batch.segments
        # Positions that begin anew make the mask of sdpa and eager; flash attention would work out the rest from them
        # in every layer, and wait for the device each time.
        return {
            "position_ids": segments.position_ids_RL,
            "cu_seq_lens_q": segments.edges,
            "cu_seq_lens_k": segments.edges,
            "max_length_q": segments.longest,
            "max_length_k": segments.longest,
            "use_cache": False,
        }
    return {"use_cache": False}


@contextmanager
def active_adapter(model: Any, name: str) -> Iterator[None]:
    """Let another adapter answer for a while. Weights stay where they are; only the layers' choice changes."""
    usual = model.active_adapter
    model.base_model.set_adapter(name, inference_mode=True)
    try:
        yield
    finally:
        model.base_model.set_adapter(usual)


def is_teacher_adapter(name: str) -> bool:
    """True for the name of a parameter of the teacher's adapter, whatever layer it sits on."""
    return re.search(rf"(^|\.)lora_\w+\.{TEACHER_ADAPTER}(\.|$)", name) is not None


def causal_lm(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


# ── One prompt's keys and values for all the completions that follow it ─────────────────────────────────────────────


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
