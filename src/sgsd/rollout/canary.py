"""The request an engine must answer before it is trusted with rollouts, and the problems of vLLM that are known."""

from __future__ import annotations

import re

#: Ids that every vocabulary has, as many as a short prompt: of no meaning, and nobody reads the answer.
CANARY = tuple(range(16, 64))
SHORT_PROMPT = 8  # tokens; with about 5 a worker in bfloat16 has been seen to die


def known_vllm_problem(text: str, shortest: int, dtype: str) -> str:
    """Name the problem that vLLM is known to have on CPUs which a failure looks like, or say that it is none.

    Args:
        text: all that is known of the failure.
        shortest: tokens of the shortest prompt under way; 0 where there was none.
        dtype: what the engine computes in.
    """
    if re.search(r"head_dim=16\b|head[_ ]size.{0,20}\b16\b", text):
        return "vLLM on CPUs has no attention for heads of 16 (head_dim); take a model with larger ones"
    if "Generator does not use offset" in text:
        return (
            "vLLM on CPUs cannot read the prompts of seeded requests in pieces; start it with chunked prefill off"
            " (enable_chunked_prefill false) and max_num_batched_tokens of at least a prompt"
        )
    if 0 < shortest <= SHORT_PROMPT and dtype == "bfloat16":
        return (
            f"vLLM on CPUs has been seen to die in bfloat16 of prompts of about 5 tokens, and the shortest here has"
            f" {shortest}; set rollout.dtype: float32, or a longer prompt"
        )
    return "none of the troubles known of vLLM on CPUs (heads of 16; prompts in pieces, or of about 5 tokens)"
