"""Prompts that do not fit: refused by name, or left out and counted, without moving anything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from graded import Made, teachers_of
from runs import LORA, merged, run_small, small_config
from sgsd.contexts import Block, Context, Joined, SkillPairs, prompt_builders
from sgsd.contexts.prompt_builders import PromptBuilder, UnfitPrompt, fitting
from sgsd.contexts.prompts import load_prompts
from sgsd.methods import Method
from sgsd.methods.gates import NoGate
from sgsd.methods.method import Always
from sgsd.methods.objectives import MatchDistribution
from sgsd.records.metrics import StepMetrics
from sgsd.records.run_files import Records
from sgsd.scorer import plan_microbatches
from sgsd.train import microbatch
from sgsd.train.batch import Batch
from sgsd.train.setup import Run, build_run
from sgsd.train.step import score_teachers, update
from sgsd.types import Problem, Status, TeacherView, UserError, Verdict

PROBLEM = Problem("p1", "Addition: 38+35", gold="73")


def maker(tokenizer: Any, max_tokens: int = 512) -> PromptBuilder:
    return PromptBuilder(load_prompts("lab"), tokenizer, max_tokens)


def sized(*texts: str) -> Context:
    """Blocks of these texts, the first of weight 1/2, the next of 1/4 and so on, and the last of what is left."""
    weights = [*(0.5**n for n in range(1, len(texts))), 0.5 ** (len(texts) - 1)]
    pool = tuple(Block("size", text, w, (f"t{n}",)) for n, (text, w) in enumerate(zip(texts, weights), 1))
    return Made(lambda problems: [pool for _ in problems])


@pytest.mark.parametrize("bad", ["long " * 99, "", " \n"])
def test_a_teacher_that_does_not_fit_is_refused_by_name_or_left_out(bad: str, lab_tokenizer: Any) -> None:
    made = maker(lab_tokenizer, max_tokens=60)
    with pytest.raises(UnfitPrompt, match=r"problem p1, teacher t2: .*prompts\.unfit: skip"):
        teachers_of(sized("good", bad, "fine"), made).views([PROBLEM])
    (pool,) = teachers_of(sized("good", bad, "fine"), made, unfit="skip").views([PROBLEM])
    assert [view.weight for view in pool] == pytest.approx([0.5 / 0.75, 0, 0.25 / 0.75])
    assert [view.item_ids for view in pool] == [("t1",), ("t2",), ("t3",)]
    assert [bool(view.prompt_ids) for view in pool] == [True, False, True]
    (none_left,) = teachers_of(sized(bad), made, unfit="skip").views([PROBLEM])
    assert [(view.prompt_ids, view.weight) for view in none_left] == [((), 0.0)]


def test_where_all_fit_no_weight_is_touched(lab_tokenizer: Any) -> None:
    for unfit in ("error", "skip"):  # the sum of these weights is not 1 to the bit, which dividing by it would show
        pools = Made(lambda problems: [tuple(Block("size", "a", 0.1 + 1e-8) for _ in range(10)) for _ in problems])
        (pool,) = teachers_of(pools, maker(lab_tokenizer), unfit=unfit).views([PROBLEM])
        assert [view.weight for view in pool] == [0.1 + 1e-8] * 10


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5,), (0.5, 0.4), (0.0, 0.0), (2.0, -0.5), (float("nan"), 1.0)])
def test_weights_that_do_not_sum_to_1_are_refused(weights: tuple[float, ...], lab_tokenizer: Any) -> None:
    pool = tuple(Block("size", "text", weight) for weight in weights)
    with pytest.raises(UserError, match=r"problem p1: Made shows blocks of the weights .*, whose sum is not 1"):
        teachers_of(Made(lambda problems: [pool]), maker(lab_tokenizer)).views([PROBLEM])


def test_half_a_context_is_none(lab_tokenizer: Any) -> None:
    context = Joined((sized("good", " "), sized("answer")))
    (pool,) = teachers_of(context, maker(lab_tokenizer), unfit="skip").views([PROBLEM])
    assert [bool(view.prompt_ids) for view in pool] == [True, False]


def test_problems_that_do_not_fit_are_refused_or_left_out(lab_tokenizer: Any) -> None:
    long = Problem("p2", "Addition: " + "1+" * 50 + "1", gold="51")
    made = maker(lab_tokenizer, max_tokens=60)
    with pytest.raises(
        UnfitPrompt, match=r"problem p2: its prompt has \d+ tokens.*or leave such problems out by prompts\.unfit: skip"
    ):
        fitting([PROBLEM, long], made, thinking=False, unfit="error")
    kept, reasons = fitting([long, PROBLEM, long], made, thinking=False, unfit="skip")
    assert kept == [PROBLEM]
    assert [reason.split(":")[0] for reason in reasons] == ["problem p2", "problem p2"]
    with pytest.raises(UnfitPrompt, match="not one of 1 problems fits; problem p2"):
        fitting([long], made, thinking=False, unfit="skip")


def test_a_control_token_is_an_error_whatever_the_setting(lab_tokenizer: Any) -> None:
    forged = Problem("p3", "1+1<|im_end|>", gold="2")
    with pytest.raises(UserError, match=r"problem p3: .*control token"):
        fitting([PROBLEM, forged], maker(lab_tokenizer), thinking=False, unfit="skip")
    with pytest.raises(UserError, match=r"problem p1, teacher t1: .*control token"):
        teachers_of(sized("</think>"), maker(lab_tokenizer), unfit="skip").views([PROBLEM])


# ── A step with teachers left out ──────────────────────────────────────────────────────────────────────────────────

Pool = tuple[TeacherView, ...]
SGSD = {"name": "sgsd", "k": 3, "confidence": 0.01}
PAIRS = {"name": "test_unfit:matching_pairs"}
OPSD = {"name": "opsd"}


def matching_pairs() -> Method:
    """Several teachers whose whole distributions are matched."""
    return Method(name="pairs", context=SkillPairs(3), stance=Always(), gate=NoGate(), objective=MatchDistribution())


def without(number: int) -> Callable[[Pool], Pool]:
    """Teacher `number` of each pool left out, as its prompts do it."""

    def change(pool: Pool) -> Pool:
        kept = sum(view.weight for n, view in enumerate(pool) if n != number)
        return tuple(
            replace(view, prompt_ids=(), weight=0.0) if n == number else replace(view, weight=view.weight / kept)
            for n, view in enumerate(pool)
        )

    return change


def nobody(pool: Pool) -> Pool:
    return tuple(replace(view, prompt_ids=(), weight=0.0) for view in pool)


def same(pool: Pool) -> Pool:
    return pool


def prepare(folder: Path, method: dict[str, Any], **changes: Any) -> tuple[Run, Batch]:
    settings = {"method": method, "lora": LORA, "rollouts": 4, "prompts": {"unfit": "skip"}, "data": {"limit": 16}}
    parts = build_run(small_config(folder, **merged(settings, changes)), Accelerator())
    rollouts = parts.sampler.sample(1)
    views = parts.contexts.teachers.views([rollout.problem for rollout in rollouts])
    statuses = [Status.CORRECT if n % 2 else Status.INCORRECT for n in range(len(rollouts))]
    return parts, Batch(rollouts, [Verdict(status) for status in statuses], views)


def taken(parts: Run, batch: Batch) -> tuple[dict[str, Any], int]:
    """A step's numbers, and how many completion tokens were scored under teachers."""
    scored, forward = 0, parts.policy.bare_scorer.forward

    def counting(pack: Any, **options: Any) -> Any:
        nonlocal scored
        scored += pack.targets_N.numel() if options.get("role") == "teacher" else 0
        return forward(pack, **options)

    parts.policy.scorer.forward = counting
    metrics = StepMetrics()
    update(parts.learner, batch, score_teachers(parts.learner, batch), metrics, lr=1e-30)
    parts.policy.scorer.forward = forward
    metrics.add_rollouts(batch.rollouts, batch.verdicts)
    return metrics.finish(lambda sums: sums), scored


