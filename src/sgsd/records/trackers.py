"""The trackers: one small class for each library, imported only when it is asked for.

The libraries' own interfaces are used rather than Accelerate's trackers: those need an Accelerator even for an export,
add a key of their own to trackio's configuration, and start another TensorBoard folder at each resumption.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from sgsd.config.sections import TrackConfig


class Tracker(Protocol):
    """One run in one tracker."""

    run: str  # by which the tracker finds this run again
    look: str  # how to look at it
    rewinds: bool  # whether it forgets by itself what a resumed run has taken back

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def finish(self, *, failed: bool) -> None: ...


@dataclass(frozen=True)
class Start:
    """The arguments of a tracker's start."""

    config: TrackConfig
    folder: Path
    new_name: str
    run: str | None  # the tracker's own run to go on with
    next_step: int  # the first step that is not in the run's files yet
    settings: Mapping[str, Any]  # the run's configuration, dotted names


class TensorBoard:
    """Event files in RUN/tensorboard. `purge_step` makes TensorBoard forget what a resumed run has taken back."""

    rewinds = True

    def __init__(self, start: Start) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run = start.run or start.new_name
        purge = start.next_step if start.run else None
        folder = start.folder / "tensorboard"
        self.look = f"tensorboard --logdir {folder}"
        self.writer = SummaryWriter(str(folder / self.run), purge_step=purge)
        if start.run is None:
            lines = (f"    {key}: {value}" for key, value in start.settings.items())
            self.writer.add_text("config", "\n".join(lines), 0)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def finish(self, *, failed: bool) -> None:
        self.writer.close()


class WandB:
    """Weights & Biases, offline in RUN/wandb unless WANDB_MODE says otherwise."""

    rewinds = False

    def __init__(self, start: Start) -> None:
        wandb: Any = import_module("wandb")
        self.run = start.run or start.new_name
        # Left to itself it would also send the terminal's text, the command line, file paths and the git remote.
        quiet = wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            disable_git=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
        )
        self.api = wandb.init(
            project=start.config.project,
            entity=start.config.entity,
            id=self.run,
            name=self.run,
            dir=str(start.folder),
            resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=dict(start.settings),
            settings=quiet,
        )
        offline = f"offline; wandb sync {start.folder / 'wandb'}/offline-run-* sends it"
        self.look = offline if self.api.offline else str(self.api.url)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.api.log(dict(values), step=step)

    def finish(self, *, failed: bool) -> None:
        self.api.finish(exit_code=int(failed))


class Trackio:
    """trackio, on this machine unless TRACKIO_SPACE_ID or TRACKIO_SERVER_URL says otherwise."""

    rewinds = False

    def __init__(self, start: Start) -> None:
        with redirect_stdout(io.StringIO()):  # it would talk into the live view
            self.api: Any = import_module("trackio")
            run = self.api.init(
                project=start.config.project,
                name=start.run or start.new_name,
                resume="allow" if start.run else "never",
                config=dict(start.settings),
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )
        self.run, self.look = run.name, f"trackio show --project {start.config.project}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.api.log(dict(values), step=step)

    def finish(self, *, failed: bool) -> None:
        with redirect_stdout(io.StringIO()):
            self.api.finish()


class MLflow:
    """MLflow, in its own local store unless MLFLOW_TRACKING_URI says otherwise.

    Its client, not its fluent interface, which adds the user's name and the program's path to a run.
    """

    rewinds = False
    params_at_once, longest_param = 100, 500

    def __init__(self, start: Start) -> None:
        entities: Any = import_module("mlflow.entities")
        client: Any = import_module("mlflow").MlflowClient()
        self.metric, self.client, self.look = entities.Metric, client, "mlflow ui"
        if start.run is not None:
            self.run = start.run
            self.client.update_run(self.run, status="RUNNING")
            return
        found = self.client.get_experiment_by_name(start.config.project)
        experiment = found.experiment_id if found else self.client.create_experiment(start.config.project)
        self.run = self.client.create_run(experiment, run_name=start.new_name).info.run_id
        params = [entities.Param(key, str(value)[: self.longest_param]) for key, value in start.settings.items()]
        for i in range(0, len(params), self.params_at_once):
            self.client.log_batch(self.run, params=params[i : i + self.params_at_once])

    def log(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self.client.log_batch(self.run, metrics=[self.metric(name, value, now, step) for name, value in values.items()])

    def finish(self, *, failed: bool) -> None:
        self.client.set_terminated(self.run, status="FAILED" if failed else "FINISHED")


TRACKERS: Mapping[str, Callable[[Start], Tracker]] = {
    "trackio": Trackio,
    "wandb": WandB,
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
}
