"""Stopped, killed and resumed runs are the uninterrupted one to the last bit; what would be another run is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from resumable import METHODS, assert_same_bits, final_state, leftovers, lines, only, steps_done, stop_in
from runs import quiet, run_small, small_config
from sgsd.checkpoint.saving import MANIFEST, checkpoints, damage
from sgsd.files import sha256
from sgsd.train import rollout_source, run_training, session
from sgsd.train.rollout_source import RolloutSource
from sgsd.train.sampling import Sampler
from sgsd.types import Status, UserError, Verdict

EACH_STEP = {"every": 1, "keep": 9}


def resumed(folder: Path, **changes: Any) -> str:
    """Resume, and return what was said about it, on one line."""
    console = quiet()
    run_training(small_config(folder, **changes), console, resume=True)
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def all_files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ── To the last bit ────────────────────────────────────────────────────────────────────────────────────────────────

SEVEN = only(
    METHODS,
    "sgsd-live-full",
    "sgsd-ema-lora",
    "sgsd-frozen-lora",
    "sgsd-ema-full",
    "grpo-full",
    "opsd-frozen-lora",
    "opsd-frozen-full",
)


@pytest.mark.parametrize("name", SEVEN)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped twice: with a step's rollouts sampled but not used yet, and while that step is taken."""
    whole = run_small(tmp_path / "whole", **SEVEN[name])
    changed = [not torch.equal(a, b) for a, b in zip(final_state(whole)[0].values(), start_weights(name, tmp_path))]
    assert any(changed)
    stop_in(monkeypatch, "sample", 2)
    parts = run_small(tmp_path / "parts", **SEVEN[name])
    assert steps_done(parts) == [1]
    monkeypatch.undo()
    stop_in(monkeypatch, "score_teachers", 2)
    run_small(parts, resume=True, **SEVEN[name])
    assert steps_done(parts) == [1, 2]
    monkeypatch.undo()
    run_small(parts, resume=True, **SEVEN[name])
    assert_same_bits(whole, parts)


def start_weights(name: str, tmp_path: Path) -> list[torch.Tensor]:
    from accelerate import Accelerator

    from sgsd.checkpoint.saving import stateful_parameters
    from sgsd.train.setup import build_run

    parts = build_run(small_config(tmp_path / "never", **SEVEN[name]), Accelerator())
    return list(stateful_parameters(parts.policy.bare_scorer).values())


def test_what_was_written_after_the_checkpoint_is_forgotten(tmp_path: Path) -> None:
    whole = run_small(tmp_path / "whole", checkpoint={"every": 2, "keep": 9})
    killed = run_small(tmp_path / "killed", checkpoint={"every": 2, "keep": 9})
    # As if the process had died between the checkpoint of step 2 and the one of step 3.
    last = checkpoints(killed / "checkpoints")[-1]
    (last / "weights.safetensors").write_bytes(b"half written")
    assert damage(last)
    (killed / "summary.json").unlink()
    said = resumed(killed, checkpoint={"every": 2, "keep": 9})
    assert "step-000003 is damaged: weights.safetensors does not match its hash; taking step-000002." in said
    assert_same_bits(whole, killed)
    assert len(lines(killed, "rollouts")) == 3


def test_a_stop_in_the_very_first_step_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = {"data": {"path": "lab:held-out"}, "problems": 4, "samples": 1, "sampling": {"max_tokens": 96}}
    whole = run_small(tmp_path / "whole", steps=2, evaluation=evaluation)
    stop_in(monkeypatch, "grade", 1)
    parts = run_small(tmp_path / "parts", steps=2, evaluation=evaluation)
    monkeypatch.undo()
    assert [folder.name for folder in checkpoints(parts / "checkpoints")] == ["step-000000-pending"]
    run_small(parts, steps=2, evaluation=evaluation, resume=True)
    assert_same_bits(whole, parts)


def test_resuming_a_finished_run_keeps_its_result(tmp_path: Path) -> None:
    evaluation = {"data": {"path": "lab:held-out"}, "problems": 8, "samples": 1, "sampling": {"max_tokens": 96}}
    folder = run_small(tmp_path / "run", steps=1, evaluation=evaluation)
    before = json.loads((folder / "summary.json").read_text())
    run_small(tmp_path / "run", steps=1, evaluation=evaluation, resume=True)
    after = json.loads((folder / "summary.json").read_text())
    assert after["after"] == before["after"] is not None
    assert [record["step"] for record in lines(folder, "evaluations")] == [0, 1]


def test_a_mistake_met_in_mid_run_loses_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = RolloutSource.grade

    def breaks(source: Any, rollouts: Any) -> Any:
        if len(lines(tmp_path / "run", "metrics")) == 2:
            raise UserError("the grader cannot read this")
        return plain(source, rollouts)

    monkeypatch.setattr(RolloutSource, "grade", breaks)
    with pytest.raises(UserError, match="cannot read"):
        run_small(tmp_path / "run")
    monkeypatch.undo()
    assert_same_bits(run_small(tmp_path / "whole"), run_small(tmp_path / "run", resume=True))