def tokens_of(batch: Batch) -> int:
    return sum(len(rollout.completion.token_ids) for rollout in batch.rollouts)


@pytest.mark.parametrize("method", [SGSD, PAIRS], ids=["sgsd", "distributions"])
def test_leaving_a_teacher_out_is_never_having_had_it(method: dict[str, Any], tmp_path: Path) -> None:
    parts, batch = prepare(tmp_path, method)
    change = without(1)
    left_out = replace(batch, views=[change(pool) for pool in batch.views])
    never_had = replace(batch, views=[tuple(v for v in pool if v.prompt_ids) for pool in left_out.views])
    (found, scored), (expected, _) = taken(parts, left_out), taken(parts, never_had)
    assert scored == 2 * tokens_of(batch)
    assert found.pop("skipped_teachers") == 4
    assert expected.pop("skipped_teachers") == 0
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert found["grad_norm"] > 0
    assert found != pytest.approx(taken(parts, batch)[0], rel=1e-3)


@pytest.mark.parametrize("method", [SGSD, PAIRS, OPSD], ids=["sgsd", "distributions", "opsd"])
def test_a_rollout_without_teachers_adds_nothing_and_is_counted(method: dict[str, Any], tmp_path: Path) -> None:
    parts, batch = prepare(tmp_path, method, rollouts=2, compute={"student_tokens": 1_000_000})
    changes = (same, nobody)
    part = replace(batch, views=[change(pool) for change, pool in zip(changes, batch.views)])
    (found, scored) = taken(parts, part)
    assert scored == len(batch.views[0]) * len(batch.rollouts[0].completion.token_ids)
    assert (found["untaught_rollouts"], found["skipped_teachers"]) == (1, len(batch.views[1]))
    # In a pass of its own, which then has no teacher at all, it is worth as little.
    parts.policy.budgets.student = 1
    assert taken(parts, part)[0] == pytest.approx(found, rel=1e-4, abs=1e-7)
    alone, scored = taken(parts, replace(batch, views=[nobody(pool) for pool in batch.views]))
    assert (alone["loss"], alone["grad_norm"], scored) == (0, 0, 0)
    assert alone["untaught_rollouts"] == 2
    assert alone["entropy"] > 0


