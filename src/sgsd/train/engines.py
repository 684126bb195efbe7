"""Which engine rollouts come from, and how the policy's weights get there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from sgsd.config.run_config import RunConfig
from sgsd.distributed.processes import from_first
from sgsd.distributed.replicated import Strategy, WholeEngine
from sgsd.hub.model_card import VLLM_RANKS, vllm_rank
from sgsd.rollout import (
    BackgroundEngine,
    Engine,
    ServerEngine,
    ServerSettings,
    Snapshots,
    TransformersEngine,
    Untrained,
    VllmEngine,
    VllmSettings,
)
from sgsd.rollout.server_engine import key_from
from sgsd.train.models import resolve_path
from sgsd.types import UserError

BATCHED_TOKENS = 4096  # of prompts that vLLM reads in one go, on CPUs


def make_engine(
    config: RunConfig, accelerator: Accelerator, strategy: Strategy, policy: Any, own: TransformersEngine
) -> Engine:
    """The configured engine; vLLM is started, and a server first spoken to, by the first sync.

    Args:
        policy: what is trained, with its adapter where it has one.
        own: the engine that samples from it in this process.

    Raises:
        UserError: vLLM cannot hold what is trained, or is not told what it must be told.
    """
    engine = _make_engine(config, accelerator, strategy, policy, own)
    return BackgroundEngine(engine, accelerator.wait_for_everyone) if config.rollout.prefetch else engine


def _make_engine(
    config: RunConfig, accelerator: Accelerator, strategy: Strategy, policy: Any, own: TransformersEngine
) -> Engine:
    if config.rollout.engine == "transformers":
        return WholeEngine(own, strategy) if strategy.in_parts else own
    if strategy.in_parts:
        raise UserError(
            f"rollout.engine: {config.rollout.engine} is given whole weights, of which a process has only a part under"
            f" {strategy.kind}; use transformers, or a launch that keeps them whole"
        )
    return outside_engine(config, accelerator, own, make_snapshots(config, accelerator.process_index, policy))


def outside_engine(
    config: RunConfig, accelerator: Accelerator, own: TransformersEngine, snapshots: Snapshots | Untrained
) -> Engine:
    """vLLM in a process of its own or behind servers, given the policy by `snapshots`; `own` knows model and tokens."""
    decode = partial(own.tokenizer.decode, skip_special_tokens=False)
    if config.rollout.engine == "vllm":
        settings = vllm_settings(config, accelerator, own.model.config)
        return VllmEngine(settings, snapshots, lambda ids: str(decode(list(ids))), own.end_ids)
    return ServerEngine(
        server_settings(config, own.model.config, accelerator.num_processes),
        snapshots,
        lambda ids: str(decode(list(ids))),
        own.end_ids,
        partial(from_first, accelerator),
    )


def close_engine(engine: Engine) -> None:
    """End what the engine has started and remove what it has written; garbage collection would do so later."""
    getattr(engine, "close", lambda: None)()


def make_snapshots(config: RunConfig, rank: int, policy: Any) -> Snapshots:
    given = config.rollout.folder
    root = Path(given).expanduser().resolve() if given else config.folder.resolve() / "engine"
    kind = "weights" if config.lora is None else "adapter"
    return Snapshots(root, kind, partial(save_policy, policy), rank, shared=given is not None)  # type: ignore[arg-type]


def save_policy(policy: Any, folder: Path) -> None:
    """The weights as they are: of a PEFT model the student's adapter alone, and never merged."""
    if hasattr(policy, "peft_config"):
        policy.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
    else:
        policy.save_pretrained(folder)


def vllm_settings(config: RunConfig, accelerator: Accelerator, model: Any) -> VllmSettings:
    rollout = config.rollout
    if rollout.tensor_parallel > 1 and accelerator.num_processes > 1:
        raise UserError(
            "rollout.tensor_parallel: each of several processes has an engine on its own device; use 1, or a server"
        )
    room = max_model_len(config, model)
    # An engine should share the precision of the trainer's passes.
    precision = "bfloat16" if accelerator.mixed_precision == "bf16" else config.model.dtype
    # After each piece of a prompt vLLM takes a random number back, which CPUs' generators cannot: read none in pieces.
    whole_prompts = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(room, BATCHED_TOKENS)}
    options = {
        "dtype": rollout.dtype or precision,
        "max_model_len": room,
        "seed": config.seed,
        "logprobs_mode": f"{config.rollout.logprobs}_logprobs",
        "revision": config.model.revision,
        "tokenizer_revision": config.model.revision,
        "trust_remote_code": config.model.trust_remote_code,
        "tensor_parallel_size": rollout.tensor_parallel,
        **(
            {} if rollout.gpu_memory_utilization is None else {"gpu_memory_utilization": rollout.gpu_memory_utilization}
        ),
        **({} if accelerator.device.type != "cpu" else whole_prompts),
        **rollout.options,
    }
    return VllmSettings(
        model=resolve_path(config.model.path),
        log=config.folder / "vllm.log",
        options=options,
        max_rank=max_rank(config),
        sleep=rollout.sleep,
        start=rollout.start_timeout,
        silence=rollout.timeout,
        retries=rollout.retries,
        environment=environment(accelerator.device, rollout.tensor_parallel, rollout.gpu_memory_utilization),
    )


def max_rank(config: RunConfig) -> int | None:
    """Of the adapter, as one of vLLM's sizes. Raises UserError where there is none so large."""
    if config.lora is None:
        return None
    rank = vllm_rank(config.lora.rank)
    if rank is None:
        raise UserError(f"lora.rank: vLLM takes adapters up to rank {VLLM_RANKS[-1]}, this one has {config.lora.rank}")
    return rank


def server_settings(config: RunConfig, model: Any, processes: int) -> ServerSettings:
    rollout = config.rollout
    urls = (rollout.base_url,) if isinstance(rollout.base_url, str) else tuple(rollout.base_url or ())
    return ServerSettings(
        urls=urls,
        key=key_from(rollout.api_key_env),
        dtype=rollout.dtype or "bfloat16",  # it does not say, and most do
        context=max_model_len(config, model),
        concurrency=max(1, rollout.concurrency // processes),
        start=rollout.start_timeout,
        timeout=rollout.timeout,
        retries=rollout.retries,
    )


def max_model_len(config: RunConfig, model: Any) -> int:
    """Tokens that a prompt and its completion may have together: all that the run may ask for, if nothing is set."""
    if config.rollout.max_model_len is not None:
        return config.rollout.max_model_len
    longest = config.sampling.max_tokens
    if config.evaluation.data is not None:
        longest = max(longest, config.evaluation.sampling.max_tokens)
    wanted = config.prompts.max_tokens + longest
    if config.skills.every and config.writer.kind == "policy":
        wanted = max(wanted, config.writer.max_model_len)
    positions = getattr(model, "max_position_embeddings", None) or wanted
    return min(wanted, positions)


def environment(device: torch.device, tensor_parallel: int, memory: float | None = None) -> Mapping[str, str]:
    """Of vLLM's process: what it must not find out by itself."""
    told = {
        # Its engine in the process that we watch, and not in a further one behind it.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
    }
    if device.type == "cpu":
        # It would bind itself to the trainer's cores, and reserve nearly all memory for keys and values.
        usual = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        if memory is None:
            usual["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB
        return {**told, **{name: os.environ.get(name, value) for name, value in usual.items()}}
    if device.type == "cuda" and tensor_parallel == 1:
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        own = device.index or 0
        return {**told, "CUDA_VISIBLE_DEVICES": visible[own] if visible else str(own)}
    return told
