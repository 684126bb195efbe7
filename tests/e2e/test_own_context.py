"""The contexts of docs/contexts.md, in a user's own file in the working folder, work in every command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from runs import SMALL, merged, small_config
from sgsd.cli.main import run
from sgsd.contexts import Answer, Critique, Joined, NoContext, RandomPairs, SkillPairs, named_context
from sgsd.contexts.names import NAMES
from sgsd.methods import build
from sgsd.methods.method import RetrievalSoftmax, Uniform
from sgsd.records.run_files import Records
from sgsd.types import UserError

PAGE = Path(__file__).parents[2] / "docs" / "contexts.md"
MINE = {"name": "sgsd", "context": "mine:TwoHints", "confidence": 0.01}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files of the documentation."""
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        (tmp_path / name).write_text(code, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def config_file(folder: Path, **changes: Any) -> str:
    path = folder / "config.yaml"
    settings = {"method": MINE, "bank": {"path": None}, "output": str(folder / "run")}
    path.write_text(yaml.safe_dump(merged(SMALL, merged(settings, changes))), encoding="utf-8")
    return str(path)


def test_it_is_fifteen_lines(folder: Path) -> None:
    (code,) = re.findall(r"```python\n# mine\.py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    assert {path.name for path in folder.glob("*.py")} == {"mine.py", "own_answers.py"}


def test_it_trains_by_the_command_from_the_folder_it_lies_in(folder: Path) -> None:
    command = [sys.executable, "-P", "-m", "sgsd.cli", "train", config_file(folder, steps=1)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (metrics,) = Records(folder / "run").read("metrics")
    assert metrics["grad_norm"] > 0
    (line,) = Records(folder / "run").read("sightings")
    assert {item for _, items, *_ in line["teachers"] for item in items} == {"backwards", "again"}
    saved = yaml.safe_load((folder / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert saved["method"]["context"] == "mine:TwoHints"
    assert (folder / "run" / "report.html").is_file()


def test_an_objective_and_a_context_of_ones_own_train_together(folder: Path) -> None:
    page = (PAGE.parent / "methods.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n# distil\.py\n(.*?)```", page, re.DOTALL)
    (folder / "distil.py").write_text(code, encoding="utf-8")
    method = {"name": "distil:reinforced", "clip": 0.5, "context": "mine:TwoHints"}
    command = [sys.executable, "-P", "-m", "sgsd.cli", "train", config_file(folder, method=method)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    metrics = Records(folder / "run").read("metrics")
    assert len(metrics) == SMALL["steps"]
    assert all(0 < record["objective/size"] <= 0.5 for record in metrics)
    for rollout in Records(folder / "run").read("rollouts"):
        assert [teacher["items"] for teacher in rollout["teachers"]] == [["backwards"], ["again"]]


def test_it_trains_beside_a_bank(folder: Path) -> None:
    method = {"name": "sgsd", "k": 2, "others": ["mine:TwoHints"]}
    assert run(["train", config_file(folder, steps=1, method=method, bank={"path": "lab"})]) == 0
    (line,) = Records(folder / "run").read("sightings")
    assert len(line["teachers"]) == 4 * SMALL["rollouts"]
    items = json.loads((folder / "run" / "items.json").read_text())["items"]
    assert "backwards" not in {item["id"] for item in items}  # they are the bank's


def test_it_is_shown_before_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["preview", config_file(folder)]) == 0
    shown = capsys.readouterr().out
    assert "teacher 1, weight 0.500 (backwards)" in shown
    assert "Work backwards." in shown
    assert "Read it again: " in shown
    assert run(["train", config_file(folder), "--dry-run"]) == 0
    assert "teachers' prompts" in capsys.readouterr().out
    path = config_file(folder, method={"name": "sgsd"}, bank={"path": "lab"})
    assert run(["preview", path, "--method.context", "mine:TwoHints"]) == 0
    assert "Work backwards." in capsys.readouterr().out


def test_a_probe_measures_it_against_controls(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["probe", config_file(folder), "--rollouts", "24", "--json", "probe.json"]) == 0
    capsys.readouterr()
    found = json.loads((folder / "probe.json").read_text())
    assert {item["id"] for item in found["items"]} == {"backwards", "again"}
    assert {"bank", "irrelevant", "shuffled", "null"} == set(found["findings"]["separations"]["raw"])


def test_one_of_rollouts_trains_and_is_named_before(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config_file(folder, steps=1, method={"name": "sdft", "context": "own_answers:OwnAnswer"})
    assert run(["preview", path]) == 0
    assert "Made of the rollouts, which there are none of yet: ownanswer" in capsys.readouterr().out
    assert run(["train", path]) == 0
    (metrics,) = Records(folder / "run").read("metrics")
    assert metrics["grad_norm"] > 0
    assert run(["probe", path]) == 2
    assert "retrieves no skill pairs" in capsys.readouterr().err


# ── By name ────────────────────────────────────────────────────────────────────────────────────────────────────────

OWN = """
from sgsd.contexts import Answer, Joined
from mine import TwoHints

both = Joined((TwoHints(), Answer("answer")))
number = 3

class Needy(TwoHints):
    def __init__(self, more):
        pass

def nothing():
    return None
"""


def test_a_context_takes_the_place_of_the_methods_own(folder: Path) -> None:
    (folder / "more.py").write_text(OWN, encoding="utf-8")
    method = build("sgsd", context="more:both")
    assert isinstance(method.context, Joined)
    assert method.context.parts[1] == Answer("answer")
    assert (method.context.teachers, method.weights) == (2, Uniform())
    assert (method.name, method.stance) == ("sgsd", build("sgsd").stance)
    by_chance = build("sgsd", context="random")
    assert (by_chance.context, by_chance.weights) == (RandomPairs(1), RetrievalSoftmax())
    mixed = build("sgsd", k=2, others=["sibling", "mine:TwoHints"], group=4)
    assert mixed.context.teachers == 5
    assert build("sgsd", context=None) == build("sgsd")
    saved = small_config(folder, method={"name": "sgsd", "k": 2}).method
    assert "context" not in saved  # as in configurations that were saved before


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            {"name": "sgsd", "context": "siblin"},
            r"method\.context: there is no context 'siblin'; did you mean 'sibling'",
        ),
        ({"name": "sgsd", "others": ["nul"]}, r"method\.others: there is no context 'nul'; did you mean 'null'\?"),
        ({"name": "sgsd", "context": "nowhere:Mine"}, r"method\.context: nowhere:Mine cannot be imported"),
        ({"name": "sgsd", "context": "mine:ThreeHints"}, r"method\.context: mine:ThreeHints cannot be imported"),
        ({"name": "sgsd", "context": "more:number"}, r"method\.context: more:number is no context"),
        ({"name": "sgsd", "context": "more:nothing"}, r"method\.context: more:nothing makes a NoneType, not a context"),
        ({"name": "sgsd", "context": "more:Needy"}, r"method\.context: more:Needy cannot be made .*default value"),
        ({"name": "sgsd", "context": 3}, r"method\.context: name a context, not 3"),
        ({"name": "sgsd", "context": "sibling"}, r"method\.context: sibling does not fit: .*group ≥ 2"),
        ({"name": "sgsd_calibrated", "context": "mine:TwoHints"}, r"mine:TwoHints does not fit: .*contrast"),
        ({"name": "grpo", "context": "mine:TwoHints"}, r"mine:TwoHints does not fit: .*scored for nothing"),
        ({"name": "sgsd", "context": "mine:TwoHints", "k": "two"}, r"method\.k: input should be a valid integer"),
    ],
)
def test_what_cannot_be_a_context_is_one_line(folder: Path, method: dict[str, Any], message: str) -> None:
    (folder / "more.py").write_text(OWN, encoding="utf-8")
    with pytest.raises(UserError, match=message) as refused:
        small_config(folder, method=method)
    assert "\n" not in str(refused.value)


def test_every_name_is_one_teacher_that_says_what_it_needs() -> None:
    for name in NAMES:
        context = named_context(name)
        assert context.teachers == 1
        assert ("bank" in context.all_needs()) == (name in ("irrelevant", "shuffled", "random"))
    assert named_context("critique") == Critique()
    assert NoContext().teachers == 0
    assert SkillPairs(2).all_needs() == {"bank"}


def test_declarations_are_read_without_torch() -> None:
    code = "import sys, sgsd.contexts; print({'torch', 'transformers', 'jinja2', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
