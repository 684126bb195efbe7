"""Runs with a verifier of one's own: TRL's forms, columns, failures and hangs; each trains, counts and names rows."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import merged, quiet, run_small, small_config
from sgsd.cli.dry_run import dry_run
from sgsd.cli.main import run as sgsd
from sgsd.lab.task import enumerate_problems
from sgsd.methods.advantages import group_advantages
from sgsd.records.run_files import Records
from sgsd.types import UserError

SOURCE = '''
from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass

import numpy as np
import torch


def boxed(text):
    return re.findall(r"\\\\boxed\\{(.*?)\\}", text)[-1:]


def reward_exact(completions, answer, **kwargs):
    """The form of TRL's reward functions."""
    return [1.0 if boxed(text) == [right] else 0.0 for text, right in zip(completions, answer)]


def reward_messages(prompts, completions, answer, **kwargs):
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if boxed(text) == [right] else 0.0 for text, right in zip(contents, answer)]


def reward_topic(completions, topic, **kwargs):
    return [1.0 if name == "carry" else 0.0 for name in topic]


async def reward_slowly(completions, answer, **kwargs):
    await asyncio.sleep(0.001)
    return reward_exact(completions, answer)


def reward_yields(completions, answer, **kwargs):
    yield from reward_exact(completions, answer)


def one(completion, answer):
    return boxed(completion) == [answer]


async def one_slowly(completion, answer):
    await asyncio.sleep(0.001)
    return one(completion, answer)


@dataclass
class Exact:
    """A class is made with the options; `Exact` looks up its own module while it is made."""

    inside: str = "boxed"

    def __call__(self, completions, answer, **kwargs):
        return [torch.tensor(float(right)) for right in reward_exact(completions, answer)]


class Grader:
    def grade(self, completions, answers):
        return [np.bool_(right) for right in reward_exact(completions, answers)]


def reward_brief(completion_ids, **kwargs):
    return [len(ids) / 96 for ids in completion_ids]


def leaves(completion, answer):
    raise SystemExit(0)


def partly(completions, answer, **kwargs):
    return [1.0 if boxed(c) == [a] else 0.25 * bool(boxed(c)) for c, a in zip(completions, answer)]


def raises_on_a_third(completion, answer, number):
    if number % 3 == 0:
        raise RuntimeError(f"no unit test for {number}")
    return boxed(completion) == [answer]


def hangs_on_one(completions, answer, number, **kwargs):
    while 0 in number:
        time.sleep(0.01)
    return reward_exact(completions, answer)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_graders.py").write_text(SOURCE)
    rows = [p for pair in zip(*(enumerate_problems(name, False)[:12] for name in ("carry", "square"))) for p in pair]
    with (tmp_path / "data.jsonl").open("w") as file:
        for number, problem in enumerate(rows):
            row = {"problem": problem.text, "answer": problem.solve({"carry": True, "square": True}).answer}
            file.write(json.dumps({**row, "number": number, "topic": problem.family.name}) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(folder: Path, function: str, **changes: Any) -> Records:
    verifier = {"name": f"own_graders.py:{function}"}
    base: dict[str, Any] = {"rollouts": 8, "data": {"path": "data.jsonl", "limit": None}, "verifier": verifier}
    output = folder / f"{function}-{len(list(folder.iterdir()))}"
    return Records(run_small(output, **merged({"logged_rollouts": 16, **base}, changes)))


@pytest.mark.parametrize(
    ("function", "verifier"),
    [
        ("reward_exact", {}),
        ("reward_messages", {"completions": "messages"}),
        ("reward_slowly", {}),
        ("reward_yields", {}),
        ("one", {}),
        ("one_slowly", {}),
        ("Exact", {"options": {"inside": "box"}}),
        ("Grader", {}),
    ],
)
def test_every_form_trains_as_the_bundled_grader_does(function: str, verifier: dict[str, Any], folder: Path) -> None:
    own = trained(folder, function, verifier=verifier).read("metrics")
    base: dict[str, Any] = {"steps": 3, "rollouts": 8, "data": {"path": "data.jsonl", "limit": None}}
    assert own == Records(run_small(folder / "bundled", **base)).read("metrics")
    assert 0 < sum(row["accuracy"] for row in own) < 3


def test_a_column_reaches_it(folder: Path) -> None:
    for row in trained(folder, "reward_topic").read("rollouts"):
        assert row["outcome"] == (1 if row["problem"].startswith("Addition") else -1)


def test_rewards_make_the_advantages_and_the_verdict_the_polarity(folder: Path) -> None:
    with pytest.raises(UserError, match=r"returned 0\.25 on problem data-\d+: .*verifier\.threshold"):
        trained(folder, "partly", method={"name": "grpo", "group": 4})
    records = trained(folder, "partly", verifier={"threshold": 0.5}, method={"name": "grpo", "group": 4})
    rows = records.read("rollouts")
    assert {row["reward"] for row in rows} == {0.25, 1.0}
    assert all(row["outcome"] == (1 if row["reward"] == 1.0 else -1) for row in rows)
    first = sorted((row for row in rows if row["step"] == 1), key=lambda row: row["index"])
    signed = torch.tensor([2 * row["reward"] - 1 for row in first])
    expected = group_advantages(outcome_B=signed, group_B=torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]))
    found = [next((a for a in row["advantages"] if a), 0.0) for row in first]
    assert found == pytest.approx(expected.tolist(), abs=1e-4)
    figures = records.read("metrics")[0]
    assert figures["reward"] == pytest.approx(sum(row["reward"] for row in first) / 8)
    assert figures["accuracy"] < figures["reward"]