# ── Rollouts that a stop has left ──────────────────────────────────────────────────────────────────────────────────


def test_what_was_sampled_and_graded_is_used_and_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grader that ran out of time on the first try would have an answer on the second: the first one counts."""

    def slow(source: Any, rollouts: Any) -> list[Verdict]:
        return [Verdict(Status.TIMEOUT, None, 5.0) for _ in rollouts]

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with monkeypatch.context() as patch:
        patch.setattr(RolloutSource, "grade", slow)
        run_small(whole, steps=1)
        stop_in(patch, "grade", 1)
        run_small(parts, steps=1)

    def never(*_: Any) -> None:
        raise AssertionError("what the checkpoint holds must not be made again")

    monkeypatch.setattr(Sampler, "sample", never)
    monkeypatch.setattr(rollout_source, "grade", never)
    assert "with the rollouts of step 1" in resumed(parts, steps=1)
    assert lines(parts, "metrics")[0]["ungraded"] == 1.0
    assert_same_bits(whole, parts)


def test_another_number_of_processes_takes_its_share_of_all_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two processes would have left them: every second group in the second file."""
    whole = run_small(tmp_path / "whole", steps=2)
    stop_in(monkeypatch, "sample", 2)
    parts = run_small(tmp_path / "parts", steps=2)
    monkeypatch.undo()
    (folder,) = checkpoints(parts / "checkpoints")
    one = json.loads((folder / "pending-00000.json").read_text())
    for rank in (0, 1):
        shard = {**one, "rollouts": one["rollouts"][rank::2]}
        (folder / f"pending-{rank:05d}.json").write_text(json.dumps(shard))
    sign_again(folder)
    monkeypatch.setattr(Sampler, "sample", None)
    run_small(parts, steps=2, resume=True)
    assert_same_bits(whole, parts)


def sign_again(folder: Path) -> None:
    """A manifest that fits whatever is in the folder now."""
    files = [file for file in sorted(folder.iterdir()) if file.name != MANIFEST]
    (folder / MANIFEST).write_text(json.dumps({file.name: sha256(file) for file in files}))


