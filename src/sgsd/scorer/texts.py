"""Log-probabilities of completions under prompts: the scorer for a model and texts of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from sgsd.contexts.prompts import encode_chat, encode_plain
from sgsd.scorer.layouts import Row, collate, plan_layout, teacher_layout
from sgsd.scorer.module import Scorer, causal_lm
from sgsd.types import UserError

Text = str | Sequence[int]
Prompt = Text | Sequence[Mapping[str, str]]


def score(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    completions: Sequence[Text],
    *,
    token_budget: int = 16_384,
    thinking: bool = False,
) -> list[Tensor]:
    """Score completions: log p(y_t | prompt, y_<t) of every token y_t of each, in nats.

    All tokens of a completion are scored, and none of its prompt; the end token is scored where it is given.

    Args:
        model: a causal language model of transformers, with or without a PEFT adapter; it is left as it was.
        tokenizer: its tokenizer.
        prompts: one a completion. A string is tokenized as it is, after the start token where the tokenizer writes
            one; messages go through the chat template, up to where the model answers; ids are taken as they are.
        completions: strings, tokenized without special tokens of the tokenizer's own, or ids.
        token_budget: tokens in one micro-batch at most, pads included; a row that is longer goes alone.
        thinking: the chat template's `enable_thinking`, for prompts that are messages.

    Returns:
        One tensor [T] for each completion, T its tokens, float32 (float64 for such a model), on the model's device
        and without a gradient.

    Raises:
        UserError: the numbers of prompts and completions differ; a prompt or completion, by its row, has no token or
            one that the model has no embedding for; or the model changes its logits after the head.

    Example:
        >>> from transformers import AutoModelForCausalLM, AutoTokenizer
        >>> from sgsd.train.models import resolve_path
        >>> folder = resolve_path("lab")  # the bundled policy
        >>> model, tokenizer = (cls.from_pretrained(folder) for cls in (AutoModelForCausalLM, AutoTokenizer))
        >>> right, wrong = score(model, tokenizer, ["2 + 3 = "] * 2, ["5", [13, 14]])
        >>> right.shape, wrong.shape
        (torch.Size([1]), torch.Size([2]))
    """
    if len(prompts) != len(completions):
        raise UserError(f"score: {len(prompts)} prompts and {len(completions)} completions; give one prompt for each")
    scorer = Scorer(model)
    lm = causal_lm(model)
    vocabulary = lm.get_input_embeddings().num_embeddings
    prompts_ids = [prompt_ids(tokenizer, prompt, thinking=thinking) for prompt in prompts]
    completions_ids = [_ids(tokenizer, completion) for completion in completions]
    _check(prompts_ids, "prompt", vocabulary)
    _check(completions_ids, "completion", vocabulary)
    rows = [Row(*ids) for ids in zip(prompts_ids, completions_ids)]
    repeated = len(rows) > len({row.prompt_ids for row in rows})
    device, attention = lm.get_input_embeddings().weight.device, lm.config._attn_implementation
    layout = teacher_layout(
        group=1 + repeated, attention=attention, device=device.type, shares=repeated and scorer.shares_prefixes
    )
    scored: dict[int, Tensor] = {}
    for indices in plan_layout(rows, token_budget, layout) if rows else []:
        batch = collate([rows[i] for i in indices], layout=layout, device=device)
        logps_N = scorer(batch, role="teacher").logps_N
        scored.update(zip(indices, logps_N.split([len(rows[i].completion_ids) for i in indices])))
    return [scored[number] for number in range(len(rows))]


def prompt_ids(tokenizer: Any, prompt: Prompt, *, thinking: bool) -> tuple[int, ...]:
    """The ids of a prompt that is a string, messages, or ids already."""
    if not isinstance(prompt, str) and any(isinstance(part, Mapping) for part in prompt):
        return encode_chat(tokenizer, prompt, thinking=thinking)  # type: ignore[arg-type]
    return encode_plain(tokenizer, prompt) if isinstance(prompt, str) else tuple(map(int, prompt))  # type: ignore[arg-type]


def _ids(tokenizer: Any, text: Text) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"] if isinstance(text, str) else map(int, text))


def _check(texts: Sequence[tuple[int, ...]], name: str, vocabulary: int) -> None:
    for number, ids in enumerate(texts):
        if not ids:
            raise UserError(f"score: {name} {number} has no tokens; leave the row out")
        strange = next((token for token in ids if not 0 <= token < vocabulary), None)
        if strange is not None:
            raise UserError(f"score: {name} {number} holds token {strange}; the model's are 0 to {vocabulary - 1}")
