"""A writer small enough for a test that always finishes what it writes: no training, weights by construction.

A schema holds a model to a form but not to an end: a weak one goes on inside a string until its tokens are spent. This
one cannot. The first coordinates of its hidden state are the current token, one to one, and the head reads a table of
bigrams from them: words may only follow words of a smaller id, so a string is over after a few of them. The other
coordinates belong to a random Qwen3 that sees the whole prompt, and choose among what the table allows.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

FREE = 64  # coordinates that the random part has for itself
NEVER = -1000.0  # far beyond what the random part can say


def save_tiny_writer(folder: Path, tokenizer: Any) -> Path:
    """Write such a model for the lab's tokenizer, with room for long prompts and with heads of 32."""
    size = len(tokenizer)
    config = Qwen3Config(
        vocab_size=size,
        hidden_size=size + FREE,
        intermediate_size=FREE,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.15,
        dtype="float32",
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
        embedding.copy_(torch.cat([8 * torch.eye(size), torch.randn(size, FREE)], dim=1))
        head.copy_(torch.cat([bigrams(tokenizer).T, torch.randn(size, FREE)], dim=1))
        for layer in model.model.layers:
            layer.self_attn.q_norm.weight *= 6  # looks at few tokens closely: prompts must make a difference
            layer.self_attn.o_proj.weight *= 4
            layer.self_attn.o_proj.weight[:size] = 0  # the current token's own coordinates stay as they are
            layer.mlp.down_proj.weight[:size] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bigrams(tokenizer: Any) -> Tensor:
    """table[i, j]: what speaks for token j after token i. Only what a grammar leaves open is ever compared."""
    texts = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    words = torch.tensor([bool(re.fullmatch(r" [a-z]{2,}", text)) for text in texts])
    digits = [texts.index(digit) for digit in "123456789"]
    quote, opening, closing = (texts.index(sign) for sign in '"[]')
    table = torch.full((len(texts), len(texts)), NEVER)
    table[:, words] = 0
    table[words] = torch.where(torch.ones_like(table).triu(1).bool() & words, 0.0, NEVER)[words]
    table[:, quote] = 0
    table[quote, quote] = NEVER  # no text is empty
    table[opening, [*digits, texts.index("{")]] = 0
    table[[*digits, texts.index("}")], closing] = 0  # one number, one item, and the list is over
    return table
