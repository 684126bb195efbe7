"""Checkpoints: a folder that is complete or absent, with a SHA-256 of every file.

Everything random in a run is a function of the seed and an index, so weights, optimizer, teacher, the step and the
lengths of the run's files are all there is to remember.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sgsd.scorer import TEACHER_ADAPTER
from sgsd.types import UserError

MANIFEST = "manifest.json"
CONTENT = {"weights.safetensors", "optimizer.pt", "position.json"}


@dataclass(frozen=True)
class Position:
    """Where a run stands."""

    step: int
    offsets: dict[str, int]
    fingerprint: dict[str, str]  # hashes of what the run was started with: configuration, data, bank, model


def stateful_tensors(scorer: nn.Module) -> dict[str, Tensor]:
    """What training changes: the weights with a gradient, and a teacher's own."""
    return {
        name: parameter.detach()
        for name, parameter in scorer.named_parameters()
        if parameter.requires_grad or f".{TEACHER_ADAPTER}." in name or name.startswith("teacher_copy.")
    }


def save_checkpoint(
    root: Path, position: Position, scorer: nn.Module, optimizer: torch.optim.Optimizer, *, keep: int
) -> Path:
    """Write `root/step-NNNNNN` and prune older ones down to `keep`."""
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"step-{position.step:06d}"
    temporary = root / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    # Tied weights are one tensor under two names; safetensors wants each its own memory.
    save_file(
        {k: v.contiguous().cpu().clone() for k, v in stateful_tensors(scorer).items()},
        temporary / "weights.safetensors",
    )
    torch.save(optimizer.state_dict(), temporary / "optimizer.pt")
    (temporary / "position.json").write_text(json.dumps(asdict(position)))
    hashes = {file.name: _sha256(file) for file in sorted(temporary.iterdir())}
    (temporary / MANIFEST).write_text(json.dumps(hashes, indent=1))
    for file in temporary.iterdir():
        _fsync(file)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    _fsync(root)
    saved = checkpoints(root)
    place = saved.index(final)
    # Whatever lies behind this step belongs to a past that a resumed run has left.
    for old in [*saved[: max(0, place + 1 - keep)], *saved[place + 1 :]]:
        shutil.rmtree(old)
    return final


def load_checkpoint(folder: Path, scorer: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    """Put weights and optimizer back as they were; returns where the run stood."""
    saved = load_file(folder / "weights.safetensors")
    current = stateful_tensors(scorer)
    if saved.keys() != current.keys():
        odd = sorted(saved.keys() ^ current.keys())[0]
        raise UserError(
            f"{folder}: the checkpoint does not fit this model (for instance {odd}); was the config changed?"
        )
    for name, tensor in current.items():
        tensor.copy_(saved[name])
    optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
    return Position(**json.loads((folder / "position.json").read_text()))


def newest_good(root: Path) -> Path | None:
    """The latest checkpoint whose every file has the hash it was written with."""
    return next((folder for folder in reversed(checkpoints(root)) if is_good(folder)), None)


def checkpoints(root: Path) -> list[Path]:
    return sorted(root.glob("step-*")) if root.is_dir() else []


def is_good(folder: Path) -> bool:
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return False
    try:
        hashes = json.loads(manifest.read_text())
    except ValueError:  # torn by a crash
        return False
    if not isinstance(hashes, dict) or not hashes.keys() >= CONTENT:
        return False
    return all((folder / name).is_file() and _sha256(folder / name) == digest for name, digest in hashes.items())


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
