"""Models and tokenizers from a folder, the hub or the lab, with or without an adapter.

Nothing that is loaded may run: weights are safetensors, never pickles, and a model's own code runs only when asked for.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file

from sgsd.config.sections import LoraConfig, ModelConfig
from sgsd.methods import Method
from sgsd.notices import warn
from sgsd.scorer import TEACHER_ADAPTER, Scorer, is_teacher_adapter, not_finite
from sgsd.train.lora_targets import Targets, check_adapted, find_targets
from sgsd.train.teachers import (
    blend_lora,
    check_blending,
    frozen_copy,
    lora_layers,
    teacher_rank,
    teacher_weights,
)
from sgsd.types import UserError

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

#: What of a saved adapter must be what the configuration says, and where it says so.
MUST_FIT = {
    "r": "lora.rank",
    "lora_alpha": "lora.alpha",
    "target_modules": "lora.target_modules",
    "target_parameters": "lora.target_modules",
}

#: What these settings cannot describe; with any of it, the same weights would mean something else.
MUST_BE_PLAIN = ("use_rslora", "use_dora", "modules_to_save", "layers_to_transform")


def resolve_path(path: str) -> str:
    """The folder of the bundled policy for "lab", a folder of the user's, or a hub name as it is.

    Raises UserError: it is neither a folder nor a possible hub name.
    """
    if path == "lab":
        from sgsd.lab.tiny_policy import POLICY_FOLDER

        return str(POLICY_FOLDER)
    folder = Path(path).expanduser()
    if folder.is_dir():
        if (folder / ADAPTER_CONFIG).is_file():
            base = _read_json(folder / ADAPTER_CONFIG, "model.path").get("base_model_name_or_path")
            raise UserError(
                f"model.path: {path} is an adapter, not a model; set model.path to its base ({base})"
                f" and lora.start to {path}"
            )
        if not (folder / "config.json").is_file():
            raise UserError(f"model.path: {path} holds no config.json, so it is not a saved model")
        return str(folder)
    if path.count("/") > 1 or path.startswith((".", "/", "~")):
        raise UserError(f"model.path: there is no folder {path}")
    return path


def load_tokenizer(config: ModelConfig) -> Any:
    """Raises UserError when there is none at that place."""
    announce(config)
    try:
        return transformers.AutoTokenizer.from_pretrained(
            resolve_path(config.path), revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise _unloadable(config, error) from error


def load_model(config: ModelConfig) -> Any:
    """The causal language model, on the CPU, in the configured precision.

    Raises UserError: nothing there, nothing that can be trained here, or something that would run code unasked.
    """
    announce(config)
    check_weights(config)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            resolve_path(config.path),
            revision=config.revision,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attention,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise _unloadable(config, error) from error
    if getattr(model, "_hf_peft_config_loaded", False):  # transformers lays a hub adapter over its base unasked
        raise UserError(f"model.path: {config.path} is an adapter; set model.path to its base, lora.start to a copy")
    if broken := not_finite(model.named_parameters()):
        raise UserError(f"model.path: {config.path}: {broken}; get the file again, or another version of the model")
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _unloadable(config: ModelConfig, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    if "trust_remote_code" in str(error):
        folder = Path(resolve_path(config.path))
        files = ", ".join(sorted(file.name for file in folder.glob("*.py"))) or "its .py files"
        return UserError(
            f"model.path: {config.path} needs code of its own, which is not run unasked; read {files},"
            " then set model.trust_remote_code: true"
        )
    first = " ".join(str(error).split())[:240]
    if "does not support an attention implementation" in first:
        return UserError(f"model.attention: {config.path}: {first.split(' through ')[0]} {config.attention}; set eager")
    return UserError(f"model.path: {config.path} cannot be loaded as a causal language model: {first}")


def announce(config: ModelConfig) -> None:
    """Say aloud that foreign code will run; refuse a revision where there are none. Raises UserError."""
    resolved = resolve_path(config.path)
    if config.revision is not None and Path(resolved).is_dir():
        raise UserError(f"model.revision: {config.path} is a folder and has no revisions; leave it out")
    if config.trust_remote_code:
        _warn_of_code(resolved, config.revision or ("as it is" if Path(resolved).is_dir() else "the newest"))


@cache
def _warn_of_code(place: str, revision: str) -> None:
    warn(f"model.trust_remote_code: code from {place} (revision: {revision}) runs with all your rights")


def check_weights(config: ModelConfig) -> None:
    """Raises UserError for a local folder without safetensors."""
    folder = Path(resolve_path(config.path))
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    if pickles := _pickles(folder):
        raise UserError(
            f"model.path: {config.path} holds pickled weights only ({pickles[0]}), and reading a pickle can run any"
            " code; where that does no harm, load it with transformers and save it with save_pretrained"
        )
    raise UserError(f"model.path: {config.path} holds no weights (*.safetensors)")


def check_vocabulary(model: Any, tokenizer: Any) -> None:
    """Raises UserError for a tokenizer with tokens that the model has no embedding for."""
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise UserError(f"model.path: the tokenizer has {len(tokenizer)} tokens, the model {rows}; they do not match")


def _pickles(folder: Path) -> list[str]:
    return sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))


def _read_json(file: Path, key: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{key}: {file} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{key}: {file} is not an object with named values")
    return found


def make_scorer(
    model: Any,
    method: Method,
    lora: LoraConfig | None,
    seed: int,
    *,
    gradient_checkpointing: bool = False,
    temperature: float = 1.0,
) -> Scorer:
    """Put the adapters in place and say where the teacher's weights are; log-probs are those at the temperature."""
    if not method.has_teachers:
        where, copied = teacher_weights("live", lora=lora is not None), None
    else:
        where = teacher_weights(method.teacher, lora=lora is not None)
        if where == "base" and lora is not None and lora.start is not None:
            where = "adapter"  # with the adapter off the teacher would be older than the student's first state
        copied = frozen_copy(model) if where == "copy" else None
    if lora is not None:
        torch.manual_seed(seed)
        targets = find_targets(model, lora.target_modules)
        model = _with_adapter(model, lora, targets)
        if where == "adapter":
            model.add_adapter(TEACHER_ADAPTER, _peft_config(lora, targets, teacher_rank(method.teacher, lora)))
            model.set_adapter("default")
            for name, parameter in model.named_parameters():
                if is_teacher_adapter(name):
                    parameter.requires_grad_(False)
            check_blending(method.teacher, model)
            if lora.start is not None:
                with torch.no_grad():
                    for layer in lora_layers(model):
                        blend_lora(layer, decay=0.0)  # the teacher begins where the student does
        if gradient_checkpointing:
            model.enable_input_require_grads()
    model.train()  # dropout, and gradient checkpointing, which transformers leaves out in eval mode
    return Scorer(model, teacher_weights=where, teacher_copy=copied, temperature=temperature)


