"""Tokenizers and random models of the families people train, built here: same structure, wording of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
REPLY = "{% if add_generation_prompt %}<|im_start|>assistant\n"
CLOSED = "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"

TEMPLATES = {
    "qwen3": TURNS + REPLY + CLOSED + "{% endif %}",
    # A system turn of its own where the user gives none, and no word about thinking.
    "qwen2.5": "{% if messages[0].role != 'system' %}<|im_start|>system\nBe of use.<|im_end|>\n{% endif %}"
    + TURNS + REPLY + "{% endif %}",
    # The start token written by the template, contents trimmed, no pad token.
    "llama3": "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "always": TURNS + REPLY + "<think>\n{% endif %}",
    "no system": "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns here') }}{% endif %}"
    + TURNS + REPLY + "{% endif %}",
    "base": None,
}  # fmt: skip
FAMILIES = ("qwen3", "qwen2.5", "llama3", "base")

LLAMA_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
CHAT_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tokenizer(kind: str, *, writes_end: bool = False) -> Any:
    """Byte by byte, with the special tokens of its family. "base" has pad = end and writes a start token."""
    special = CHAT_TOKENS if TEMPLATES[kind] is not None and kind != "llama3" else LLAMA_TOKENS
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens(special)
    words.add_tokens([AddedToken(tag, special=False) for tag in ("<think>", "</think>")])
    if special is LLAMA_TOKENS:
        pieces = [special[0], "$A", *([special[1]] if writes_end else [])]
        ids = [(token, words.token_to_id(token)) for token in pieces if token != "$A"]
        words.post_processor = processors.TemplateProcessing(single=" ".join(pieces), special_tokens=ids)
    names = {
        "llama3": {"bos_token": special[0], "eos_token": "<|eot_id|>"},
        "base": {"bos_token": special[0], "eos_token": special[1], "pad_token": special[1]},
    }.get(kind, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    fast = PreTrainedTokenizerFast(tokenizer_object=words, **names)
    fast.chat_template = TEMPLATES[kind]
    return fast


def model(kind: str, seed: int = 0) -> Any:
    """A random model of the family, of two thin layers."""
    words = tokenizer(kind)
    shape = {
        "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096, "dtype": "float32",
        "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
    }  # fmt: skip
    torch.manual_seed(seed)
    made: Any
    if kind == "qwen3":
        made = Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=16, tie_word_embeddings=True))
    elif kind == "qwen2.5":
        made = Qwen2ForCausalLM(Qwen2Config(**shape))
    else:
        made = LlamaForCausalLM(LlamaConfig(**shape))
        if kind == "llama3":  # several tokens end a turn, and only the generation config knows them all
            made.generation_config.eos_token_id = [words.convert_tokens_to_ids(t) for t in LLAMA_TOKENS[1::3]]
    return made


def save(kind: str, folder: Path) -> Path:
    """A model folder as one is downloaded: weights, tokenizer, template."""
    model(kind).save_pretrained(folder)
    tokenizer(kind).save_pretrained(folder)
    return folder
