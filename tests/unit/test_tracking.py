"""What trackers are sent, when, and what happens when they fail. The real libraries' files are read back."""

from __future__ import annotations

import importlib
import io
import json
import math
import sys
import time
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from runs import run_small, small_config
from sgsd.config.sections import TrackConfig
from sgsd.records import tracking
from sgsd.records.run_files import Records
from sgsd.records.trackers import TRACKERS, Start
from sgsd.records.tracking import check_tracker, export, numbers, tracked
from sgsd.train import make_config
from sgsd.types import UserError

METRIC = {"loss": -0.25, "accuracy": 0.5, "rollouts": 8}
EVALUATION = {"split": "held-out", "problems": 4, "greedy": {"accuracy": 0.75, "low": 0.5, "high": 0.9}}


@dataclass
class FakeTracker:
    """Remembers what it is sent; fails from a step on."""

    start: Start
    fails_at: float = math.inf
    run: str = ""
    look: str = "look here"
    rewinds: bool = False
    sent: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    finished: bool | None = None

    def log(self, values: Mapping[str, float], step: int) -> None:
        if step >= self.fails_at:
            raise ConnectionError("no route\nto the server")
        assert any(f'"step": {step}' in file.read_text() for file in self.start.folder.glob("*.jsonl")), "not on disk"
        self.sent.append((step, dict(values)))

    def finish(self, *, failed: bool) -> None:
        self.finished = failed

    def steps(self, name: str = "train/loss") -> list[int]:
        return [step for step, values in self.sent if name in values]


class Fakes:
    """Stands in for wandb; every start makes another one."""

    def __init__(self) -> None:
        self.made: list[FakeTracker] = []
        self.fails_at = math.inf
        self.start_error: Exception | None = None

    def __call__(self, start: Start) -> FakeTracker:
        if self.start_error is not None:
            raise self.start_error
        self.made.append(FakeTracker(start, self.fails_at, run=start.run or start.new_name))
        return self.made[-1]

    @property
    def last(self) -> FakeTracker:
        return self.made[-1]


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    made = Fakes()
    monkeypatch.setitem(TRACKERS, "wandb", made)
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    return made


def go(folder: Path, steps: range, *, to: str = "wandb", resumed: bool = False, then: Exception | None = None) -> str:
    """Write records as a run does; returns what the console was told."""
    told = io.StringIO()
    folder.mkdir(exist_ok=True)
    config = small_config(folder, name="my run", track=to)
    with tracked(Records(folder), config, Console(file=told, width=500), resumed=resumed) as records:
        if steps.start == 1 and not resumed:
            records.write("evaluations", {"step": 0, **EVALUATION})
        for step in steps:
            records.write("metrics", {"step": step, **METRIC})
            records.write("timings", {"step": step, "sample": 0.5})
            records.write("rollouts", {"step": step, "completion": "very private text", "outcome": 1})
        if then is not None:
            raise then
    return told.getvalue()


def cut(folder: Path, last: int) -> None:
    """Forget all later steps, as a resumption does."""
    for name in ("metrics", "timings", "evaluations", "rollouts"):
        path = folder / f"{name}.jsonl"
        lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= last]
        path.write_text("".join(f"{line}\n" for line in lines))


# ── What is sent ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_numbers_are_all_numbers_and_nothing_else() -> None:
    record = {"step": 3, "loss": 1.5, "n": 2, "ok": True, "text": "no", "list": [1], "none": None, "in": {"a": 0.5}}
    assert numbers(record, "train") == {"train/loss": 1.5, "train/n": 2, "train/in/a": 0.5}


