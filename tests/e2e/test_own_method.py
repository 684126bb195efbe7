"""The method of docs/methods.md, written as a user would in a file outside the package, trains from a config."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from runs import SMALL, merged, run_small, small_config
from sgsd.config.sections import ModelConfig
from sgsd.methods import LossInputs, LossOutputs, build, losses
from sgsd.records.run_files import Records
from sgsd.train import make_config
from sgsd.train.models import load_model
from sgsd.types import UserError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "methods.md"


def train_from_documentation(folder: Path, module: str, method: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics of a run whose method is a file of the documentation, outside the package."""
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(rf"```python\n(# {module}\.py\n.*?)```", text, re.DOTALL)
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    config = small_config(folder / "run", rollouts=8).model_dump(mode="json")
    config["method"] = method
    (folder / "mine.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "sgsd.cli", "train", "mine.yaml"]
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    metrics = Records(folder / "run").read("metrics")
    assert len(metrics) == config["steps"]
    assert any(record["grad_norm"] > 0 for record in metrics)
    return metrics


def test_the_method_of_the_documentation_trains(tmp_path: Path) -> None:
    train_from_documentation(tmp_path, "mine", {"name": "mine:braided", "tau": 0.3})
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert saved["method"] == {"name": "mine:braided", "k": 4, "tau": 0.3}


def test_the_objective_of_the_documentation_trains(tmp_path: Path) -> None:
    metrics = train_from_documentation(tmp_path, "distil", {"name": "distil:reinforced", "clip": 0.5})
    assert all(0 <= record["objective/size"] <= 0.5 for record in metrics)
    assert any(record["objective/size"] > 0 for record in metrics)


def test_the_equation_that_is_shown_is_the_one_a_run_executes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another equation in its place, and the losses of a run, as those of `sgsd_loss`, are others."""
    before = Records(run_small(tmp_path / "before", steps=1)).read("metrics")[0]["loss"]
    shown, calls = losses.sgsd_token_losses, []

    def doubled(inputs: LossInputs, **choices: Any) -> LossOutputs:
        outputs = shown(inputs, **choices)
        calls.append(outputs)
        return replace(outputs, losses_BT=2 * outputs.losses_BT)

    one, row = torch.ones(1), torch.zeros(1, 1)
    tensors = {"student_logps_BT": row, "teacher_logps_BKT": row[None] + 1, "mask_BT": row == 0, "weights_BK": row + 1}
    loss, _ = losses.sgsd_loss(**tensors, outcome_B=one)
    monkeypatch.setattr(losses, "sgsd_token_losses", doubled)
    after = Records(run_small(tmp_path / "after", steps=1)).read("metrics")[0]["loss"]
    assert calls
    assert before != 0
    assert after == pytest.approx(2 * before)
    assert losses.sgsd_loss(**tensors, outcome_B=one)[0] == 2 * loss != 0


def test_a_run_executes_the_published_top_k_form(tmp_path: Path) -> None:
    """Support and divergence on each teacher's top k and the sampled token; with all tokens kept, the full form."""
    method = {"name": "sgsd_distribution", "k": 2, "confidence": 0.01}

    def run(name: str, **options: Any) -> dict[str, Any]:
        return Records(run_small(tmp_path / name, steps=1, method={**method, **options})).read("metrics")[0]

    full, local = run("full"), run("local", top_k=3, keep_sampled=True)
    everything = run("everything", top_k=vocabulary(), keep_sampled=True)
    assert local["grad_norm"] > 0
    assert local["divergence"] < full["divergence"]
    for key in ("loss", "grad_norm", "divergence", "delta_abs"):
        assert everything[key] == pytest.approx(full[key], rel=1e-4)


def vocabulary() -> int:
    return load_model(ModelConfig(path="lab")).get_output_embeddings().weight.shape[0]


def test_the_method_of_the_readme_is_sgsd(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"## A method is a few lines\n\n```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "printed.py").write_text(code, encoding="utf-8")
    assert runpy.run_path(str(tmp_path / "printed.py"))["method"] == replace(build("sgsd"), paper="")


NEEDY = """
from sgsd.methods import Method, build

def needy(k: int, tau: float = 1.0) -> Method:
    return build("sgsd", k=k, tau=tau)

def takes_more(k: int = 2, **more: float) -> Method:
    return build("sgsd", k=k)
"""


def test_an_option_without_a_default_must_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_recipes.py").write_text(NEEDY, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    def method_of(name: str, **options: Any) -> dict[str, Any]:
        return make_config(merged(SMALL, {"method": {"name": f"own_recipes:{name}", **options}})).method

    with pytest.raises(UserError, match=r"^method\.k: own_recipes:needy needs it$"):
        method_of("needy")
    with pytest.raises(UserError, match=r"method\.k: input should be a valid integer, not 'two'"):
        method_of("needy", k="two")
    with pytest.raises(UserError, match=r"method\.kk: own_recipes:needy has no such option; did you mean 'k'\?"):
        method_of("needy", kk=2)
    assert method_of("needy", k=3) == {"name": "own_recipes:needy", "k": 3, "tau": 1.0}
    assert method_of("takes_more") == {"name": "own_recipes:takes_more", "k": 2}