def _with_adapter(model: Any, lora: LoraConfig, targets: Targets) -> Any:
    if targets.parameters and lora.dropout > 0:
        raise UserError(
            f"lora.dropout: PEFT has none for {', '.join(targets.parameters)}, which are parameters and no layers;"
            " set 0, or name other layers in lora.target_modules"
        )
    try:
        adapted = peft.get_peft_model(model, _peft_config(lora, targets, lora.rank))
    except ValueError as error:
        raise UserError(f"lora.target_modules: {' '.join(str(error).split())[:240]}") from error
    check_adapted(adapted, lora.target_modules)
    if lora.start is not None:
        _start_from(adapted, lora.start)
    return adapted


def _start_from(adapted: Any, start: str) -> None:
    """Put a saved adapter's weights in place. Raises UserError unless it is the adapter that was configured."""
    folder = Path(start).expanduser()
    if not (folder / ADAPTER_CONFIG).is_file():
        raise UserError(f"lora.start: {start} holds no {ADAPTER_CONFIG}, so it is not a saved adapter")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        found = f"pickled weights only ({pickles[0]})" if (pickles := _pickles(folder)) else "no weights"
        raise UserError(f"lora.start: {start} holds {found}; save it again with PEFT, as {ADAPTER_WEIGHTS}")
    saved, ours = _read_json(folder / ADAPTER_CONFIG, "lora.start"), adapted.peft_config["default"].to_dict()
    odd = [name for name in MUST_BE_PLAIN if saved.get(name)]
    odd += [name for name in ("rank_pattern", "alpha_pattern") if (saved.get(name) or {}) != (ours[name] or {})]
    if odd or saved.get("peft_type") != "LORA" or saved.get("bias", "none") != "none":
        what = odd[0] if odd else f"{saved.get('peft_type')}, bias {saved.get('bias')}"
        raise UserError(f"lora.start: {start} is no plain LoRA adapter ({what}); it cannot be continued here")
    for name, key in MUST_FIT.items():
        there, here = (_in_order(value) or None for value in (saved.get(name), ours[name]))
        if there != here:
            raise UserError(f"{key}: the adapter {start} has {there}, the configuration {here}; make them the same")
    try:
        weights = load_file(folder / ADAPTER_WEIGHTS)
        result = peft.set_peft_model_state_dict(adapted, dict(weights))
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"lora.start: {start} does not fit: {' '.join(str(error).split())[:240]}") from error
    strange = [*result.unexpected_keys, *(name for name in result.missing_keys if ".lora_" in name)]
    if strange:
        raise UserError(f"lora.start: {start} does not fit this model, for instance in {strange[0]}")
    if broken := not_finite(weights.items()):
        raise UserError(f"lora.start: {start}: {broken}")


def _in_order(value: Any) -> Any:
    return sorted(value) if isinstance(value, list | set) else value


def _peft_config(lora: LoraConfig, targets: Targets, rank: int) -> peft.LoraConfig:
    return peft.LoraConfig(
        r=rank,
        lora_alpha=lora.alpha * rank // lora.rank,  # the same scaling for every rank
        lora_dropout=lora.dropout,
        target_modules=targets.modules,
        target_parameters=targets.parameters or None,
        task_type="CAUSAL_LM",
    )


def weights_hash(config: ModelConfig) -> str:
    """SHA-256 over a local folder's weight files, or the hub's own name for the version loaded."""
    folder = Path(resolve_path(config.path))
    if not folder.is_dir():
        loaded = transformers.AutoConfig.from_pretrained(
            config.path, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
        return f"hub:{config.path}@{loaded._commit_hash}"
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