def test_a_run_is_sent_at_its_steps_after_it_is_on_disk(tmp_path: Path, fakes: Fakes) -> None:
    told = go(tmp_path, range(1, 4))
    sent = fakes.last.sent
    greedy = {"held-out/greedy/accuracy": 0.75, "held-out/greedy/low": 0.5, "held-out/greedy/high": 0.9}
    assert sent[0] == (0, {"held-out/problems": 4, **greedy})
    assert fakes.last.steps() == fakes.last.steps("timing/sample") == [1, 2, 3]
    assert "private" not in repr(sent)
    assert fakes.last.finished is False
    assert "look here" in told
    assert [r["step"] for r in Records(tmp_path).read("metrics")] == [1, 2, 3]


def test_a_failed_run_is_marked_so(tmp_path: Path, fakes: Fakes) -> None:
    with pytest.raises(RuntimeError):
        go(tmp_path, range(1, 2), then=RuntimeError())
    assert fakes.last.finished is True


def test_settings_have_no_secrets_and_no_paths(tmp_path: Path, fakes: Fakes) -> None:
    config = small_config(tmp_path / "run", track="wandb", verifier={"options": {"api_key": "hf_" + "a" * 30, "n": 3}})
    (tmp_path / "run").mkdir()
    with tracked(Records(tmp_path / "run"), config, Console(file=io.StringIO()), resumed=False):
        pass
    settings = fakes.last.start.settings
    assert settings["verifier.options.api_key"] == "(hidden)"
    assert settings["verifier.options.n"] == 3
    assert settings["output"] == "run"
    assert settings["sampling.max_tokens"] == 96
    assert str(tmp_path) not in repr(settings)


# ── Failures ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_failing_tracker_costs_one_warning_and_a_resumption_fills_the_gap(tmp_path: Path, fakes: Fakes) -> None:
    fakes.fails_at = 2
    told = go(tmp_path, range(1, 6))
    assert told.count("Warning") == 1
    assert "wandb failed at step 2 (ConnectionError: no route to the server)" in told
    assert fakes.last.steps() == [1]
    assert len(Records(tmp_path).read("metrics")) == 5
    fakes.fails_at = math.inf
    go(tmp_path, range(6, 7), resumed=True)
    assert fakes.made[1].run == fakes.made[0].run
    assert fakes.last.steps() == fakes.last.steps("timing/sample") == [2, 3, 4, 5, 6]


def test_a_tracker_that_does_not_start_stops_a_new_run_only(tmp_path: Path, fakes: Fakes) -> None:
    fakes.start_error = RuntimeError("not logged in")
    with pytest.raises(UserError, match=r"track\.to: wandb does not start \(RuntimeError: not logged in\)"):
        go(tmp_path, range(1, 3))
    assert "goes on without it" in go(tmp_path, range(1, 3), resumed=True)
    assert len(Records(tmp_path).read("metrics")) == 2


def test_a_tracker_that_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    for to in TRACKERS:
        with pytest.raises(UserError, match=f"pip install {to}"):
            check_tracker(TrackConfig.model_validate(to))
    check_tracker(TrackConfig())


def test_configuration_short_form_and_nonsense(tmp_path: Path) -> None:
    assert small_config(tmp_path, track="trackio").track == TrackConfig(to="trackio")
    assert make_config(yaml.safe_load(small_config(tmp_path, track="mlflow").to_yaml())).track.to == "mlflow"
    with pytest.raises(UserError, match=r"track\.entity: only wandb has teams"):
        small_config(tmp_path, track={"to": "mlflow", "entity": "us"})
    with pytest.raises(UserError, match=r"track\.to: input should be 'none', 'trackio'"):
        small_config(tmp_path, track="wandbb")


# ── Going on ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_resumed_run_goes_on_in_the_same_one_without_double_steps(tmp_path: Path, fakes: Fakes) -> None:
    go(tmp_path, range(1, 6))
    for _ in range(2):  # stopped again before anything new was written: the mark must survive that, too
        cut(tmp_path, last=3)
        go(tmp_path, range(4, 5), resumed=True)
        assert fakes.last.sent == []
    go(tmp_path, range(5, 8), resumed=True)
    assert {fake.run for fake in fakes.made} == {fakes.made[0].run}
    steps = [step for fake in fakes.made for step in fake.steps()]
    assert steps == [1, 2, 3, 4, 5, 6, 7]


