"""Checkpoints: a folder that is complete or absent, with a SHA-256 of every file.

Everything random in a run is a function of the seed and an index, and so are the learning rate and the order of the
problems: weights, optimizer, teacher, the step, the bank's event and the lengths of the run's files are all there is
to remember.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sgsd.distributed.replicated import Strategy
from sgsd.files import replacing, sha256
from sgsd.scorer import is_teacher_adapter
from sgsd.types import UserError

MANIFEST = "manifest.json"
WEIGHTS, OPTIMIZER, POSITION = "weights.safetensors", "optimizer.pt", "position.json"


@dataclass(frozen=True)
class Position:
    """A run's position: its step, the lengths of its files, and what it was started from."""

    step: int
    offsets: dict[str, int]
    fingerprint: dict[str, str]  # hashes of the files that the run was started with: data, prompts, bank, model
    config: dict[str, Any] = field(default_factory=dict)
    bank_event: int = 0  # of the run's own bank; 0: the method needs none
    bank_version: str = ""
    pending: bool = False  # whether the next step's rollouts are kept with it

    @property
    def name(self) -> str:
        """With rollouts it is another folder, later in order: a checkpoint that is good is never written over."""
        return f"step-{self.step:06d}" + ("-pending" if self.pending else "")


def stateful_parameters(scorer: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a checkpoint holds: those with a gradient, and a teacher's own."""
    return {
        name: parameter
        for name, parameter in scorer.named_parameters()
        if parameter.requires_grad or is_teacher_adapter(name) or name.startswith("teacher_copy.")
    }


def save_checkpoint(
    root: Path,
    position: Position,
    scorer: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    keep: int,
    beside: Mapping[str, str] | None = None,
    strategy: Strategy | None = None,
) -> Path:
    """Write `root/step-NNNNNN`, with the texts of `beside` as further files, and prune older ones down to `keep`.

    All processes call it, for weights that lie in parts are gathered; the first one writes. What it writes is the same
    whatever the launch.
    """
    weights, state = gathered(scorer, optimizer, strategy or Strategy())
    final = root / position.name
    if strategy is not None and strategy.accelerator is not None and not strategy.accelerator.is_main_process:
        return final
    root.mkdir(parents=True, exist_ok=True)
    with replacing(final) as new:
        new.mkdir()
        save_file(weights, new / WEIGHTS)
        torch.save(state, new / OPTIMIZER)
        for name, text in {POSITION: json.dumps(asdict(position)), **(beside or {})}.items():
            (new / name).write_text(text, encoding="utf-8")
        hashes = {file.name: sha256(file) for file in sorted(new.iterdir())}
        (new / MANIFEST).write_text(json.dumps(hashes, indent=1))
    prune(root, final, keep)
    return final


def gathered(scorer: nn.Module, optimizer: Any, strategy: Strategy) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Whole weights and the optimizer's whole state, on the first process; the others help and keep nothing."""
    first = strategy.accelerator is None or strategy.accelerator.is_main_process
    strategy.settle()
    weights: dict[str, Tensor] = {}
    for name, parameter in stateful_parameters(scorer).items():
        value = strategy.read(parameter).detach()
        if first:  # a copy: training goes on while the file is written
            weights[name] = value.contiguous().cpu().clone()
    return weights, strategy.optimizer_state(optimizer)


def prune(root: Path, newest: Path, keep: int) -> None:
    """Remove all but the `keep` latest checkpoints up to `newest`, once that one has been read back.

    Whatever lies behind it belongs to a past that a resumed run has left, and goes too. Raises UserError: `newest` is
    not what was written; then nothing is removed.
    """
    saved = checkpoints(root)
    place = saved.index(newest)
    superfluous = [*saved[: max(0, place + 1 - keep)], *saved[place + 1 :]]
    if superfluous and (wrong := damage(newest)):
        raise UserError(f"{newest}: {wrong} right after it was written; older ones are kept; check the disk")
    for old in superfluous:
        shutil.rmtree(old)


def read_position(folder: Path) -> Position:
    return Position(**json.loads((folder / POSITION).read_text(encoding="utf-8")))


def load_checkpoint(
    folder: Path, scorer: nn.Module, optimizer: torch.optim.Optimizer, strategy: Strategy | None = None
) -> Position:
    """Put weights and optimizer back as they were; returns where the run stood.

    Raises UserError: the checkpoint is another model's.
    """
    strategy = strategy or Strategy()
    strategy.settle()
    saved = load_file(folder / WEIGHTS)
    current = stateful_parameters(scorer)
    if saved.keys() != current.keys():
        odd = sorted(saved.keys() ^ current.keys())[0]
        raise UserError(
            f"{folder}: the checkpoint does not fit this model (for instance {odd}); was the config changed?"
        )
    with torch.no_grad():
        for name, parameter in current.items():
            strategy.write(parameter, saved[name])
    strategy.load_optimizer_state(optimizer, torch.load(folder / OPTIMIZER, weights_only=True))
    return read_position(folder)


def examine(root: Path) -> tuple[Path | None, dict[str, str]]:
    """The latest good checkpoint, and what is wrong with each later one, latest first."""
    passed: dict[str, str] = {}
    for folder in reversed(checkpoints(root)):
        wrong = damage(folder)
        if wrong is None:
            return folder, passed
        passed[folder.name] = wrong
    return None, passed


def checkpoints(root: Path) -> list[Path]:
    """All of them, good or not, in the order of their steps."""
    return sorted(root.glob("step-*")) if root.is_dir() else []


def damage(folder: Path) -> str | None:
    """The first fault of a checkpoint; None where every file is there with the hash it was written with."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return f"{MANIFEST} is missing"
    try:
        hashes = json.loads(manifest.read_text())
    except ValueError:  # torn by a crash
        return f"{MANIFEST} cannot be read"
    if not isinstance(hashes, dict):
        return f"{MANIFEST} cannot be read"
    for name in (WEIGHTS, OPTIMIZER, POSITION):
        if name not in hashes:
            return f"{MANIFEST} does not name {name}"
    for name, digest in hashes.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if sha256(folder / name) != digest:
            return f"{name} does not match its hash"
    return None
