"""Checkpoints are complete or absent, damage is noticed, and a run's files go back to where the checkpoint stood."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sgsd.checkpoint import saving as checkpoint
from sgsd.checkpoint.saving import (
    MANIFEST,
    Position,
    checkpoints,
    damage,
    examine,
    load_checkpoint,
    save_checkpoint,
    stateful_parameters,
)
from sgsd.files import write_atomic
from sgsd.records.run_files import FILES, Records
from sgsd.scorer import TEACHER_ADAPTER
from sgsd.types import UserError

FILES_OF_ONE = ("weights.safetensors", "optimizer.pt", "position.json", MANIFEST)


class Toy(nn.Module):
    """A frozen base, an adapter of the student's and one of its teacher's, a tied weight, and a teacher's copy."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.base = nn.Linear(width, width).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(width, 2), TEACHER_ADAPTER: nn.Linear(width, 2)})
        self.lora_A[TEACHER_ADAPTER].requires_grad_(False)
        self.tied = nn.Linear(2, 2, bias=False)
        self.tied.weight = self.lora_A["default"].bias  # type: ignore[assignment]
        self.teacher_copy = nn.Linear(1, 1).requires_grad_(False)


def toy(seed: int = 0) -> tuple[Toy, torch.optim.Optimizer]:
    """A module and an optimizer that has taken steps."""
    torch.manual_seed(seed)
    module = Toy()
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1)
    for _ in range(3):
        sum(p.square().sum() for p in trained).backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()
    return module, optimizer


def save(root: Path, step: int, keep: int = 9, seed: int = 0) -> Path:
    module, optimizer = toy(seed)
    return save_checkpoint(root, Position(step, {"metrics": 7 * step}, {"data": "d"}), module, optimizer, keep=keep)


def newest_good(root: Path) -> Path | None:
    return examine(root)[0]


def is_good(folder: Path) -> bool:
    return damage(folder) is None


def names(root: Path) -> list[str]:
    return [folder.name for folder in checkpoints(root)]


def flip(path: Path, position: int, bit: int = 0x80) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= bit
    path.write_bytes(content)


# ── Save and load ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_all_that_training_changes_comes_back(tmp_path: Path) -> None:
    module, optimizer = toy(0)
    folder = save_checkpoint(
        tmp_path, Position(4, {"metrics": 99}, {"data": "d", "bank": ""}), module, optimizer, keep=2
    )
    assert folder == tmp_path / "step-000004"
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES_OF_ONE)
    assert is_good(folder)

    other, other_optimizer = toy(1)
    base = other.base.weight.clone()
    assert load_checkpoint(folder, other, other_optimizer) == Position(4, {"metrics": 99}, {"data": "d", "bank": ""})
    for name, tensor in stateful_parameters(other).items():
        assert torch.equal(tensor, stateful_parameters(module)[name]), name
    assert torch.equal(other.base.weight, base)
    for left, right in zip(
        other_optimizer.state_dict()["state"].values(), optimizer.state_dict()["state"].values(), strict=True
    ):
        assert left.keys() == right.keys() >= {"exp_avg", "exp_avg_sq", "step"}
        assert all(torch.equal(left[key], right[key]) for key in left)


def test_what_is_frozen_and_nobody_s_teacher_is_left_out(tmp_path: Path) -> None:
    kept = load_file(save(tmp_path, 1) / "weights.safetensors").keys()
    assert {name.split(".")[0] for name in kept} == {"lora_A", "teacher_copy"}
    assert {f"lora_A.{owner}.weight" for owner in ("default", TEACHER_ADAPTER)} <= kept


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    module, optimizer = toy()
    module.base.requires_grad_(True)
    with pytest.raises(UserError, match=r"does not fit this model \(for instance base\.bias\)"):
        load_checkpoint(folder, module, optimizer)


def test_a_step_saved_again_is_the_later_one(tmp_path: Path) -> None:
    save(tmp_path, 1, seed=0)
    folder = save(tmp_path, 1, seed=1)
    expected = stateful_parameters(toy(1)[0])
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_file(folder / FILES_OF_ONE[0]).items())
    assert is_good(folder)


