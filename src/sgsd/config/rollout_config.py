"""The section of a configuration about the engine that samples rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from sgsd.config.base import Section

#: The engines for which each of these settings has a meaning.
ENGINE_KEYS = {
    ("vllm",): ("gpu_memory_utilization", "tensor_parallel", "sleep", "options"),
    ("server",): ("base_url", "api_key_env", "concurrency"),
    ("vllm", "server"): ("prefetch", "dtype", "max_model_len", "folder", "start_timeout", "timeout", "retries"),
}
#: vLLM's options that follow from other settings, or must be as they are for rollouts to be the policy's.
RESERVED_OPTIONS = {
    "model", "revision", "dtype", "seed", "max_model_len", "tensor_parallel_size", "gpu_memory_utilization",
    "generation_config", "logprobs_mode", "enable_lora", "max_lora_rank", "max_loras", "enable_sleep_mode",
    "worker_extension_cls", "trust_remote_code", "tokenizer_revision",
}  # fmt: skip


class RolloutConfig(Section):
    """The engine that samples: transformers in this process, vLLM beside it, or vLLM servers. See docs/vllm.md."""

    engine: Literal["transformers", "vllm", "server"] = "transformers"
    """transformers in the trainer's process, vllm in a process beside it, or running vLLM servers."""
    logprobs: Literal["raw", "processed"] = "raw"
    """Log-probs of sampler and trainer: the model's own (raw), or those at sampling.temperature (processed)."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Precision in vLLM; none: the trainer's, and bfloat16 for a server, which does not report its own."""
    max_model_len: PositiveInt | None = None
    """Tokens of a prompt and its completion together in vLLM; none: as many as the run may ask for."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """Share of the device's memory that vLLM takes; none: vLLM's own default."""
    tensor_parallel: PositiveInt = 1
    """Devices over which vLLM spreads each matrix."""
    sleep: Literal[1, 2] | None = None
    """vLLM gives memory back between samplings: 1 keeps the weights in main memory, 2 drops them; none: never."""
    prefetch: bool = False
    """Sample the next step's rollouts while this step trains: from the second step on they are one update stale."""
    options: dict[str, Any] = Field(default={})
    """Further arguments of vLLM by name, for instance max_num_seqs."""
    base_url: str | list[str] | None = None
    """Address of a running vLLM server, or of several, which share the rollouts."""
    api_key_env: str = "VLLM_API_KEY"
    """Name of the environment variable with the servers' key; empty or not set: no key is sent."""
    concurrency: PositiveInt = 256
    """Requests in flight at a time, over all servers."""
    folder: str | None = None
    """Folder for handing over weights, which a server must see under the same path; none: RUN/engine."""
    start_timeout: PositiveFloat = 600.0
    """Seconds until vLLM must be up, or a lost server must be back."""
    timeout: PositiveFloat = 1800.0
    """Seconds a request to a server may take, or vLLM beside the trainer may be silent between two completions."""
    retries: NonNegativeInt = 2
    """Further tries of a call after the engine died, hung or returned too little."""
    mismatch_warning: PositiveFloat | None = None
    """Mean gap between sampler and trainer, nats a token, that is worth a warning; none: half of what stops the run."""
    importance_cap: PositiveFloat | None = None
    """Weigh each token's loss by min(student / sampler probability, this); none: no weighing."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        for engines, keys in ENGINE_KEYS.items():
            for key in keys:
                default = type(self).model_fields[key].get_default()
                if self.engine not in engines and getattr(self, key) != default:
                    yield key, f"means something to {' and '.join(engines)}, not to engine {self.engine}"
        if self.engine == "server" and not self.base_url:
            yield "base_url", "where is the server? for instance http://127.0.0.1:8000/v1"
        if self.prefetch and self.sleep is not None:
            yield "sleep", "with rollout.prefetch the engine is never idle; leave out one of the two"
        if reserved := sorted(set(self.options) & RESERVED_OPTIONS):
            yield "options", f"{reserved[0]} is set by the engine itself; see docs/vllm.md"