def test_another_tracker_or_a_torn_link_gets_the_whole_run(tmp_path: Path, fakes: Fakes) -> None:
    go(tmp_path, range(1, 4), to="none")
    go(tmp_path, range(4, 5), resumed=True)
    assert fakes.last.steps() == [1, 2, 3, 4]
    (tmp_path / "tracker.json").write_text('{"to": "wa')
    go(tmp_path, range(5, 6), resumed=True)
    assert fakes.last.steps() == [1, 2, 3, 4, 5]
    assert fakes.made[0].run != fakes.made[1].run


def test_two_runs_of_one_name_stay_two(tmp_path: Path, fakes: Fakes) -> None:
    for name in ("a", "b"):
        go(tmp_path / name, range(1, 2))
    assert fakes.made[0].run != fakes.made[1].run
    assert fakes.made[0].run.startswith("my-run-")


def test_export_sends_everything_and_leaves_the_link_alone(tmp_path: Path, fakes: Fakes) -> None:
    with pytest.raises(UserError, match="there is no run here"):
        export(tmp_path, TrackConfig(to="wandb"))
    go(tmp_path, range(1, 4))
    (tmp_path / "config.yaml").write_text(small_config(tmp_path, name="my run").to_yaml())
    link = (tmp_path / "tracker.json").read_text()
    assert export(tmp_path, TrackConfig(to="wandb")) == fakes.last.run != fakes.made[0].run
    assert fakes.last.sent == sorted(fakes.made[0].sent, key=lambda entry: entry[0])
    assert fakes.last.finished is False
    assert (tmp_path / "tracker.json").read_text() == link
    fakes.fails_at = 2
    with pytest.raises(UserError, match="wandb failed at step 2"):
        export(tmp_path, TrackConfig(to="wandb"))


