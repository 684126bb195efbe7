"""Tiny random models of the architectures that people train, and the layers that an adapter goes on by default."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 4096,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 2, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
LINEAR_ATTENTION = {
    "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip

ATTENTION, MLP = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}
FUSED_EXPERTS = {"gate_up_proj", "down_proj"}
GATED = {"in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj"}

#: Class of the configuration, what it has of its own, and the layers.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "qwen2": ("Qwen2Config", {}, ATTENTION | MLP),
    "qwen3": ("Qwen3Config", {"head_dim": 16}, ATTENTION | MLP),
    "qwen3-moe": ("Qwen3MoeConfig", {"head_dim": 16, **EXPERTS}, ATTENTION | FUSED_EXPERTS),
    "llama": ("LlamaConfig", {}, ATTENTION | MLP),
    "mistral": ("MistralConfig", {"head_dim": 16}, ATTENTION | MLP),
    "phi-3": ("Phi3Config", {}, {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}),
    "gemma-2": ("Gemma2Config", {"head_dim": 16, "final_logit_softcapping": 2.0}, ATTENTION | MLP),
    "gemma-3": ("Gemma3TextConfig", {"head_dim": 16}, ATTENTION | MLP),
    "glm-4": ("Glm4Config", {"head_dim": 16}, ATTENTION | {"gate_up_proj", "down_proj"}),
    "granite": ("GraniteConfig", {"logits_scaling": 8.0}, ATTENTION | MLP),
    "falcon-h1": (
        "FalconH1Config",
        {"head_dim": 16, "lm_head_multiplier": 0.04, **MAMBA},
        ATTENTION | MLP | {"in_proj"},
    ),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4}, ATTENTION | FUSED_EXPERTS),
    "qwen3.5": ("Qwen3_5TextConfig", {"head_dim": 16, **LINEAR_ATTENTION}, ATTENTION | MLP | GATED),
}

#: Some more, for what they do differently.
OTHERS: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "qwen3-next": (  # experts beside a shared one, whose layers PEFT takes for the experts'
        "Qwen3NextConfig",
        {"head_dim": 16, "shared_expert_intermediate_size": 16, **EXPERTS, **LINEAR_ATTENTION},
        ATTENTION | FUSED_EXPERTS | {"gate_proj", "up_proj", "in_proj_qkvz", "in_proj_ba", "out_proj"},
    ),
    "gpt-2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 2}, {"c_attn", "c_proj", "c_fc"}),  # no nn.Linear
    "gpt-oss": (
        "GptOssConfig",
        {"head_dim": 16, "num_local_experts": 4},
        ATTENTION | FUSED_EXPERTS,
    ),  # stacks [E, in, out]
    # It calls a part of its body by itself.
    "opt": (
        "OPTConfig",
        {"ffn_dim": 48, "word_embed_proj_dim": 32, "do_layer_norm_before": True},
        {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    ),
    "cohere": ("CohereConfig", {"logit_scale": 0.0625}, ATTENTION | MLP),
    "minicpm-3": (  # a factor before the head
        "MiniCPM3Config",
        {
            **{"num_key_value_heads": 2, "q_lora_rank": 8, "kv_lora_rank": 8, "dim_model_base": 16},
            **{"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16},
        },
        MLP | {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"},
    ),
}


def settings(kind: str, **changes: Any) -> PreTrainedConfig:
    name, own, _ = {**ARCHITECTURES, **OTHERS}[kind]
    ids = {"vocab_size": 131, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    made: PreTrainedConfig = getattr(transformers, name)(**{**SIZES, **ids, **own, **changes})
    return made


def model(kind: str, *, sharper: float = 5.0, **changes: Any) -> Any:
    """Random weights; those of the default scale would give nearly flat distributions."""
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(settings(kind, **changes)).float()
    for parameter in made.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(sharper)
    return made


def layers(kind: str) -> set[str]:
    """The last names of the layers that get an adapter by default."""
    return {**ARCHITECTURES, **OTHERS}[kind][2]


def wander(scorer: Any, seed: int = 1, size: float = 0.2) -> None:
    """As if the student's adapter had been trained."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in scorer.model.named_parameters():
        if "lora_" in name and ".default" in name:
            parameter.data += size * torch.randn(parameter.shape, generator=generator)