def test_one_that_raises_on_a_third_of_the_rows(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(
        UserError, match=r"RuntimeError \(no unit test for \d+\) on problem data-\d+, .*own_graders\.py:\d+ in"
    ):
        trained(folder, "raises_on_a_third")
    records = trained(folder, "raises_on_a_third", verifier={"on_error": "unknown"})
    rows = records.read("rollouts")
    for row in rows:
        assert (row["status"] == "unknown") == (int(row["problem_id"].removeprefix("data-")) % 3 == 0)
    assert 0 < sum(row["ungraded"] for row in records.read("metrics")) < 3
    assert any("raised RuntimeError on problem data-" in line for line in caplog.messages)


def test_one_that_hangs_on_one_row(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = trained(folder, "hangs_on_one", verifier={"timeout": 0.5}, data={"limit": 12}, rollouts=12)
    rows = records.read("rollouts")
    assert {row["problem_id"] for row in rows if row["status"] == "timeout"} == {"data-0"}
    assert "took longer than verifier.timeout on problem data-0" in caplog.text


def test_the_tokens_of_a_completion_reach_it(folder: Path) -> None:
    rows = trained(folder, "reward_brief", verifier={"threshold": 0.5}).read("rollouts")
    assert rows
    for row in rows:
        assert row["reward"] == pytest.approx(len(row["tokens"]) / 96, abs=1e-5)


@pytest.mark.parametrize("on_error", ["stop", "unknown"])
@pytest.mark.parametrize("name", ["own_graders.py:leaves", "gone.py:f", "gone:f"])
def test_one_that_leaves_ends_the_command_with_one_line_and_2(
    name: str, on_error: str, folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "gone.py").write_text("import sys\nsys.exit(0)\n")
    config = small_config(folder / "run", data={"path": "data.jsonl"}, verifier={"name": name, "on_error": on_error})
    (folder / "c.yaml").write_text(config.to_yaml())
    assert sgsd(["train", "c.yaml"]) == 2
    (line,) = [line for line in (capsys.readouterr().err + caplog.text).splitlines() if "called sys.exit" in line]
    assert f"verifier '{name}'" in line
    assert ("on problem data-" in line) == (name == "own_graders.py:leaves")


def test_the_dry_run_asks_it_nothing_but_what_a_run_would(folder: Path) -> None:
    (folder / "asked.py").write_text(
        "ASKED = []\ndef f(completion, answer, number):\n    ASKED.append((completion, answer, number))\n"
        "    return True\n"
    )
    config = small_config(folder / "run", data={"path": "data.jsonl", "limit": None}, verifier={"name": "asked:f"})
    dry_run(config, quiet())
    asked = importlib.import_module("asked").ASKED
    assert asked == []
    dry_run(config, quiet(), sample=8)
    shown, asked[:] = list(asked), []
    run_small(folder / "run", steps=1, data={"path": "data.jsonl", "limit": None}, verifier={"name": "asked:f"})
    assert len(shown) == 8
    assert shown == asked


@pytest.mark.parametrize(
    ("golds", "count"), [(['["7"]'] * 4, 4), (["7", "(a", "7", "7 8"], 2), (["7", "8", "9", "10"], 0)]
)
def test_held_out_problems_that_cannot_be_graded_are_counted_and_named(
    golds: list[str], count: int, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"problem": f"Addition: {n}+4", "answer": gold} for n, gold in enumerate(golds)]
    (folder / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation = {"data": {"path": "held.jsonl"}, "problems": 4, "samples": 1}
    run_small(folder / "run", steps=0, evaluation=evaluation)
    first = next(
        (f"problem held-{n}, reference {gold!r} (unparsed)" for n, gold in enumerate(golds) if len(gold) > 1), ""
    )
    said = [line for line in caplog.messages if "have no verdict and count as wrong" in line]
    assert bool(said) == bool(count)
    for line in said:
        assert f"held-out: {count} of 4 problems" in line
        assert first in line
