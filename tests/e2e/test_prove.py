"""The long proofs: `make prove`. Minutes each; `make test` runs a sample of them elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.prove


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
    """To the last bit where processor and torch are those it was made with; elsewhere it need only run."""
    import torch

    from sgsd.lab.policy import POLICY_FOLDER
    from sgsd.lab.pretrain import Recipe, pretrain, save_policy

    shipped = json.loads((POLICY_FOLDER / "recipe.json").read_text())
    digest = save_policy(*pretrain(Recipe()), Recipe(), tmp_path / "policy")
    if (shipped["torch"], shipped["cpu"]) == (torch.__version__, torch.backends.cpu.get_cpu_capability()):
        assert digest == shipped["sha256"]