# ── The real libraries ─────────────────────────────────────────────────────────────────────────────────────────────


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    reader: Any = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    (run,) = (folder / "tensorboard").iterdir()
    events = reader.EventAccumulator(str(run))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_through_a_stopped_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    changes: dict[str, Any] = {
        "track": "tensorboard",
        "evaluation": {"data": {"path": "lab:held-out"}, "problems": 4, "samples": 1},
    }
    folder = run_small(tmp_path / "run", checkpoint={"every": 2}, **changes)
    whole = scalars(folder, "train/loss")
    assert whole == [(r["step"], pytest.approx(r["loss"], rel=1e-6)) for r in Records(folder).read("metrics")]
    assert [step for step, _ in scalars(folder, "held-out/greedy/accuracy")] == [0, 3]
    # As if it had been killed after step 3, and only step 2 saved.
    (last,) = (folder / "checkpoints").glob("step-*3")
    last.rename(tmp_path / "gone")
    run_small(folder, resume=True, checkpoint={"every": 2}, **changes)
    assert scalars(folder, "train/loss") == whole
    assert [step for step, _ in scalars(folder, "held-out/greedy/accuracy")] == [0, 3]


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: a 7-byte header, then blocks of 32 KiB with (checksum, length, type) chunks."""
    record: Any = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, or last part
            yield record.FromString(whole)
            whole = b""


def whole_wandb_records(path: Path) -> list[Any]:
    """All records of a finished run: its service closes the file only after ``finish`` has returned."""
    deadline = time.monotonic() + 30
    while True:
        records = list(wandb_records(path))
        kinds = [record.WhichOneof("record_type") for record in records]
        if "exit" in kinds:
            return records
        assert time.monotonic() < deadline, f"{path.name} ends after {kinds}"
        time.sleep(0.05)


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    go(tmp_path, range(1, 4))
    cut(tmp_path, last=2)
    go(tmp_path, range(3, 5), resumed=True)
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    run = json.loads((tmp_path / "tracker.json").read_text())["run"]
    assert [file.name for file in files] == [f"run-{run}.wandb"] * 2
    steps = []
    for file in files:
        records = whole_wandb_records(file)
        history = [{i.key or i.nested_key[0]: i.value_json for i in r.history.item} for r in records if r.history.item]
        steps += [int(h["_step"]) for h in history if "train/loss" in h]
        assert all(json.loads(h["train/loss"]) == METRIC["loss"] for h in history if "train/loss" in h)
        known = {
            i.key: i.value_json for r in records if r.WhichOneof("record_type") == "run" for i in r.run.config.update
        }
        assert known["seed"] == "0"
        everything = file.read_bytes()
        for private in (b"private", str(tmp_path).encode(), str(Path.cwd()).encode(), sys.argv[0].encode()):
            assert private not in everything
    assert steps == [1, 2, 3, 4]


def test_trackio_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trackio")
    monkeypatch.delenv("TRACKIO_SPACE_ID", raising=False)
    storage: Any = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
    for module in list(sys.modules.values()):  # the folder is fixed when trackio is imported
        if getattr(module, "__name__", "").startswith("trackio") and hasattr(module, "TRACKIO_DIR"):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    go(tmp_path / "run", range(1, 4), to="trackio")
    cut(tmp_path / "run", last=2)
    go(tmp_path / "run", range(3, 5), to="trackio", resumed=True)
    run = json.loads((tmp_path / "run" / "tracker.json").read_text())["run"]
    assert storage.get_runs("sgsd") == [run]
    logs = storage.get_logs("sgsd", run)
    assert [entry["step"] for entry in logs if "train/loss" in entry] == [1, 2, 3, 4]
    assert [entry["step"] for entry in logs if "held-out/greedy/accuracy" in entry] == [0]
    assert storage.get_run_config("sgsd", run)["seed"] == 0
    assert "private" not in repr(logs)
    assert capsys.readouterr().out == ""


class StandInMlflow:
    """MLflow's client as its documentation describes it; the library itself is not installed where this was written."""

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}

    def get_experiment_by_name(self, name: str) -> Any:
        found = self.experiments.get(name)
        return None if found is None else types.SimpleNamespace(experiment_id=found)

    def create_experiment(self, name: str, artifact_location: str | None = None, tags: Any = None) -> str:
        return self.experiments.setdefault(name, str(len(self.experiments)))

    def create_run(self, experiment_id: str, start_time: Any = None, tags: Any = None, run_name: str = "") -> Any:
        self.runs[run_name + "!"] = {"status": "RUNNING", "metrics": [], "params": []}
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_name + "!"))

    def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> None:
        self.runs[run_id]["status"] = status

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        assert len(params) <= 100
        self.runs[run_id]["metrics"] += metrics
        self.runs[run_id]["params"] += params

    def set_terminated(self, run_id: str, status: str | None = None, end_time: int | None = None) -> None:
        self.runs[run_id]["status"] = status


def test_mlflow_calls_on_a_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = StandInMlflow()
    entities = types.ModuleType("mlflow.entities")
    entities.Metric = lambda key, value, timestamp, step: (key, value, timestamp, step)  # type: ignore[attr-defined]
    entities.Param = lambda key, value: (key, value)  # type: ignore[attr-defined]
    package = types.ModuleType("mlflow")
    package.MlflowClient = lambda: server  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", package)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    go(tmp_path, range(1, 4), to="mlflow")
    cut(tmp_path, last=2)
    go(tmp_path, range(3, 5), to="mlflow", resumed=True)
    ((run, found),) = server.runs.items()
    assert run.endswith("!")
    assert found["status"] == "FINISHED"
    assert [step for key, _, _, step in found["metrics"] if key == "train/loss"] == [1, 2, 3, 4]
    assert ("seed", "0") in found["params"]
    assert len(found["params"]) == len(dict(found["params"]))