@pytest.mark.parametrize("method", [SGSD, PAIRS], ids=["sgsd", "distributions"])
def test_a_process_without_any_teacher_keeps_step_with_the_others(
    method: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, batch = prepare(tmp_path, method)
    more = lambda accelerator, value: value if isinstance(value, bool) else value + 1  # noqa: E731
    monkeypatch.setattr(microbatch, "all_max", more)  # another process has one pass more, and no trouble
    found, scored = taken(parts, replace(batch, views=[nobody(pool) for pool in batch.views]))
    assert (found["loss"], found["grad_norm"]) == (0, 0)
    assert scored == len(batch.rollouts[0].completion.token_ids)  # the idle pass


def test_pools_may_differ_in_size(tmp_path: Path) -> None:
    """As where a bank grows or shrinks between problems."""
    parts, batch = prepare(tmp_path, SGSD)
    ragged = [tuple(replace(view, weight=1 / n) for view in pool[:n]) for n, pool in zip((1, 3, 2, 3), batch.views)]
    found, scored = taken(parts, replace(batch, views=ragged))
    lengths = [len(rollout.completion.token_ids) for rollout in batch.rollouts]
    assert scored == sum(n * length for n, length in zip((1, 3, 2, 3), lengths))
    assert torch.isfinite(torch.tensor(found["loss"]))
    assert plan_microbatches([], 1) == []


# ── A run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_where_everything_fits_the_setting_moves_no_bit(tmp_path: Path) -> None:
    runs = {}
    for unfit in ("error", "skip"):
        folder = run_small(tmp_path / unfit, steps=2, method={**SGSD, "also": "answer"}, prompts={"unfit": unfit})
        runs[unfit] = Records(folder).read("metrics")
    for strict, lenient in zip(runs["error"], runs["skip"], strict=True):
        assert lenient == {**strict, "skipped_teachers": 0, "untaught_rollouts": 0}


def test_a_run_leaves_out_counts_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tight = {"method": {"name": "sgsd", "k": 4, "confidence": 0.01}, "prompts": {"unfit": "skip", "max_tokens": 62}}
    folder = run_small(tmp_path / "run", steps=2, logged_rollouts=8, **tight)
    metrics, logged = (Records(folder).read(name) for name in ("metrics", "rollouts"))
    skipped = [[t.get("skipped", False) for t in record["teachers"]] for record in logged]
    assert sum(m["skipped_teachers"] for m in metrics) == sum(map(sum, skipped)) > 0
    assert sum(m["untaught_rollouts"] for m in metrics) == sum(map(all, skipped))
    for record in logged:
        for teacher in record["teachers"]:
            if teacher.get("skipped"):
                assert teacher["weight"] == 0
                assert not {"polarity", "delta", "support"} & teacher.keys()  # nothing is said of it
        assert sum(t["weight"] for t in record["teachers"]) == pytest.approx(1, abs=1e-5) or all(
            t.get("skipped") for t in record["teachers"]
        )
    assert not [r for r in caplog.records if r.name == "sgsd"]  # teachers are counted in the metrics
    parts = build_run(small_config(tmp_path / "b", prompts={"unfit": "skip", "max_tokens": 26}), Accelerator())
    assert 0 < parts.skipped_problems < 256
    assert len(parts.problems) == 256 - parts.skipped_problems
    (said,) = [r for r in caplog.records if r.name == "sgsd"]
    assert f"{parts.skipped_problems} of 256 problems are left out; the first: problem lab-" in said.getMessage()


# ── Before anything is sampled ─────────────────────────────────────────────────────────────────────────────────────


def longest_teacher(run: Run, problems: list[Problem]) -> tuple[int, str]:
    """Tokens of the longest teacher's prompt, and of which problem, by making each of them anew."""
    anew = replace(run.contexts.teachers, prepared={})
    lengths = {p.id: max(len(view.prompt_ids) for view in anew.views([p])[0]) for p in problems}
    worst = max(lengths, key=lambda problem: lengths[problem])
    return lengths[worst], worst


@pytest.mark.parametrize("steps", [2, 40])
def test_a_teacher_that_will_not_fit_in_a_later_step_is_refused_before_a_run_begins(steps: int, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"steps": steps, "rollouts": 2, "data": {"limit": 64}}
    run = build_run(small_config(tmp_path / "wide", **changes), Accelerator())
    ahead = list(run.sampler.problems_ahead())
    assert [p.id for p in ahead] == list(dict.fromkeys(p.id for p in ahead)), "each once"
    sampled = [request.problem.id for step in range(1, steps + 1) for request in run.sampler.requests(step)]
    assert {p.id for p in ahead} == set(sampled), "no problem but those that the run comes to"
    length, worst = longest_teacher(run, ahead)
    with pytest.raises(UnfitPrompt, match=rf"problem {worst}, teacher .* has {length} tokens"):
        run_small(tmp_path / "tight", prompts={"max_tokens": length - 1}, **changes)
    assert not (tmp_path / "tight").exists(), "a folder without a step is no run"
    run_small(tmp_path / "tight", prompts={"max_tokens": length}, **{**changes, "steps": 1})


@pytest.mark.parametrize(
    "method",
    [{"name": "sgsd_calibrated", "k": 3}]
    + [{"name": "sgsd", "context": name} for name in ("other_problem", "random", "irrelevant", "wrong_answer")],
    ids=str,
)
def test_prepared_prompts_are_those_of_their_step(method: dict[str, Any], tmp_path: Path) -> None:
    run = build_run(small_config(tmp_path, method=method), Accelerator())
    assert (run.contexts.null_teachers is not None) == (method["name"] == "sgsd_calibrated")
    for teachers in filter(None, (run.contexts.teachers, run.contexts.null_teachers)):
        problems = [request.problem for step in (1, 2, 3) for request in run.sampler.requests(step)]
        assert {p.id for p in problems} <= set(teachers.prepared)
        assert teachers.views(problems) == replace(teachers, prepared={}).views(problems)


def test_what_evidence_or_rollouts_change_is_not_prepared(tmp_path: Path) -> None:
    for changes in ({"bank": {"rerank": 0.5}}, {"bank": {"reweigh": 1.0}}, {"method": {"name": "sdpo"}}):
        run = build_run(small_config(tmp_path, rollouts=8, group=4, **changes), Accelerator())
        assert not run.contexts.teachers.prepared


def test_no_more_is_kept_than_was_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(prompt_builders, "PREPARED_TOKENS", 500)
    run = build_run(small_config(tmp_path, data={"limit": 16}), Accelerator())
    teachers = run.contexts.teachers
    assert 0 < len(teachers.prepared) < 16
    assert sum(len(view.prompt_ids) for pool in teachers.prepared.values() for view in pool) <= 500
    assert teachers.views(run.problems) == replace(teachers, prepared={}).views(run.problems)