@pytest.mark.parametrize("place", ["torch.save", "os.replace"])
def test_a_save_that_fails_leaves_the_last_checkpoint_and_no_new_one(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = save(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(place, full)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path, 2)
    assert names(tmp_path) == ["step-000001"]
    assert newest_good(tmp_path) == first
    monkeypatch.undo()
    assert newest_good(tmp_path) == first != save(tmp_path, 2) == newest_good(tmp_path)  # what was left is no obstacle


# ── Damage ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", FILES_OF_ONE[:-1])
def test_one_flipped_bit_is_noticed(name: str, tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    size = (folder / name).stat().st_size
    for position in (0, size // 2, size - 1):
        flip(folder / name, position, 1)
        assert not is_good(folder)
        flip(folder / name, position, 1)
    assert is_good(folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    assert not is_good(folder)
    (folder / name).unlink()
    assert not is_good(folder)


def test_a_manifest_with_another_hash_or_none_is_noticed(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    hashes = json.loads((folder / MANIFEST).read_text())
    assert hashes.keys() == set(FILES_OF_ONE[:-1])
    (folder / MANIFEST).write_text(json.dumps({**hashes, "optimizer.pt": "0" * 64}))
    assert not is_good(folder)
    (folder / MANIFEST).unlink()
    assert not is_good(folder)
    assert not is_good(tmp_path / "step-000009")


@pytest.mark.parametrize("content", [b"", b'{"weights.saf', b"\xff\xfe"], ids=["empty", "torn", "not text"])
def test_a_torn_manifest_makes_a_checkpoint_bad(content: bytes, tmp_path: Path) -> None:
    older, folder = save(tmp_path, 1), save(tmp_path, 2)
    (folder / MANIFEST).write_bytes(content)
    assert not is_good(folder)
    assert newest_good(tmp_path) == older


@pytest.mark.parametrize("position", [0, 5, 40, -1])
def test_a_flipped_bit_of_the_manifest_is_noticed(position: int, tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    flip(folder / MANIFEST, position)
    assert not is_good(folder)


@pytest.mark.parametrize("keep", [None, (), ("position.json",)], ids=["a list", "no file", "one file"])
def test_a_manifest_that_is_not_whole_makes_a_checkpoint_bad(keep: tuple[str, ...] | None, tmp_path: Path) -> None:
    older, folder = save(tmp_path, 1), save(tmp_path, 2)
    hashes = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text("[]" if keep is None else json.dumps({name: hashes[name] for name in keep}))
    assert not is_good(folder)
    assert newest_good(tmp_path) == older


def test_the_newest_good_one_is_found_behind_bad_ones(tmp_path: Path) -> None:
    assert newest_good(tmp_path / "nowhere") is None
    assert newest_good(tmp_path) is None
    folders = [save(tmp_path, step) for step in (1, 2, 10, 11)]
    assert newest_good(tmp_path) == folders[3]
    (folders[3] / "optimizer.pt").unlink()
    flip(folders[2] / "weights.safetensors", -1)
    assert newest_good(tmp_path) == folders[1]
    for folder in folders[:2]:
        (folder / "position.json").write_bytes(b"")
    assert newest_good(tmp_path) is None


def test_pruning_takes_the_oldest_only(tmp_path: Path) -> None:
    for step in (1, 2, 9, 10):
        save(tmp_path, step, keep=4)
    (tmp_path / "notes.txt").write_text("mine")
    assert names(tmp_path) == ["step-000001", "step-000002", "step-000009", "step-000010"]
    save(tmp_path, 11, keep=3)
    assert names(tmp_path) == ["step-000009", "step-000010", "step-000011"]
    save(tmp_path, 12, keep=1)
    assert names(tmp_path) == ["step-000012"]
    assert (tmp_path / "notes.txt").exists()


def test_pruning_never_takes_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not keep what is written: the older ones stay, and somebody is told."""
    save(tmp_path, 1, keep=1)
    plain = os.replace

    def loses_a_bit(temporary: Path, final: Path) -> None:
        plain(temporary, final)
        flip(final / "optimizer.pt", 100)

    monkeypatch.setattr(os, "replace", loses_a_bit)
    with pytest.raises(UserError, match=r"optimizer.pt does not match its hash right after it was written"):
        save(tmp_path, 2, keep=1)
    assert newest_good(tmp_path) == tmp_path / "step-000001"
    monkeypatch.undo()
    save(tmp_path, 2, keep=1)  # resumed after step 1, the run comes by here again
    assert names(tmp_path) == ["step-000002"]


def test_one_with_rollouts_stands_beside_the_one_without(tmp_path: Path) -> None:
    module, optimizer = toy()
    first = save(tmp_path, 1)
    before = {file: file.read_bytes() for file in first.iterdir()}
    rollouts = {"pending-00000.json": '{"rollouts": []}'}
    position = Position(1, {}, {}, pending=True)
    pending = save_checkpoint(tmp_path, position, module, optimizer, keep=9, beside=rollouts)
    assert names(tmp_path) == ["step-000001", "step-000001-pending"]
    assert newest_good(tmp_path) == pending
    assert before == {file: file.read_bytes() for file in first.iterdir()}
    flip(pending / "pending-00000.json", 3)
    assert examine(tmp_path) == (
        first,
        {"step-000001-pending": "pending-00000.json does not match its hash"},
    )
    save(tmp_path, 2, keep=2)
    assert names(tmp_path) == ["step-000001-pending", "step-000002"]


def test_what_is_wrong_is_said_of_each_that_is_passed_over(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step)
    (tmp_path / "step-000002" / "optimizer.pt").unlink()
    flip(tmp_path / "step-000003" / "weights.safetensors", -1)
    (tmp_path / "step-000004" / MANIFEST).unlink()
    (tmp_path / "step-000005" / MANIFEST).write_text("{}")
    good, passed = examine(tmp_path)
    assert good == tmp_path / "step-000001"
    assert list(passed.items()) == [
        ("step-000005", "manifest.json does not name weights.safetensors"),
        ("step-000004", "manifest.json is missing"),
        ("step-000003", "weights.safetensors does not match its hash"),
        ("step-000002", "optimizer.pt is missing"),
    ]


def test_pruning_never_takes_the_checkpoint_just_saved(tmp_path: Path) -> None:
    for step in (6, 9):
        save(tmp_path, step)
    flip(tmp_path / "step-000009" / "weights.safetensors", -1)
    assert newest_good(tmp_path) == tmp_path / "step-000006"  # the run goes on from here …
    save(tmp_path, 7, keep=1)
    assert newest_good(tmp_path) == tmp_path / "step-000007"  # … and must be able to go on from there


SAVE_UNTIL_KILLED = """
import os, random, signal, sys, time, types
from pathlib import Path
import torch
from torch import nn

package = types.ModuleType("sgsd.train")  # its own __init__ loads transformers, which takes seconds
package.__path__ = [sys.argv[2]]
sys.modules["sgsd.train"] = package
from sgsd.checkpoint.saving import Position, checkpoints, damage, examine, load_checkpoint, save_checkpoint

torch.set_num_threads(1)
root, delays, torn, reached = Path(sys.argv[1]), random.Random(0), 0, 0
model = nn.Linear(64, 64)
optimizer = torch.optim.AdamW(model.parameters())
for trial in range(12):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        for step in range(reached + 1, 10**6):
            model.weight.data.fill_(step)
            save_checkpoint(root, Position(step, {}, {}), model, optimizer, keep=2)
            os.write(writer, step.to_bytes(4, "big"))
        os._exit(1)
    os.close(writer)
    first = os.read(reader, 4)
    time.sleep(delays.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    said = first + os.read(reader, 1 << 16)
    os.close(reader)
    promised = int.from_bytes(said[-4:], "big")
    newest, _ = examine(root)
    position = load_checkpoint(newest, model, optimizer)
    assert promised <= position.step <= promised + 1, (promised, position)
    assert (model.weight == position.step).all(), "weights of another step"
    bad = [folder.name for folder in checkpoints(root) if damage(folder)]
    assert all(name < newest.name for name in bad), "a new checkpoint was there before it was whole"
    torn += bool(bad) + any(root.glob(".*"))
    reached = position.step
print(torn, reached)
"""


def test_a_kill_in_a_loop_of_saves_loses_nothing_that_was_saved(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SAVE_UNTIL_KILLED, str(tmp_path), str(Path(checkpoint.__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    torn, reached = map(int, done.stdout.split())
    assert torn >= 3, "the kills must come in mid-save for this test to mean anything"
    assert reached >= 12


# ── The run's files ────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_written_after_a_checkpoint_is_forgotten(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.write("metrics", {"step": 1, "word": "größer ≥"})
    offsets = records.offsets()
    assert offsets.keys() == set(FILES)
    assert (offsets["rollouts"], offsets["metrics"]) == (0, (tmp_path / "metrics.jsonl").stat().st_size)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    records.write("metrics", {"step": 2})
    records.write("rollouts", {"step": 2})  # this file is younger than the checkpoint
    records.truncate(offsets)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert records.read("rollouts") == records.read("evaluations") == []
    assert not (tmp_path / "evaluations.jsonl").exists()
    Records(tmp_path).write("metrics", {"step": 2, "again": True})
    assert records.read("metrics") == [{"step": 1, "word": "größer ≥"}, {"step": 2, "again": True}]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_line_is_what_ends_with_a_newline(separator: str, tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.write("rollouts", {"completion": f"one{separator}two"})
    assert records.read("rollouts") == [{"completion": f"one{separator}two"}]


def test_a_checkpoint_counts_only_on_what_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut the records must not be shorter than the checkpoint, which is synced, says."""
    records, synced = Records(tmp_path), set()
    monkeypatch.setattr("sgsd.records.run_files.os.fsync", lambda descriptor: synced.add(os.fstat(descriptor).st_ino))
    for name in ("metrics", "rollouts"):
        records.write(name, {"step": 1})
    records.offsets()
    assert synced == {path.stat().st_ino for path in tmp_path.iterdir()}


def test_a_whole_file_is_replaced_or_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \ud800")
    assert path.read_text() == "old"
    write_atomic(path, "new")
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]
