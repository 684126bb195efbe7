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
import yaml

from runs import SMALL, merged, small_config
from sgsd.methods import build
from sgsd.records.run_files import Records
from sgsd.train import make_config
from sgsd.types import UserError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "methods.md"


def test_the_method_of_the_documentation_trains(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(# mine\.py\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    config = small_config(tmp_path / "run", rollouts=8).model_dump(mode="json")
    config["method"] = {"name": "mine:braided", "tau": 0.3}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "sgsd.cli", "train", "mine.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    metrics = Records(tmp_path / "run").read("metrics")
    assert len(metrics) == config["steps"]
    assert any(record["grad_norm"] > 0 for record in metrics)
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert saved["method"] == {"name": "mine:braided", "k": 4, "tau": 0.3}


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
