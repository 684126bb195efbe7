"""The beginning of a run, fresh or resumed: nothing is overwritten, and a resumed run is the same run or refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from sgsd.checkpoint.pending import Pending, read_shards
from sgsd.checkpoint.saving import Position, examine, load_checkpoint, read_position
from sgsd.config.loading import make_config, read_saved
from sgsd.config.migrate import migrate
from sgsd.config.run_config import RunConfig
from sgsd.distributed.processes import from_first
from sgsd.files import clear_leftovers, leftovers, sha256, write_atomic
from sgsd.records.run_files import Records
from sgsd.train.consistency import check_canary
from sgsd.train.context_resources import OFF_TOPIC
from sgsd.train.models import weights_hash
from sgsd.train.setup import Run
from sgsd.types import Problem, UserError

#: What may differ between a run and its resumption: it cannot change a result, or by rounding only (`compute`: who ran
#: out of memory goes on with smaller passes), or, like the names of an adapter's layers, the saved weights show it.
FREE = (
    *("lora.target_modules", "compute", "output", "checkpoint", "logged_rollouts", "track", "guards"),
    *(f"rollout.{key}" for key in ("base_url", "api_key_env", "concurrency", "folder", "gpu_memory_utilization")),
    *(f"rollout.{key}" for key in ("mismatch_warning", "start_timeout", "timeout", "retries")),
)

SHOWN_CHANGES = 8


@dataclass(frozen=True)
class Start:
    """The beginning of a session, and the rollouts that the last one left of the step it did not finish."""

    position: Position
    pending: Pending | None = None


def check_folder(folder: Path, config: RunConfig, *, resume: bool) -> None:
    """Refuse to mix runs. Raises UserError."""
    saved = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; choose a folder with --output")
    if resume:
        if not saved.is_file():
            raise UserError(f"{folder}: there is no run to resume here; leave --resume out to start one")
        refuse_changes(read_saved(saved), config, str(folder))
    elif folder.exists() and set(folder.iterdir()) - leftovers(folder):
        raise UserError(
            f"{folder}: the folder already holds {'a run' if saved.is_file() else 'files'};"
            " go on with it by --resume, or choose another with --output"
        )


def refuse_changes(saved: Any, config: RunConfig, where: str) -> None:
    """A resumed run must be the same run; a key that is newer than the run has its default.

    More steps are the same run where no learning rate depends on their number. Raises UserError: it shows what is
    different.
    """
    old = make_config(migrate(saved, where, saved=True)[0], where).model_dump(mode="json")
    found = {
        key: values
        for key, values in differences(old, config.model_dump(mode="json")).items()
        if not any(key == free or key.startswith(f"{free}.") for free in FREE)
    }
    before, after = found.get("steps", (0, 0))
    if after > before and config.optimizer.schedule == "constant":
        del found["steps"]
    elif list(found) == ["steps"]:
        raise UserError(
            f"{where}: steps: {before} → {after}: a run can be lengthened, not shortened, and only where"
            f" optimizer.schedule is constant (here: {config.optimizer.schedule}); resume it unchanged"
        )
    changes = [f"{key}: {before!r} → {after!r}" for key, (before, after) in found.items()]
    if changes:
        more = [f"and {len(changes) - SHOWN_CHANGES} more"] if len(changes) > SHOWN_CHANGES else []
        shown = "; ".join([*changes[:SHOWN_CHANGES], *more])
        raise UserError(f"{where}: the run was started with other settings ({shown}); resume it unchanged")


def differences(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Every key whose value differs, as dotted names."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return {} if old == new else {prefix: (old, new)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*old, *[key for key in new if key not in old]]:
        found |= differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
    return found


def fingerprint(run: Run) -> dict[str, str]:
    """Hashes of the files that decide a run: one may change while its name stays."""

    def hashed(problems: Sequence[Problem]) -> str:
        golds = [p.answer if isinstance(p.answer, str) else p.gold for p in problems]  # as the row has it
        shown = zip(problems, golds, strict=True)
        rows = [[p.id, p.text, gold, p.solution, *filter(None, [p.meta.get("rubric")])] for p, gold in shown]
        return sha256(json.dumps(rows))

    off_topic = Path(run.config.prompts.folder) / OFF_TOPIC
    return {
        "data": hashed(run.problems),
        "held-out data": hashed(run.evaluator.problems) if run.evaluator else "",
        "off-topic items": sha256(off_topic) if off_topic.is_file() else "",
        "prompts": sha256(json.dumps(dict(run.prompts.templates.texts), sort_keys=True)),
        "bank": run.bank.started_from if run.bank else "",
        "model": weights_hash(run.config.model),
    }


def begin(run: Run, records: Records) -> Start:
    """A fresh run: its folder, its configuration and its bank."""
    from_first(run.accelerator, lambda: write_config(run, records))
    if run.bank is not None:
        run.bank.start(run.accelerator)
    return Start(Position(0, {}, fingerprint(run), run.config.model_dump(mode="json")))


def write_config(run: Run, records: Records) -> None:
    records.folder.mkdir(parents=True, exist_ok=True)
    write_atomic(records.folder / "config.yaml", run.config.to_yaml())


def restore(run: Run, records: Records, console: Console) -> Start:
    """Go back to the newest good checkpoint and forget what was written after it.

    Everything is compared before a file of the run is changed. Raises UserError: no checkpoint is good, or what the run
    was started with is no longer the same.
    """
    chosen, remark = from_first(run.accelerator, lambda: _choose(records.folder))
    console.print(remark, markup=False, soft_wrap=True)
    if chosen is None:
        from_first(run.accelerator, lambda: records.truncate(dict.fromkeys(records.offsets(), 0)))
        return begin(run, records)
    position = read_position(chosen)
    refuse_changes(position.config, run.config, str(chosen))
    for what, digest in fingerprint(run).items():
        if position.fingerprint.get(what, digest) != digest:  # a run of before has no hash of some of them
            verb = "have" if what.endswith("s") else "has"
            raise UserError(f"{chosen}: the {what} {verb} changed since; put back what the run was started with")
    load_checkpoint(chosen, run.policy.bare_scorer, run.policy.strategy.optimizer, run.policy.strategy)
    sizes = differences(position.config["compute"], run.config.compute.model_dump(mode="json"), "compute")
    changed = check_canary(run.policy, chosen) + [f"{key} {old} → {new}" for key, (old, new) in sizes.items()]
    if changed:
        said = f"The last bits may differ from an uninterrupted run's, for something else does: {'; '.join(changed)}."
        console.print(said, markup=False, soft_wrap=True)
    records.check_lengths(position.offsets)
    if run.bank is not None:
        run.bank.go_back(run.accelerator, position.bank_event, position.bank_version)
        run.follow_bank()
    from_first(run.accelerator, lambda: records.truncate(position.offsets))
    if position.config["steps"] != run.config.steps:
        from_first(run.accelerator, lambda: write_config(run, records))
    return Start(replace(position, config=run.config.model_dump(mode="json")), read_shards(chosen))


def _choose(folder: Path) -> tuple[Path | None, str]:
    """The checkpoint to go on from, and a line that says so; clears away what a killed session left half-written."""
    root = folder / "checkpoints"
    clear_leftovers(folder)
    clear_leftovers(root)
    chosen, passed = examine(root)
    damaged = "; ".join(f"{name} is damaged: {wrong}" for name, wrong in passed.items())
    if chosen is None:
        if passed:
            raise UserError(f"{root}: no checkpoint is good ({damaged}); restore one, or remove all to begin at step 1")
        return None, f"No checkpoint in {root} yet: starting at step 1."
    position = read_position(chosen)
    taken = f"{damaged}; taking {chosen.name}. " if damaged else ""
    rollouts = f", with the rollouts of step {position.step + 1}" if position.pending else ""
    return chosen, f"{taken}Resuming after step {position.step} from {chosen}{rollouts}."
