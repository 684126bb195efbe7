"""The long proofs: `make prove`. Minutes each; `make test` runs a sample of them elsewhere."""

from __future__ import annotations

import json
import logging
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from resumable import METHODS, assert_same_bits, bank_history, leftovers, lines, numbers
from runs import SMALL, merged, run_small
from sgsd.checkpoint.saving import checkpoints

pytestmark = pytest.mark.prove

#: The hash of the policy that each processor makes of the recipe with two threads.
RECORDED = {"GenuineIntel 6/207/2": "dac1756cbea4a3cab55e56a958c9fef176a45c8b31b27e1f3f955440dcb41698"}


def processor() -> str:
    return runpy.run_path(str(Path(__file__).parents[1] / "golden" / "record.py"))["processor"]()


@pytest.mark.parametrize("seed", range(5))
def test_the_demo_learns_whatever_the_seed(seed: int, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command = [sys.executable, "-m", "sgsd.cli", "demo", "--seed", str(seed), "--output", str(folder)]
    subprocess.run(command, check=True, timeout=600)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["problems"] >= 500
    assert summary["before"]["avg_at_4"]["accuracy"] <= 0.50
    assert summary["after"]["avg_at_4"]["accuracy"] >= 0.80
    assert summary["train_seconds"] <= 60
    assert (folder / "report.html").exists()


def test_the_recipe_makes_the_shipped_policy(tmp_path: Path) -> None:
    """To the last bit where processor and torch are those of a recording; elsewhere it need only run.

    The shipped one was made on a processor that nobody wrote down; another that also says AVX512 makes another.
    """
    import torch

    from sgsd.lab.pretrain import Recipe, pretrain, save_policy
    from sgsd.lab.tiny_policy import POLICY_FOLDER

    shipped = json.loads((POLICY_FOLDER / "recipe.json").read_text())
    digest = save_policy(*pretrain(Recipe()), Recipe(), tmp_path / "policy")
    if shipped["torch"] == torch.__version__:
        assert digest in (RECORDED.get(processor(), digest), shipped["sha256"])


@pytest.mark.parametrize("name", METHODS)
def test_resumed_after_any_step_it_is_the_same_run(name: str, tmp_path: Path) -> None:
    """Ten steps, ten checkpoints, ten resumptions; weights, teacher, optimizer and records to the last bit."""
    settings = {**METHODS[name], "steps": 10, "rollouts": 4, "checkpoint": {"every": 1, "keep": 10}}
    whole = run_small(tmp_path / "whole", **settings)
    assert len(checkpoints(whole / "checkpoints")) == 10
    for step in range(1, 11):
        parts = tmp_path / "parts"
        shutil.copytree(whole, parts)
        for later in checkpoints(parts / "checkpoints")[step:]:
            shutil.rmtree(later)
        run_small(parts, resume=True, **settings)
        assert_same_bits(whole, parts)
        assert bank_history(parts) == bank_history(whole)
        shutil.rmtree(parts)


STOPPER = """
import os, signal, sys
from pathlib import Path
from runs import quiet, small_config
from sgsd.train import run_training
from sgsd.train.rollout_source import RolloutSource

plain = RolloutSource.sample

def sample(source, step):
    if step == 2 and source.policy.accelerator.process_index == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return plain(source, step)

RolloutSource.sample = sample
run_training(small_config(Path(sys.argv[1])), quiet())
"""


def test_two_processes_stop_together_and_one_goes_on(tmp_path: Path) -> None:
    """Only the second is asked to stop. The numbers are one process's but for the order of additions."""
    script = tmp_path / "stopper.py"
    script.write_text(STOPPER)
    strategy = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *strategy, str(script), str(tmp_path / "two")]
    paths = os.pathsep.join(sys.path)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    subprocess.run(command, env=environment, check=True, timeout=300)
    (saved,) = checkpoints(tmp_path / "two" / "checkpoints")
    assert saved.name == "step-000001-pending"
    assert sorted(file.name for file in saved.glob("pending-*")) == ["pending-00000.json", "pending-00001.json"]
    run_small(tmp_path / "two", resume=True)
    whole = run_small(tmp_path / "one")
    for a, b in zip(lines(whole, "metrics"), lines(tmp_path / "two", "metrics"), strict=True):
        assert numbers(a) == pytest.approx(numbers(b), rel=1e-4, abs=1e-5)


KILLS, KILLS_A_RUN = 50, 5
SHORT_LIFE: dict[str, Any] = {
    "steps": 6,
    "rollouts": 4,
    "sampling": {"max_tokens": 48},
    "checkpoint": {"every": 1, "keep": 2},
    "evaluation": {
        "data": {"path": "lab:held-out"},
        "problems": 4,
        "samples": 1,
        "every": 3,
        "sampling": {"max_tokens": 48},
    },
}


@dataclass
class Life:
    """One process of a run, from its start to its end or its death."""

    folder: Path
    config: Path

    def __post_init__(self) -> None:
        resume = ["--resume"] if (self.folder / "config.yaml").exists() else []
        command = [sys.executable, "-m", "sgsd.cli", "train", str(self.config), "--output", str(self.folder), *resume]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.started = time.perf_counter()
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def wait_for_words(self) -> float:
        """Until it says something, which is after its start-up; returns the seconds that took."""
        assert self.process.stdout is not None
        self.process.stdout.readline()
        return time.perf_counter() - self.started

    def ended_within(self, seconds: float) -> bool:
        """Whether it comes to its end by then; killed otherwise."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
        words, _ = self.process.communicate()
        assert self.process.returncode in (0, -signal.SIGKILL), words.decode()
        return self.process.returncode == 0


def test_fifty_kills_at_any_moment_change_nothing(tmp_path: Path) -> None:
    """Half of the moments are drawn over a process's whole life, half over what follows its start-up.

    A run is killed up to five times, so that resumptions are killed as well, and then left to finish.
    """
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(merged(SMALL, SHORT_LIFE)))
    whole = Life(tmp_path / "whole", config)
    start_up = whole.wait_for_words()
    assert whole.ended_within(300)
    life = time.perf_counter() - whole.started
    moments, kills, runs, in_work, half_written = random.Random(0), 0, 0, 0, 0
    while kills < KILLS:
        runs += 1
        folder = tmp_path / f"run-{runs}"
        ended, deaths = False, 0
        while not ended:
            process = Life(folder, config)
            doomed = deaths < KILLS_A_RUN and kills < KILLS
            at_work = doomed and moments.random() < 0.5
            if at_work:
                process.wait_for_words()
            allowed = moments.uniform(0, life - start_up if at_work else life) if doomed else 300.0
            ended = process.ended_within(allowed)
            if not ended:
                deaths, kills, in_work = deaths + 1, kills + 1, in_work + at_work
                half_written += bool(folder.exists() and leftovers(folder))
        compare(tmp_path / "whole", folder)
    logging.getLogger(__name__).info(
        "%d kills in %d runs, %d drawn after start-up, %d left something half-written; life %.1f s, start-up %.1f s",
        *(kills, runs, in_work, half_written, life, start_up),
    )
    assert in_work >= KILLS // 4


def compare(whole: Path, folder: Path) -> None:
    assert_same_bits(whole, folder)
    assert bank_history(folder) == bank_history(whole)
    assert not leftovers(folder)
    for weights in (whole / "model").glob("*.safetensors"):
        assert (folder / "model" / weights.name).read_bytes() == weights.read_bytes()
    expected, found = (json.loads((run / "summary.json").read_text()) for run in (whole, folder))
    assert (found["before"], found["after"]) == (expected["before"], expected["after"])
    assert (folder / "report.html").exists()
