"""The things that a run gives away: the adapter or model in the layout other tools load, and its way to the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from sgsd.bank import Bank, dump_bank, open_bank
from sgsd.config.loading import read_saved
from sgsd.config.run_config import RunConfig
from sgsd.files import replacing, sha256
from sgsd.hub.model_card import base_model, render_card, vllm_remarks
from sgsd.hub.public import public_config, public_name
from sgsd.lab.demo_bank import demo_bank
from sgsd.types import UserError

#: All that may leave a folder of weights; anything else that lies there stays.
SHARED = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
)


# ── Saving ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def save_model(
    model: Any,
    tokenizer: Any,
    folder: Path,
    config: Mapping[str, Any],
    result: Mapping[str, Any],
    weights: Mapping[str, Any] | None = None,
) -> Path:
    """Write RUN/adapter or RUN/model: weights, tokenizer with its chat template, and card; complete or not at all.

    Args:
        model: What was trained. Of a PEFT model the student's adapter alone is saved.
        tokenizer: Its tokenizer.
        folder: The run folder.
        config: The run's configuration.
        result: The run's summary.
        weights: The model's, gathered, where it lies in parts over processes.
    """
    given = {} if weights is None else {"state_dict": dict(weights)}
    adapter = hasattr(model, "peft_config")
    with replacing(folder / ("adapter" if adapter else "model")) as new:
        new.mkdir(parents=True)
        if adapter:
            # "auto" would ask the hub for the base model's vocabulary, and might save embeddings that did not train.
            model.save_pretrained(new, selected_adapters=["default"], save_embedding_layers=False, **given)
            _name_base(new / "adapter_config.json", config, result)
        else:
            model.save_pretrained(new, **given)
        tokenizer.save_pretrained(new)
        card = render_card(with_layers(config, new), result, weight_hashes(new))
        (new / "README.md").write_text(card, encoding="utf-8")
    return folder / ("adapter" if adapter else "model")


def tell_vllm_remarks(config: RunConfig, console: Console) -> None:
    """Say before the training what vLLM will have against the adapter."""
    for remark in vllm_remarks(config.model_dump(mode="json")["lora"]):
        console.print(f"Note: {remark}", markup=False, soft_wrap=True)


def _name_base(path: Path, config: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Say where the base model comes from, in words that mean something on another machine."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    base = base_model(config["model"]["path"], str(result.get("model_sha256")))
    settings |= {"base_model_name_or_path": base.name, "revision": base.revision}
    for name in ("target_modules", "target_parameters"):
        if isinstance(settings.get(name), list):  # PEFT writes a set, in another order each time
            settings[name].sort()
    path.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")


def with_layers(config: Mapping[str, Any], weights: Path) -> Mapping[str, Any]:
    """The configuration with the layers that have an adapter, by name, as the adapter's own settings list them."""
    if not (weights / "adapter_config.json").is_file():
        return config
    settings = json.loads((weights / "adapter_config.json").read_text(encoding="utf-8"))
    layers = [*settings["target_modules"], *(settings.get("target_parameters") or ())]
    return {**config, "lora": {**config["lora"], "target_modules": layers}}


