"""Every kind of context in a run of three steps on the lab: it trains, counts who was left out, and repeats itself."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from rich.console import Console

from runs import run_small, small_config
from sgsd.cli.dry_run import dry_run
from sgsd.cli.main import run
from sgsd.lab.task import problems
from sgsd.records.run_files import Records
from sgsd.report import write_report
from sgsd.skills import ScriptedWriter
from sgsd.train import critic
from sgsd.train.batch import build_batch, grade
from sgsd.train.setup import build_run

GROUP = {"group": 4}
PLAIN: dict[str, dict[str, Any]] = {
    "sdpo": {"method": {"name": "sdpo", **GROUP}},
    "sdpo-feedback": {"method": {"name": "sdpo", "feedback": True, **GROUP}},
    "sdft": {"method": {"name": "sdft"}},
    "op2sd": {"method": {"name": "op2sd"}},
    "rlcsd": {"method": {"name": "rlcsd", "wrong": 2, "group": 8}},
    "dasd": {"method": {"name": "dasd", **GROUP}},
    "rlsd": {"method": {"name": "rlsd", **GROUP}},
    "rlrt": {"method": {"name": "rlrt", **GROUP}},
    "sdpg": {"method": {"name": "sdpg", **GROUP}},
    "grpo_skill": {"method": {"name": "grpo_skill", **GROUP}},
    "opsd_skill": {"method": {"name": "opsd_skill"}},
    "opsd-reasons": {"method": {"name": "opsd", "reason_first": True}, "teacher": {"reason_tokens": 64}},
    "opsd-lambda": {"method": {"name": "opsd", "on_policy": 0.5}},
    "sgsd-mixed": {"method": {"name": "sgsd", "k": 2, "confidence": 0.01, "others": ["sibling", "null"], **GROUP}},
}
LEAVES_OUT = {"sdpo", "rlcsd", "rlrt", "sgsd-mixed"}  # in these runs some sibling is missing


@pytest.mark.parametrize("name", PLAIN)
def test_a_run(name: str, tmp_path: Path) -> None:
    found = Records(run_small(tmp_path / "run", **PLAIN[name])).read("metrics")
    assert len(found) == 3
    assert all(abs(record["grad_norm"]) < 100 for record in found)
    assert any(record["grad_norm"] > 0 for record in found)
    assert any(record.get("skipped_teachers") for record in found) == (name in LEAVES_OUT)


def with_rubrics(folder: Path) -> dict[str, Any]:
    stream = problems(held_out=False, seed=0)
    lab = [next(stream).to_problem() for _ in range(16)]
    rows = [{"problem": p.text, "answer": p.gold, "rubric": "Remember to carry the one."} for p in lab]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(folder / "rows.jsonl"), "rubric": "rubric"}


def test_rcsd_shows_the_rubric_of_the_data(tmp_path: Path) -> None:
    settings = {"method": {"name": "rcsd"}, "data": with_rubrics(tmp_path)}
    assert len(Records(run_small(tmp_path / "run", **settings)).read("metrics")) == 3
    parts = build_run(small_config(tmp_path / "look", **settings), Accelerator())
    with parts.verifier:
        rollouts = parts.sampler.sample(1)
        batch = build_batch(parts.contexts, rollouts, grade(parts.verifier, rollouts))
    for rollout, (view,) in zip(rollouts, batch.views, strict=True):
        shown = parts.tokenizer.decode(view.prompt_ids)
        assert f"Answer: {rollout.problem.gold}\nRemember to carry the one.\n" in shown


def test_a_critique_comes_from_the_run_s_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ScriptedWriter(lambda request: "carry the one")
    monkeypatch.setattr(critic, "make_writer", lambda config, engine, tokenizer: writer)
    server = {"kind": "server", "model": "scripted"}
    folder = run_small(tmp_path / "run", method={"name": "critique"}, writer=server, logged_rollouts=8)
    assert len(writer.calls) == len({request.identity() for request in writer.calls}) > 8
    assert (folder / critic.CACHE).is_file()
    asked = " ".join(request.messages[0][1] for request in writer.calls)
    for record in Records(folder).read("rollouts"):
        assert record["problem"] in asked
        assert [teacher["source"] for teacher in record["teachers"]] == ["critique"]
    assert all(record["skipped_teachers"] == 0 for record in Records(folder).read("metrics"))


def test_rollouts_that_are_solutions_are_so_in_every_run(tmp_path: Path) -> None:
    parts = build_run(small_config(tmp_path, method={"name": "opsd", "on_policy": 0.5}, rollouts=16), Accelerator())
    with parts.verifier:
        rollouts, again = parts.sampler.sample(1), parts.sampler.sample(1)
        verdicts = grade(parts.verifier, rollouts)
    assert rollouts == again
    of_reference = [rollout.completion.text == rollout.problem.solution for rollout in rollouts]
    assert 3 < sum(of_reference) < 16
    assert all(verdict.outcome == 1 for verdict, solved in zip(verdicts, of_reference) if solved)
    assert not any(rollout.completion.logps for rollout in rollouts)


def test_injected_pairs_are_in_the_rollouts_prompt_and_not_in_the_evaluation_s(tmp_path: Path) -> None:
    held_out = {"data": {"path": "lab:held-out"}, "problems": 4}
    parts = build_run(
        small_config(tmp_path, method={"name": "grpo_skill", "group": 4}, evaluation=held_out), Accelerator()
    )
    for question in parts.sampler.requests(1):
        assert parts.tokenizer.decode(question.prompt_ids).count("Skill:") == 3
    assert parts.evaluator is not None
    held = parts.evaluator.prompts.student(parts.evaluator.problems[0], thinking=False)
    assert "Skill:" not in parts.tokenizer.decode(held)


def test_sampled_contexts_come_out_the_same_after_a_resume(tmp_path: Path) -> None:
    settings = {"method": {"name": "sdpo", "group": 4}, "checkpoint": {"every": 1, "keep": 5}, "logged_rollouts": 8}
    folder = run_small(tmp_path / "run", **settings)
    expected = {name: Records(folder).read(name) for name in ("metrics", "rollouts")}
    for step in (2, 3):
        shutil.rmtree(folder / "checkpoints" / f"step-{step:06d}")
    run_small(tmp_path / "run", resume=True, **settings)
    assert {name: Records(folder).read(name) for name in expected} == expected


# ── Nothing is trained ─────────────────────────────────────────────────────────────────────────────────────────────

BASE_SKILL: dict[str, Any] = {
    "method": {"name": "grpo", "group": 4},
    "steps": 0,
    "evaluation": {
        "data": {"path": "lab:held-out"},
        "problems": 8,
        "samples": 1,
        "skills": 2,
        "sampling": {"max_tokens": 64},
    },
}


def test_base_and_skill_is_an_evaluation_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_small(tmp_path / "run", **BASE_SKILL)
    (evaluation,) = Records(folder).read("evaluations")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["before"] == summary["after"]
    assert summary["after"]["greedy"]["accuracy"] == evaluation["greedy"]["accuracy"]
    assert summary["steps"] == 0
    assert not Records(folder).read("metrics")
    plain = run_small(tmp_path / "plain", **{**BASE_SKILL, "evaluation": {**BASE_SKILL["evaluation"], "skills": 0}})
    assert Records(plain).read("evaluations") != [evaluation]
    run_small(tmp_path / "run", resume=True, **BASE_SKILL)
    assert Records(folder).read("evaluations") == [evaluation]
    assert write_report(folder).is_file()
    console = Console(file=io.StringIO(), width=200)
    dry_run(small_config(tmp_path / "dry", **BASE_SKILL), console)
    assert "0 steps" in console.file.getvalue()  # type: ignore[attr-defined]
    config = tmp_path / "config.yaml"
    config.write_text(small_config(tmp_path / "shown", **BASE_SKILL).to_yaml())
    assert run(["preview", str(config)]) == 0
    assert capsys.readouterr().out.count("Skill:") == 2


def test_a_dry_run_says_what_it_cannot_foresee(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    dry_run(small_config(tmp_path / "dry", **PLAIN["sgsd-mixed"]), console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "made of rollouts" in said
    assert "sibling" in said
    assert "teachers' prompts" in said


def test_a_mixed_pool_reports_the_share_of_each_kind(tmp_path: Path) -> None:
    found = Records(run_small(tmp_path / "run", **PLAIN["sgsd-mixed"])).read("metrics")
    kinds = [record["sources"] for record in found]
    assert {"null", "skill_pair"} <= set(kinds[0])
    assert any("sibling" in kind for kind in kinds)
    for kind in kinds:
        assert sum(one["share"] for one in kind.values()) == pytest.approx(1.0)
    plain = Records(run_small(tmp_path / "plain")).read("metrics")
    assert "sources" not in plain[0], "of one kind there is nothing to tell apart"


def test_a_control_says_nothing_of_the_items_it_shows(tmp_path: Path) -> None:
    """Pairs of another problem carry the bank's own items; what they do there is no evidence on them."""
    method = {"name": "sgsd", "k": 2, "confidence": 0.01, "others": ["shuffled", "random"]}
    records = Records(run_small(tmp_path / "run", method=method, logged_rollouts=8))
    shown = [teacher for record in records.read("rollouts") for teacher in record["teachers"]]
    assert {teacher["source"] for teacher in shown} == {"skill_pair", "shuffled", "random"}
    assert all(teacher["items"] for teacher in shown)
    counted = sum(len(record["teachers"]) for record in records.read("sightings"))
    assert counted == sum(teacher["source"] == "skill_pair" for teacher in shown)
