"""Runs with a verifier of one's own: TRL's forms, columns, failures and hangs; each trains, counts and names rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import merged, run_small
from sgsd.lab.task import enumerate_problems
from sgsd.methods.advantages import group_advantages
from sgsd.records.run_files import Records
from sgsd.types import UserError

SOURCE = '''
import re
import time


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
    (tmp_path / "mine.py").write_text(SOURCE)
    rows = [p for pair in zip(*(enumerate_problems(name, False)[:12] for name in ("carry", "square"))) for p in pair]
    with (tmp_path / "data.jsonl").open("w") as file:
        for number, problem in enumerate(rows):
            row = {"problem": problem.text, "answer": problem.solve({"carry": True, "square": True}).answer}
            file.write(json.dumps({**row, "number": number, "topic": problem.family.name}) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(folder: Path, function: str, **changes: Any) -> Records:
    verifier = {"name": f"mine.py:{function}"}
    base: dict[str, Any] = {"rollouts": 8, "data": {"path": "data.jsonl", "limit": None}, "verifier": verifier}
    output = folder / f"{function}-{len(list(folder.iterdir()))}"
    return Records(run_small(output, **merged({"logged_rollouts": 16, **base}, changes)))


@pytest.mark.parametrize(
    ("function", "verifier"), [("reward_exact", {}), ("reward_messages", {"completions": "messages"})]
)
def test_trls_reward_functions_train_as_the_bundled_grader_does(
    function: str, verifier: dict[str, Any], folder: Path
) -> None:
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
        UserError, match=r"RuntimeError \(no unit test for \d+\) on problem data-\d+, .*mine\.py:\d+ in"
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
