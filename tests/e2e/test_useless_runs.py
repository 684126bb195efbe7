"""Runs that can teach nothing say so: at the first step, by a guard before the tenth, and before they begin."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from resumable import lines
from runs import merged, quiet, run_small, small_config
from sgsd.cli.dry_run import dry_run
from sgsd.cli.main import run as sgsd
from sgsd.lab.task import enumerate_problems
from sgsd.records.first_look import first_look
from sgsd.report import write_report
from sgsd.train.checks import warn_of_overlap
from sgsd.types import Completion, Problem, Rollout, Status, UserError, Verdict

VERDICTS = """
def never(completion, answer):
    return False

def always(completion, answer):
    return True

def cannot_tell(completion, answer):
    return None

def fails(completion, answer):
    return 1 / 0

def by_length(completions, **kwargs):
    return [0.5 + len(completion) / 1000 for completion in completions]

def little(completions, **kwargs):
    return [len(completion) / 1000 for completion in completions]

def half(completions, **kwargs):
    return [0.5 for completion in completions]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own.py").write_text(VERDICTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(caplog: pytest.LogCaptureFixture, folder: Path, **changes: Any) -> tuple[Path, str]:
    """A short run's folder, and all that it told."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "sgsd"):
        base: dict[str, Any] = {"steps": 10, "rollouts": 8, "sampling": {"max_tokens": 40}}
        done = run_small(folder / f"run-{len(list(folder.iterdir()))}", **merged(base, changes))
    return done, "\n".join(caplog.messages)


@pytest.mark.parametrize(
    ("function", "guard", "first", "verifier"),
    [
        ("never", "nothing_right", "First rollouts: 0 of 8 right. No rollout is right", {}),
        ("always", "nothing_wrong", "First rollouts: 8 of 8 right. Every graded rollout is right", {}),
        ("cannot_tell", "nothing_known", "0 of 8 right, 8 without a verdict. Most rollouts", {}),
        ("fails", "nothing_known", "0 of 8 right, 8 without a verdict. Most rollouts", {"on_error": "unknown"}),
        ("by_length", "nothing_wrong", "First rollouts: 8 of 8 right", {"threshold": 0.4}),
    ],
)
def test_a_verifier_that_says_one_thing_only(
    function: str, guard: str, first: str, verifier: dict[str, Any], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done, said = told(caplog, folder, verifier={"name": f"own.py:{function}", **verifier})
    assert first in said
    (finding,) = [line for line in lines(done, "guards") if line["guard"] == guard]
    assert finding["step"] <= 10
    assert len(finding["examples"]) == 3
    for example in finding["examples"]:
        assert example.startswith("  problem lab-")
        assert example in said
        assert "reference '" in example
    page = write_report(done).read_text()
    assert finding["examples"][0].split(":")[0].strip() in page
    others = {"nothing_right", "nothing_wrong", "nothing_known", "no_spread"} - {guard}
    assert not others & {line["guard"] for line in lines(done, "guards")}


@pytest.mark.parametrize(
    ("statuses", "head"),
    [
        ("c" * 16, "16 of 16 right. Every graded rollout"),
        ("i" * 16, "0 of 16 right. No rollout is right"),
        ("c" * 8 + "u" * 8, "8 of 16 right, 8 without a verdict. Every graded rollout"),
        ("i" * 8 + "t" * 8, "0 of 16 right, 8 without a verdict. No rollout is right"),
        ("c" * 3 + "i" * 4 + "p" * 9, "3 of 16 right, 9 without a verdict. Most rollouts have no verdict"),
        ("c" + "i" * 15, "1 of 16 right. Both outcomes are there"),
    ],
)
def test_the_first_look_says_what_its_numbers_mean(statuses: str, head: str) -> None:
    words = {"c": "correct", "i": "incorrect", "u": "unknown", "t": "timeout", "p": "unparsed"}
    done = Completion(0, (1,), "\x1b[31m" + "9" * 200 + "\nthe end", "stop")
    rollouts = [Rollout(Problem(f"own-{i}", "1 + 1", "2"), (), done) for i in range(len(statuses))]
    verdicts = [Verdict(Status(words[letter])) for letter in statuses]
    first, *shown = first_look(rollouts, verdicts)
    assert first.startswith(f"First rollouts: {head}")
    assert len(shown) == 3
    assert {line.rpartition(": ")[2] for line in shown} == {words[letter] for letter in statuses}
    assert all("the end" in line and line.isprintable() for line in shown)
    # Of two processes the first shows its own rollouts and counts everybody's.
    assert first_look(rollouts[:8], verdicts)[0] == first
    assert {line.split(":")[0] for line in first_look(rollouts[:4], verdicts)[1:]} <= {
        f"  problem own-{i}" for i in range(4)
    }


GRPO = {"name": "grpo", "group": 4}


OUTCOMES = {"nothing_right", "nothing_wrong", "nothing_known", "no_spread"}


@pytest.mark.parametrize(
    ("function", "threshold", "method", "fires"),
    [
        ("by_length", 0.4, GRPO, set()),
        ("little", 0.9, GRPO, set()),
        ("by_length", 0.4, {"name": "reinforce"}, set()),
        ("little", 0.9, {"name": "reinforce"}, set()),
        ("half", 0.4, GRPO, {"nothing_wrong"}),
        ("half", 0.9, {"name": "reinforce"}, {"nothing_right"}),
        ("little", 0.9, {"name": "sgsd", "k": 1}, {"nothing_right"}),  # its polarity has the verdict alone
    ],
    ids=str,
)
def test_one_verdict_for_all_is_no_trouble_where_advantages_take_rewards_that_differ(
    function: str,
    threshold: float,
    method: dict[str, Any],
    fires: set[str],
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    done, said = told(caplog, folder, method=method, verifier={"name": f"own.py:{function}", "threshold": threshold})
    assert {line["guard"] for line in lines(done, "guards")} & OUTCOMES == fires
    assert " right, rewards from 0." in said
    differ = {"half": False, "little": True, "by_length": True}[function]
    spreads = [record.get("reward_std") for record in lines(done, "metrics")]
    assert all(spread is None for spread in spreads) if method["name"] == "sgsd" else any(spreads) == differ


def test_groups_without_a_verdict_are_the_verifiers_trouble_alone(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done, _ = told(caplog, folder, method=GRPO, verifier={"name": "own.py:cannot_tell"})
    assert {line["guard"] for line in lines(done, "guards")} & OUTCOMES == {"nothing_known"}
    assert all(record["groups_alike"] == 1.0 for record in lines(done, "metrics"))


@pytest.mark.parametrize(
    ("key", "sampling"),
    [
        ("sampling.temperature: 0", {"temperature": 0.0}),
        ("sampling.temperature: 0.0001", {"temperature": 1e-4}),
        ("sampling.top_k: 1", {"top_k": 1}),
        ("sampling.top_p: 1e-06", {"top_p": 1e-6}),
        ("sampling.min_p: 1", {"min_p": 1.0}),
    ],
)
@pytest.mark.parametrize("method", [GRPO, {"name": "rlrt"}, {"name": "sdpo"}], ids=str)
def test_siblings_that_are_alike(
    key: str, sampling: dict[str, Any], method: dict[str, Any], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    group = {} if method == GRPO else {"group": 4}
    _, said = told(caplog, folder, steps=1, method=method, sampling=sampling, **group)
    assert f"{key}: the 4 rollouts of a problem will all be alike, and {method['name']} learns" in said


def test_a_group_that_nobody_compares_is_a_waste_where_it_is_alike(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, said = told(caplog, folder, steps=1, group=4, sampling={"temperature": 0.0})
    assert "sampling.temperature: 0: the 4 rollouts of a problem will all be alike, and they teach no more" in said
    for sampling in ({"temperature": 0.1}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.5}):
        _, said = told(caplog, folder, steps=1, group=4, sampling=sampling)
        assert "will all be alike" not in said


def test_no_spread_within_groups_fires_and_a_method_that_compares_nothing_is_silent(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done, _ = told(caplog, folder, method=GRPO, sampling={"temperature": 0.0}, rollouts=16)
    assert {line["guard"] for line in lines(done, "guards")} >= {"no_spread"}
    assert all(record["groups_alike"] == 1.0 for record in lines(done, "metrics"))
    done, said = told(caplog, folder, sampling={"temperature": 0.0})
    assert "will all be alike" not in said
    assert not {line["guard"] for line in lines(done, "guards")} & {"no_spread"}
    assert "groups_alike" not in lines(done, "metrics")[0]


def test_the_share_of_groups_alike_is_counted_from_the_rollouts(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    done, said = told(caplog, folder, method=GRPO, steps=3, rollouts=16, logged_rollouts=16)
    assert "Both outcomes are there" in said
    for record in lines(done, "metrics"):
        outcomes: dict[int, set[int]] = {}
        for row in lines(done, "rollouts"):
            if row["step"] == record["step"]:
                outcomes.setdefault(row["index"] // 4, set()).add(row["outcome"])
        assert record["groups_alike"] == sum(len(found) == 1 for found in outcomes.values()) / 4


# ── Before a run ───────────────────────────────────────────────────────────────────────────────────────────────────


def rows(path: Path, texts: list[str], answers: list[Any] | None = None) -> str:
    answers = ["7"] * len(texts) if answers is None else answers
    path.write_text("".join(json.dumps({"problem": t, "answer": a}) + "\n" for t, a in zip(texts, answers)))
    return str(path)


def test_the_dry_run_shows_rollouts_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config(folder / "run", steps=2, verifier={"name": "own.py:never"})
    (folder / "c.yaml").write_text(config.to_yaml())
    before = sorted(folder.rglob("*"))
    assert sgsd(["train", "c.yaml", "--dry-run", "--sample", "12"]) == 0
    said = capsys.readouterr().out
    assert "First rollouts: 0 of 12 right." in said
    assert said.count("  problem lab-") == 3
    assert sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts) == before
    assert sgsd(["train", "c.yaml", "--sample", "12"]) == 2
    assert sgsd(["train", "c.yaml", "--dry-run", "--sample", "none"]) == 2


@pytest.mark.parametrize("gold", ['["34"]', "**34**", "34 (exact)", "['3/4']", "{'answer': 34}", "3 34", "34) or (b"])
def test_a_gold_that_only_equals_itself_is_not_readable(gold: str, folder: Path) -> None:
    data = rows(folder / "data.jsonl", ["Addition: 30+4", "Addition: 31+3"], [gold, "34"])
    console = quiet()
    dry_run(small_config(folder / "run", data={"path": data, "limit": None}), console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1 of 2 readable (50.0%)" in said
    assert "1 unparsed: their rollouts teach nothing; first: problem data-0" in said
    data = rows(folder / "data.jsonl", ["Addition: 30+4"], [gold])
    with pytest.raises(UserError, match="it reads none of the 1 reference answers"):
        dry_run(small_config(folder / "run", data={"path": data, "limit": None}), quiet())


COPIES = {
    "to the letter": str,
    "case": str.upper,
    "spaces": lambda text: f"  {text.replace(' ', '   ')}\n",
    "decomposed": lambda text: text.replace("\u00c1", "A\u0301"),
    "line breaks": lambda text: text.replace(" ", "\n"),
    "no-break spaces": lambda text: text.replace(" ", "\u00a0"),
    "around signs": lambda text: text.replace("+", " + ").replace(": ", " :"),
}


@pytest.mark.parametrize("name", COPIES)
def test_training_problems_in_the_held_out_set_are_counted_and_named(
    name: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = [p.text.replace("A", "\u00c1") for p in enumerate_problems("carry", False)[:6]]
    other = [p.text for p in enumerate_problems("square", False)[:2]]
    data = rows(folder / "train.jsonl", own)
    held = rows(folder / "held.jsonl", [*other, *(COPIES[name](text) for text in own[:4])])
    evaluation = {"data": {"path": held}, "problems": 6, "samples": 1, "sampling": {"max_tokens": 8}}
    changes = {"steps": 1, "data": {"path": data, "limit": None}, "evaluation": evaluation}
    _, said = told(caplog, folder, **changes)
    assert "evaluation.data: 4 of 6 held-out problems are training problems too (held-2 is train-0, held-3" in said
    assert "and 1 more)" in said


def test_words_that_white_space_parts_are_other_words(caplog: pytest.LogCaptureFixture) -> None:
    for own, other in (("add 12 3", "add 1 23"), ("x^2", "x^3"), ("a b", "ab"), ("12 + 3", "1 2 + 3"), ("é", "e")):
        warn_of_overlap([Problem("own-0", own, "1")], [Problem("other-0", other, "1")])
    assert caplog.messages == []


def test_disjoint_sets_are_not_spoken_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluation = {"data": {"path": "lab:held-out"}, "problems": 8, "samples": 1, "sampling": {"max_tokens": 8}}
    _, said = told(caplog, folder, steps=1, evaluation=evaluation)
    assert "training problems too" not in said


def test_the_first_look_is_the_first_steps_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    done, said = told(caplog, folder, steps=2)
    assert said.count("First rollouts:") == 1
    caplog.clear()
    with caplog.at_level(logging.INFO, "sgsd"):
        run_small(done, steps=3, rollouts=8, sampling={"max_tokens": 40}, resume=True)
    assert "First rollouts:" not in caplog.text
    assert yaml.safe_load((done / "config.yaml").read_text())["steps"] == 3
