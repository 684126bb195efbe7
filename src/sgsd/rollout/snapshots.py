"""The policy's weights as folders, for engines that read them from there; each appears whole."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sgsd.files import replacing

Kind = Literal["adapter", "weights"]  # what a policy that trains is sent as


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of the policy; neither number nor name is ever used again."""

    number: int
    name: str
    folder: Path


@dataclass
class Snapshots:
    """Writes a new folder at each sync.

    Args:
        root: where they stand; both sides must see it under this path.
        kind: a LoRA adapter, or all weights.
        save: writes the policy's current weights into a folder that is there and empty.
        rank: of this process, which alone removes what earlier sessions of its rank have left.
        shared: whether others write there too; then nothing that is left is touched.
    """

    root: Path
    kind: Kind
    save: Callable[[Path], None]
    rank: int = 0
    shared: bool = False
    #: Of this session: a server may outlive it, and still hold what an earlier one has called number 1.
    token: str = field(default_factory=lambda: secrets.token_hex(4))
    count: int = 0

    def __post_init__(self) -> None:
        weakref.finalize(self, _remove, self.root, self.rank, self.token)  # at the latest when the program ends

    def take(self) -> Snapshot:
        if self.count == 0 and not self.shared:
            _remove(self.root, self.rank)
        self.count += 1
        name = f"sgsd-{self.rank}-{self.token}-{self.count}"
        final = self.root / name
        with replacing(final, sync=False) as new:
            new.mkdir(parents=True)
            self.save(new)
        return Snapshot(self.count, name, final)

    def drop(self, snapshot: Snapshot | None) -> None:
        """Remove the folder; one that is gone already is no fault."""
        if snapshot is not None:
            shutil.rmtree(snapshot.folder, ignore_errors=True)

    def close(self) -> None:
        """Remove all that this session has written."""
        _remove(self.root, self.rank, self.token)


class Untrained:
    """Stands in for `Snapshots` where nothing trains: engines keep their first weights, and nothing is written."""

    kind: Literal["none"] = "none"

    def take(self) -> Snapshot:
        return Snapshot(0, "untrained", Path())

    def drop(self, snapshot: Snapshot | None) -> None:
        pass

    def close(self) -> None:
        pass


def _remove(root: Path, rank: int, token: str = "") -> None:
    for start in ("sgsd-", ".sgsd-"):
        for left in root.glob(f"{start}{rank}-{token}*"):
            shutil.rmtree(left, ignore_errors=True)
    with contextlib.suppress(OSError):  # there is none, or others write there too
        root.rmdir()
