"""The commands of docs/first-real-run.md, to the letter, in an environment made by the page's own pip line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import standins

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "first-real-run.md"
SMALL = {
    "steps": 2,
    "model": {"dtype": "float32", "gradient_checkpointing": True},
    "lora": {"rank": 4, "alpha": 8},
    "sampling": {"max_tokens": 6},
    "compute": {"threads": 1},
}


def commands() -> list[str]:
    """Every command of the page's shell blocks, continued lines joined, comments off."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := " ".join(line.partition(" #")[0].split()))]


def test_the_page_has_commands_of_each_kind() -> None:
    found = commands()
    for begins in (
        "pip install torch",
        "pip install 'sgsd[",
        "sgsd doctor",
        "sgsd bank build",
        "sgsd probe",
        "sgsd train",
    ):
        assert any(command.startswith(begins) for command in found)
    assert any(command.startswith("accelerate launch -m sgsd train") for command in found)


@pytest.mark.prove
def test_they_run_with_a_toy_model(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    paths = f"{tmp_path / 'env' / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    environment |= {"ACCELERATE_USE_CPU": "true", "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    environment.pop("PYTHONPATH", None)

    def run(command: str) -> str:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    model = standins.save_model(tmp_path / "model", "qwen3")
    rows = [standins.plain_row(*sum_) for sum_ in standins.SUMS]
    data = standins.write_parquet(tmp_path / "data.parquet", rows)
    standins.write_bank(tmp_path / "bank.json")
    for command in commands():
        if command.startswith("hf download"):
            continue  # the weights are the stand-in's
        if command.startswith("pip install 'sgsd["):
            command = command.replace("sgsd[", f"{ROOT}[")
        run(command)
        if command.startswith("sgsd doctor"):  # sgsd is there: its configs, made small
            for name in {found for line in commands() for found in re.findall(r"configs/(\S+)\.yaml", line)}:
                target = tmp_path / "configs" / f"{name}.yaml"
                target.parent.mkdir(exist_ok=True)
                run(f"sgsd configs {name} --output {target}")
                raw = yaml.safe_load(target.read_text())
                for key, value in SMALL.items():
                    raw[key] = {**raw[key], **value} if isinstance(raw.get(key), dict) else value
                raw["model"]["path"], raw["data"] = str(model), {"path": str(data)}
                target.write_text(yaml.safe_dump(raw))
        if command.startswith("sgsd bank build"):  # a dry run; the bank that it would have made
            run("sgsd bank import bank.json my_bank.sqlite")
    assert (tmp_path / "runs" / "qwen3-1.7b-sgsd" / "report.html").exists()
    assert (tmp_path / "runs" / "qwen3-1.7b-grpo-equal-1" / "summary.json").exists()
