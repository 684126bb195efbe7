"""Models and tokenizers from a folder, the hub or the lab, with or without an adapter."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors import SafetensorError

from sgsd.method import Method
from sgsd.scorer import TEACHER_ADAPTER, Scorer
from sgsd.train.sections import LoraConfig, ModelConfig
from sgsd.train.teachers import frozen_copy, teacher_rank, teacher_weights
from sgsd.types import UserError


def resolve_path(path: str) -> str:
    """The folder of the bundled policy for "lab", a folder of the user's, or a hub name as it is.

    Raises:
        UserError: it is neither a folder nor a possible hub name.
    """
    if path == "lab":
        from sgsd.lab.policy import POLICY_FOLDER

        return str(POLICY_FOLDER)
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"model.path: {path} holds no config.json, so it is not a saved model")
        return str(folder)
    if path.count("/") > 1 or path.startswith((".", "/", "~")):
        raise UserError(f"model.path: there is no folder {path}")
    return path


def load_tokenizer(config: ModelConfig) -> Any:
    """Raises UserError when there is none at that place."""
    try:
        return transformers.AutoTokenizer.from_pretrained(
            resolve_path(config.path), revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise _unloadable(config, error) from error


def load_model(config: ModelConfig) -> Any:
    """The causal language model, on the CPU, in the configured precision.

    Raises:
        UserError: nothing there, or nothing that can be trained here.
    """
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            resolve_path(config.path),
            revision=config.revision,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attention,
            trust_remote_code=config.trust_remote_code,
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise _unloadable(config, error) from error
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _unloadable(config: ModelConfig, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    first = " ".join(str(error).split())[:240]
    return UserError(f"model.path: {config.path} cannot be loaded as a causal language model: {first}")


def make_scorer(
    model: Any, method: Method, lora: LoraConfig | None, seed: int, *, gradient_checkpointing: bool = False
) -> Scorer:
    """Put the adapters in place and say where the teacher's weights are."""
    if not method.has_teachers:
        where, copied = teacher_weights("live", lora=lora is not None), None
    else:
        where = teacher_weights(method.teacher, lora=lora is not None)
        copied = frozen_copy(model) if where == "copy" else None
    if lora is not None:
        torch.manual_seed(seed)
        model = _with_adapter(model, lora)
        if where == "adapter":
            model.add_adapter(TEACHER_ADAPTER, _peft_config(lora, teacher_rank(method.teacher, lora)))
            model.set_adapter("default")
            for name, parameter in model.named_parameters():
                if f".{TEACHER_ADAPTER}." in name:
                    parameter.requires_grad_(False)
        if gradient_checkpointing:
            model.enable_input_require_grads()
    model.train()  # dropout, and gradient checkpointing, which transformers leaves out in eval mode
    return Scorer(model, teacher_weights=where, teacher_copy=copied)


def _with_adapter(model: Any, lora: LoraConfig) -> Any:
    try:
        return peft.get_peft_model(model, _peft_config(lora, lora.rank))
    except ValueError as error:
        raise UserError(f"lora.targets: {' '.join(str(error).split())[:240]}") from error


def _peft_config(lora: LoraConfig, rank: int) -> peft.LoraConfig:
    return peft.LoraConfig(
        r=rank,
        lora_alpha=lora.alpha * rank // lora.rank,  # the same scaling for every rank
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        task_type="CAUSAL_LM",
    )


def weights_hash(config: ModelConfig) -> str:
    """SHA-256 over a local folder's weight files, or the hub's own name for the version loaded."""
    folder = Path(resolve_path(config.path))
    if not folder.is_dir():
        loaded = transformers.AutoConfig.from_pretrained(config.path, revision=config.revision)
        return f"hub:{config.path}@{loaded._commit_hash}"
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