def test_a_second_stop_before_the_update_keeps_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_small(tmp_path / "whole", steps=2)
    stop_in(monkeypatch, "sample", 2)
    parts = run_small(tmp_path / "parts", steps=2)
    before = all_files(parts / "checkpoints")
    monkeypatch.undo()
    plain = rollout_source.check_sampler

    def stopping(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        plain(*arguments)

    monkeypatch.setattr(rollout_source, "check_sampler", stopping)
    run_small(parts, steps=2, resume=True)
    assert steps_done(parts) == [1]
    assert all_files(parts / "checkpoints") == before
    monkeypatch.undo()
    run_small(parts, steps=2, resume=True)
    assert_same_bits(whole, parts)


# ── Refused ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_changed_config_is_refused_and_every_difference_shown(tmp_path: Path) -> None:
    run_small(tmp_path / "run", steps=1)
    with pytest.raises(UserError, match=r"\(seed: 0 → 5; optimizer\.lr: 0\.0001 → 0\.001\)") as refusal:
        run_small(tmp_path / "run", steps=1, resume=True, optimizer={"lr": 1e-3}, seed=5)
    assert "\n" not in str(refusal.value)
    many = {"temperature": 0.5, "top_p": 0.5, "top_k": 5, "min_p": 0.5, "presence_penalty": 1.0, "max_tokens": 9}
    with pytest.raises(UserError, match=r"; and 1 more\)") as refusal:
        run_small(tmp_path / "run", resume=True, sampling=many, seed=5, rollouts=4, name="other")
    assert str(refusal.value).count("→") == 8
    free = {"checkpoint": {"every": 1, "keep": 1}, "logged_rollouts": 3}
    assert run_small(tmp_path / "run", steps=1, resume=True, **free)
    with pytest.raises(UserError, match="already holds a run"):
        run_small(tmp_path / "run", steps=1)
    with pytest.raises(UserError, match="no run to resume"):
        run_small(tmp_path / "nothing", steps=1, resume=True)


def test_a_finished_run_is_lengthened_to_the_longer_one_bit_by_bit(tmp_path: Path) -> None:
    longer = run_small(tmp_path / "longer", steps=3)
    folder = run_small(tmp_path / "run", steps=1)
    run_small(folder, steps=2, resume=True)
    assert "steps: 2" in (folder / "config.yaml").read_text(), "a plain --resume goes on to where it was last sent"
    run_small(folder, steps=3, resume=True)
    assert_same_bits(longer, folder)
    assert json.loads((folder / "summary.json").read_text())["steps"] == 3


@pytest.mark.parametrize(
    ("before", "after", "schedule"), [(3, 2, "constant"), (2, 3, "linear"), (2, 3, "cosine"), (3, 1, "cosine")]
)
def test_a_run_is_not_shortened_nor_lengthened_where_the_rate_knows_the_end(
    before: int, after: int, schedule: str, tmp_path: Path
) -> None:
    folder = run_small(tmp_path / "run", steps=before, optimizer={"schedule": schedule})
    kept = all_files(folder)
    with pytest.raises(UserError, match=rf"steps: {before} → {after}: .*optimizer\.schedule is constant.*{schedule}"):
        run_small(folder, steps=after, optimizer={"schedule": schedule}, resume=True)
    assert all_files(folder) == kept


def test_a_config_edited_in_the_run_folder_does_not_pass_and_a_key_newer_than_the_run_does(tmp_path: Path) -> None:
    folder = run_small(tmp_path / "run", steps=1)
    saved = folder / "config.yaml"
    original = saved.read_text()
    saved.write_text(original.replace("lr: 0.0001", "lr: 0.001"))
    with pytest.raises(UserError, match=r"step-000001: the run was started with .*optimizer\.lr: 0\.0001 → 0\.001"):
        run_small(folder, steps=1, resume=True, optimizer={"lr": 1e-3})
    saved.write_text("".join(line for line in original.splitlines(True) if "presence_penalty" not in line))
    (checkpointed,) = checkpoints(folder / "checkpoints")
    position = json.loads((checkpointed / "position.json").read_text())
    del position["config"]["sampling"]["presence_penalty"]
    (checkpointed / "position.json").write_text(json.dumps(position))
    sign_again(checkpointed)
    assert "Resuming after step 1" in resumed(folder, steps=1)


def test_no_good_checkpoint_is_no_reason_to_begin_again(tmp_path: Path) -> None:
    folder = run_small(tmp_path / "run", steps=2, checkpoint=EACH_STEP)
    for saved in checkpoints(folder / "checkpoints"):
        (saved / "optimizer.pt").unlink()
    before = all_files(folder)
    with pytest.raises(UserError, match=r"is good \(step-000002 is damaged: optimizer.pt is missing; step"):
        run_small(folder, steps=2, resume=True)
    assert all_files(folder) == before


def test_changed_prompts_and_shortened_records_are_noticed(tmp_path: Path) -> None:
    from sgsd.contexts.prompts import BUNDLED

    shutil.copytree(BUNDLED / "lab", tmp_path / "wording")
    prompts = {"folder": str(tmp_path / "wording")}
    folder = run_small(tmp_path / "run", steps=1, prompts=prompts)
    student = tmp_path / "wording" / "student.txt"
    original = student.read_text()
    student.write_text(original + "Hurry.")
    with pytest.raises(UserError, match="the prompts have changed"):
        run_small(folder, steps=1, prompts=prompts, resume=True)
    student.write_text(original)
    (folder / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"metrics.jsonl: has 3 bytes, \d+ when the checkpoint was saved"):
        run_small(folder, steps=1, prompts=prompts, resume=True)
    assert (folder / "metrics.jsonl").read_text() == "{}\n"


# ── Killed ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def killed(train: Callable[[], object]) -> None:
    """Train in a child process that must end by kill -9."""
    child = os.fork()
    if child == 0:
        try:
            train()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_half_done(path: Path, **_: Any) -> None:
    if path.name.startswith("step-") and path.exists():
        (path / "weights.safetensors").unlink()
        die()


POINTS: dict[str, tuple[str, Callable[..., None], list[str]]] = {
    "before it is whole": ("torch.save", die, ["step-000001"]),
    "before it has its name": ("os.replace", die, ["step-000001"]),
    "while an older one is removed": ("shutil.rmtree", die_half_done, ["step-000001", "step-000002"]),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_inside_a_save_costs_nothing_but_the_step(point: str, tmp_path: Path) -> None:
    function, deadly, left = POINTS[point]
    settings: dict[str, Any] = {"checkpoint": {"every": 1, "keep": 1}, "steps": 3}
    whole = run_small(tmp_path / "whole", **settings)

    def train() -> None:
        plain = session.save_checkpoint

        def save_checkpoint(root: Path, position: Any, *arguments: Any, **options: Any) -> Path:
            if position.step == 2:
                module, name = function.split(".")
                setattr(sys.modules[module], name, deadly)
            return plain(root, position, *arguments, **options)

        session.save_checkpoint = save_checkpoint
        run_small(tmp_path / "run", **settings)

    killed(train)
    assert [folder.name for folder in checkpoints(tmp_path / "run" / "checkpoints")] == left
    run_small(tmp_path / "run", resume=True, **settings)
    assert_same_bits(whole, tmp_path / "run")
    assert not leftovers(tmp_path / "run")
    assert [folder.name for folder in checkpoints(tmp_path / "run" / "checkpoints")] == ["step-000003"]


def test_what_a_killed_write_leaves_is_cleared_away_and_no_obstacle(tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / ".config.yaml.tmp").write_text("steps: 1")  # killed before anything was written: nothing to resume here
    assert not leftovers(run_small(fresh, steps=1))
    (fresh / ".summary.json.tmp").write_text("{")
    (fresh / ".report.html.4711.partial").write_text("<")
    (fresh / "checkpoints" / ".step-000001.tmp").mkdir()
    (fresh / ".bank.sqlite.tmp-journal").write_text("")
    run_small(fresh, steps=1, resume=True)
    assert not [name for name in leftovers(fresh) if name.startswith(".") or "tmp" in name]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="already holds files"):
        run_small(mine, steps=1)
