"""The method of docs/methods.md, written as a user would in a file outside the package, trains from a config."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from runs import small_config
from sgsd.train.records import Records

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


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
