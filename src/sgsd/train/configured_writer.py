"""The writer that a configuration names."""

from __future__ import annotations

from typing import Any

import torch

from sgsd.config.run_config import RunConfig
from sgsd.config.sections import ModelConfig
from sgsd.config.skills_config import WriterConfig
from sgsd.rollout import Engine, Sampling, TransformersEngine
from sgsd.skills import EngineWriter, ServerSettings, ServerWriter, Writer
from sgsd.train.models import load_model, load_tokenizer, weights_hash


def make_writer(config: RunConfig, engine: Engine, tokenizer: Any, version: str = "") -> Writer:
    """The writer; `engine` samples from the policy, which may be the one to write.

    `version` tells one state of a policy that learns from another, for the cache of its answers. Raises UserError: the
    server's client, the key or the model is missing.
    """
    chosen = config.writer
    if chosen.kind == "server":
        return ServerWriter(_server(chosen))
    if chosen.kind == "vllm":
        from sgsd.skills.writers.vllm_writer import VllmWriter

        return VllmWriter(
            str(chosen.model),
            chosen.revision,
            chosen.temperature,
            chosen.max_model_len,
            thinking=chosen.thinking,
            batch=chosen.batch,
            seed=config.seed,
            options=chosen.options,
        )
    name = f"{weights_hash(config.model)[:16]} {version}".strip()
    if chosen.kind == "transformers":
        own = ModelConfig(path=str(chosen.model), revision=chosen.revision, dtype=config.model.dtype)
        tokenizer, name = load_tokenizer(own), weights_hash(own)[:16]
        model = load_model(own).to(_device(engine)).eval()
        engine = TransformersEngine(model, tokenizer, token_budget=config.compute.rollout_tokens)
    return EngineWriter(
        engine=engine,
        tokenizer=tokenizer,
        model=name,
        sampling=Sampling(temperature=chosen.temperature),
        thinking=chosen.thinking,
        context=chosen.max_model_len,
        batch=chosen.batch,
        seed=config.seed,
        template_kwargs=config.prompts.template_kwargs if chosen.kind == "policy" else {},
    )


def _server(chosen: WriterConfig) -> ServerSettings:
    return ServerSettings(
        model=str(chosen.model),
        base_url=chosen.base_url,
        key_variable=chosen.api_key_env,
        azure_version=chosen.azure_version,
        temperature=chosen.temperature,
        concurrency=chosen.batch,
        timeout=chosen.timeout,
        retries=chosen.retries,
        json_schema=chosen.json_schema,
    )


def _device(engine: Engine) -> Any:
    if isinstance(engine, TransformersEngine):
        return engine.model.device
    return "cuda" if torch.cuda.is_available() else "cpu"