def weight_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each weight file."""
    return {file.name: sha256(file) for file in sorted(folder.glob("*.safetensors"))}


# ── Sharing ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Shared:
    """One file of the repository: its name there, and where its content is."""

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    @property
    def sha256(self) -> str:
        return sha256(self.content)


@dataclass(frozen=True)
class Bundle:
    """All that would be uploaded, and what lies beside it and would not."""

    files: tuple[Shared, ...]
    left_out: tuple[str, ...]

    def text(self, name: str) -> str:
        """The text of one of the files that were made for the upload."""
        return next(f.content.decode() for f in self.files if f.name == name and isinstance(f.content, bytes))


def gather(folder: Path, repo: str, *, with_bank: bool = True) -> Bundle:
    """The parts of a finished run that may be shared: weights, tokenizer, card, bank, configuration and summary.

    Raises UserError: no finished run, or its bank is not the one it was trained with.
    """
    config, result = read_run(folder)
    weights = next((folder / name for name in ("adapter", "model") if (folder / name).is_dir()), None)
    if weights is None:
        raise UserError(f"{folder}: there is neither an adapter nor a model folder; was it deleted?")
    inside = sorted(file for file in weights.iterdir() if file.name != "README.md")
    shared = [file for file in inside if file.is_file() and any(fnmatch(file.name, pattern) for pattern in SHARED)]
    hashes = weight_hashes(weights)
    if not hashes:
        raise UserError(f"{weights}: holds no safetensors file, so there is nothing to push")
    bank = run_bank(folder, config, result) if with_bank else None
    card = render_card(with_layers(config, weights), result, hashes, repo=repo, bank_beside=bank is not None)
    texts = {
        "README.md": card,
        "config.yaml": yaml.safe_dump(public_config(config), sort_keys=False, allow_unicode=True),
        "summary.json": json.dumps(public_summary(result), indent=1),
        "bank.json": None if bank is None else dump_bank(bank),
    }
    made = [Shared(name, text.encode()) for name, text in texts.items() if text is not None]
    left_out = tuple(file.name for file in inside if file not in shared)
    return Bundle((*(Shared(file.name, file) for file in shared), *made), left_out)


def read_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration and the summary of a finished run. Raises UserError where the run is not finished."""
    saved = folder / "config.yaml"
    if not saved.is_file():
        raise UserError(f"{folder}: there is no run here; name the folder that holds config.yaml and summary.json")
    if not (folder / "summary.json").is_file():
        raise UserError(
            f"{folder}: the run is not finished (there is no summary.json); go on with it: sgsd train {saved} --resume"
        )
    try:
        result = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{folder / 'summary.json'}: is not readable as JSON: {error}") from error
    return read_saved(saved), result


def run_bank(folder: Path, config: Mapping[str, Any], result: Mapping[str, Any]) -> Bank | None:
    """The bank as the run left it, the one it read where it left none, or None where the method has none.

    Raises UserError: the bank is gone, or is another one by now.
    """
    if result.get("bank_version") is None:
        return None
    own = folder / "bank.sqlite"
    path = own if own.is_file() else Path(config["bank"]["path"])
    bank = demo_bank() if str(path) == "lab" else open_bank(path)
    if bank.version != result["bank_version"]:
        raise UserError(
            f"{path}: the bank has changed since the run (it is {bank.version[:12]}, the run's was"
            f" {result['bank_version'][:12]}); put the old one back, or leave it out with --no-bank"
        )
    return bank


def public_summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """The summary without the command line, and with names for paths."""
    kept = {key: value for key, value in result.items() if key != "command"}
    return kept | ({"model": public_name(kept["model"])} if isinstance(kept.get("model"), str) else {})


def upload(
    files: Sequence[Shared], repo: str, *, private: bool, revision: str | None, message: str = "Upload by sgsd"
) -> str:
    """Put the files on the hub in one commit, as whoever is logged in there; returns the commit's address.

    Raises UserError: the hub refuses or cannot be reached, or the repository is public and should not be.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    network_error: Any = HfHubHTTPError.__mro__[1]  # of the HTTP library in use, which has changed more than once
    try:
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise UserError(
                f"{repo}: exists and is public, so nothing was uploaded; make it private, or choose another"
            )
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(file.name, file.content) for file in files]
        return api.create_commit(repo, operations, commit_message=message, revision=revision).commit_url
    except UserError:
        raise
    except (OSError, ValueError, network_error) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        hint = "; log in with: hf auth login" if status in (401, 403) or "token" in type(error).__name__.lower() else ""
        raise UserError(f"{repo}: the hub says: {' '.join(str(error).split())[:300]}{hint}") from error
