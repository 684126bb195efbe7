"""Stand-ins for what the configs name on the hub: tiny models with real templates, files with the real columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config

CHATML = """{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"""
TEMPLATES = {
    "qwen3": CHATML
    + """{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}""",
    "qwen2.5": "{%- if messages[0].role != 'system' %}"
    + "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{%- endif %}"
    + CHATML
    + "{%- endif %}",
    "llama": """{{ '<|begin_of_text|>' }}{%- for m in messages %}{{ '<|start_header_id|>' + m.role
 + '<|end_header_id|>\n\n' + m.content + '<|eot_id|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}""",
}
SPECIAL = {
    "qwen3": ("<|endoftext|>", "<|im_end|>", ["<|im_start|>"]),
    "qwen2.5": ("<|endoftext|>", "<|im_end|>", ["<|im_start|>"]),
    "llama": (
        "<|finetune_right_pad_id|>",
        "<|eot_id|>",
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"],
    ),
}
CONFIGS: dict[str, Any] = {"qwen3": Qwen3Config, "qwen2.5": Qwen2Config, "llama": LlamaConfig}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 40_960,
}


def save_model(folder: Path, kind: str) -> Path:
    """A random model of this architecture with a tokenizer of single bytes, saved as the hub's are."""
    pad, end, others = SPECIAL[kind]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, eos_token=end)
    fast.add_special_tokens({"additional_special_tokens": others})
    if kind == "qwen3":
        fast.add_tokens(["<think>", "</think>"])
    fast.chat_template = TEMPLATES[kind]
    torch.manual_seed(0)
    extra = {"head_dim": 16} if kind == "qwen3" else {}
    ids = {"eos_token_id": fast.eos_token_id, "pad_token_id": fast.pad_token_id, "bos_token_id": None}
    model = AutoModelForCausalLM.from_config(CONFIGS[kind](vocab_size=len(fast), **SIZES, **extra, **ids))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


# ── Rows with the columns of the published data ────────────────────────────────────────────────────────────────────

SUMS = [(f"What is {i} + {2 * i}?", str(3 * i)) for i in range(1, 9)]
DERIVATION = "Adding the two numbers gives ${gold}$, so the answer is $\\boxed{{{gold}}}$."


def dapo_row(problem: str, gold: str) -> dict[str, Any]:
    from sgsd.data.row_layouts import DAPO_FRAME

    return {
        "data_source": "math_dapo",
        "prompt": [{"content": problem.join(DAPO_FRAME), "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": gold, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": f"id-{gold}"},
    }


def conversational_row(problem: str, gold: str) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": problem}], "solution": DERIVATION.format(gold=gold)}


def turns_row(problem: str, gold: str) -> dict[str, Any]:
    from sgsd.data.row_layouts import OPENTHOUGHTS_FRAME

    answer = (
        "<|begin_of_thought|>\n\nHm, \\boxed{0}? No.\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n"
        f"{DERIVATION.format(gold=gold)}\n\n<|end_of_solution|>"
    )
    asked = problem.join(OPENTHOUGHTS_FRAME)
    turns = [{"from": "user", "value": asked}, {"from": "assistant", "value": answer}]
    return {"system": "Your role is to think first.", "conversations": turns}


def metadata_row(problem: str, gold: str, domain: str = "math") -> dict[str, Any]:
    return {
        "problem": problem,
        "deepseek_reasoning": "Hm.",
        "deepseek_solution": DERIVATION.format(gold=gold),
        "ground_truth_solution": DERIVATION.format(gold=gold),
        "domain": domain,
        "source": "numina_math",
        "test_cases": None,
        "starter_code": None,
    }


def plain_row(problem: str, gold: str) -> dict[str, Any]:
    return {"problem": problem, "answer": gold}


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return str(path)


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_bank(path: Path) -> str:
    """Eight skills and eight mistakes in the published layout."""
    skills = [
        {"skill_id": f"s{i}", "title": f"Rule {i}", "principle": "Add the tens first.", "when_to_apply": "In sums."}
        for i in range(8)
    ]
    mistakes = [
        {"mistake_id": f"m{i}", "description": f"Slip {i}", "why_it_happens": "Haste.", "how_to_avoid": "Check."}
        for i in range(8)
    ]
    path.write_text(json.dumps({"general_skills": skills, "common_mistakes": mistakes, "metadata": {}}))
    return str(path)
