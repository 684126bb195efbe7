"""The critic never stops a run; solutions in the place of rollouts; what a method needs is asked for early."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from graded import PROBLEM, RIGHT, WRONG, group_of
from runs import small_config
from sgsd.config.sections import DataConfig
from sgsd.contexts import Answer
from sgsd.data.problems import read_problems
from sgsd.methods.method import Method, PolicyGradient
from sgsd.methods.objectives import MatchDistribution, MatchSampledToken
from sgsd.skills import Request, ScriptedWriter, WriterFailure, WriterReply
from sgsd.train.critic import WriterCritic, make_critic
from sgsd.train.sampling import by_reference, check_solutions, reference_completion
from sgsd.types import Problem, UserError

BATCH = group_of(RIGHT, WRONG, WRONG)


def critic_of(writer: Any, cache: Path | None) -> WriterCritic:
    return WriterCritic(Accelerator(), writer, 64, cache)


@dataclass
class Shaky(ScriptedWriter):
    """Fails to answer some questions, or dies."""

    script: Any = field(default=lambda request: f"of {request.messages[0][1]}")
    dead: bool = False

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[int, WriterReply | WriterFailure]]:
        for position, reply in super().write(requests):
            bad = "q1" in requests[position].messages[0][1] or self.dead
            yield position, WriterFailure("no answer within 1 s", dead=self.dead) if bad else reply


def test_answers_are_kept_and_twins_asked_once(tmp_path: Path) -> None:
    writer = ScriptedWriter(lambda request: f"of {request.messages[0][1]}")
    with critic_of(writer, tmp_path / "c.sqlite") as critic:
        assert critic(BATCH, ["q0", "q1", "q0"]) == ["of q0", "of q1", "of q0"]
        assert len(writer.calls) == 2
        assert {(r.answer, r.max_tokens) for r in writer.calls} == {(None, 64)}
        assert critic(BATCH[:1], ["q1"]) == ["of q1"]
        assert critic([], []) == []
    with critic_of(writer, tmp_path / "c.sqlite") as again:
        assert again(BATCH, ["q0", "q1", "q2"]) == ["of q0", "of q1", "of q2"]
    assert len(writer.calls) == 3


def test_without_a_cache_everything_is_asked_again() -> None:
    writer = ScriptedWriter(lambda request: "so")
    with critic_of(writer, None) as critic:
        critic(BATCH[:1], ["q"])
        critic(BATCH[:1], ["q"])
    assert len(writer.calls) == 2


def test_a_failure_is_a_warning_a_count_and_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with critic_of(Shaky(), tmp_path / "c.sqlite") as critic:
        assert critic(BATCH, ["q0", "q1", "q2"]) == ["of q0", None, "of q2"]
        assert critic(BATCH, ["q0", "q1", "q2"]) == ["of q0", None, "of q2"]
    assert critic.failures == 2
    first, second = (r.getMessage() for r in caplog.records if r.name == "sgsd")
    assert "1 of 3 answers failed (no answer within 1 s)" in first
    assert "1 of 1" in second  # the others were kept
    assert "2 so far" in second


def test_a_dead_writer_is_not_asked_for_every_rollout() -> None:
    writer = Shaky(dead=True)
    with critic_of(writer, None) as critic:
        assert critic(BATCH, ["q0", "q1", "q2"]) == [None, None, None]
    assert len(writer.calls) == 1
    assert critic.failures == 3


def test_a_writer_that_raises_costs_its_answers_only() -> None:
    def script(request: Request) -> str:
        raise UserError("the engine has died")

    with critic_of(ScriptedWriter(script), None) as critic:
        assert critic(BATCH, ["q0", "q1", "q2"]) == [None, None, None]


def test_only_a_method_that_needs_one_has_a_critic(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    assert make_critic(config, config.build_method(), Accelerator(), None, None) is None  # type: ignore[arg-type]
    mine = small_config(tmp_path, method={"name": "critique"})
    made = make_critic(mine, mine.build_method(), Accelerator(), None, None)  # type: ignore[arg-type]
    assert made is not None
    assert made.cache is None  # a policy that learns is another one at every step


# ── Reference solutions in the place of rollouts ───────────────────────────────────────────────────────────────────


def test_the_share_of_sampled_rollouts_is_the_method_s_and_the_choice_the_index_s() -> None:
    for share in (0.25, 0.9):
        chosen = [by_reference(share, 7, index) for index in range(4000)]
        assert sum(chosen) / 4000 == pytest.approx(1 - share, abs=0.03)
        assert chosen[17] == by_reference(share, 7, 17)
    assert not any(by_reference(1.0, 7, index) for index in range(100))


def test_a_solution_stands_in_for_a_completion(lab_tokenizer: Any) -> None:
    whole = reference_completion(PROBLEM, 5, lab_tokenizer, 96)
    assert whole.token_ids[-1] == lab_tokenizer.eos_token_id
    assert (whole.index, whole.text, whole.finish, whole.logps) == (5, PROBLEM.solution, "stop", ())
    cut = reference_completion(PROBLEM, 5, lab_tokenizer, 6)
    assert cut.token_ids == whole.token_ids[:6]
    assert cut.finish == "length"
    assert str(PROBLEM.solution).startswith(cut.text)


def test_every_problem_must_have_a_solution_that_can_be_one() -> None:
    half = Method(name="half", context=Answer(), objective=MatchDistribution(), on_policy=0.5)
    check_solutions(half, [PROBLEM], ["<|im_end|>"])
    for solution, said in ((None, "has no solution"), (" ", "has no solution"), ("a<|im_end|>", "control token")):
        bad = Problem("p9", "1+1", "2", solution)
        with pytest.raises(UserError, match=f"problem p9: .*{said}"):
            check_solutions(half, [PROBLEM, bad], ["<|im_end|>"])
        check_solutions(Method(name="whole", context=Answer(), objective=MatchDistribution()), [bad], ["<|im_end|>"])


def test_what_on_policy_goes_with() -> None:
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match="on_policy is a share"):
            Method(name="m", context=Answer(), objective=MatchDistribution(), on_policy=wrong)
    with pytest.raises(ValueError, match="only a distribution matched"):
        Method(name="m", context=Answer(), objective=MatchSampledToken(), on_policy=0.5)
    with pytest.raises(ValueError, match="only a distribution matched"):
        Method(
            name="m", context=Answer(), objective=MatchDistribution(), outcome=PolicyGradient(), group=4, on_policy=0.5
        )


# ── What a configuration must name ─────────────────────────────────────────────────────────────────────────────────

ROWS = {"path": "rows.jsonl", "limit": 4}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": {"name": "rcsd"}, "data": ROWS}, "data.rubric: rcsd shows each problem's rubric"),
        ({"method": {"name": "opsd", "on_policy": 0.5}, "data": ROWS}, "data.solution: opsd learns from"),
        ({"method": {"name": "sgsd", "others": ["random"]}, "bank": {"path": None}}, "bank.path: sgsd retrieves"),
        ({"method": {"name": "grpo_skill"}, "bank": {"path": None}}, "bank.path: grpo_skill retrieves"),
        ({"steps": 0}, "steps: with 0 nothing is trained; name evaluation.data"),
        ({"evaluation": {"skills": 8}}, "evaluation.data: evaluation.skills asks"),
        (
            {
                "method": {"name": "opsd"},
                "bank": {"path": None},
                "evaluation": {"skills": 8, "data": {"path": "lab:held-out"}},
            },
            "bank.path: evaluation.skills shows pairs",
        ),
        ({"method": {"name": "sdpo", "group": 1}}, "needs group ≥ 2"),
    ],
)
def test_what_a_method_needs_is_asked_for_when_the_config_is_read(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        small_config(tmp_path, **changes)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_rubric_is_a_text_or_a_list_of_a_plain_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"problem": "1+1", "answer": "2", "marks": "Adds."}\n'
        '{"problem": "1+2", "answer": "3", "marks": [{"title": "Adds", "weight": 5}]}\n'
    )
    problems, _ = read_problems(DataConfig(path=str(file), rubric="marks"))
    assert [p.meta for p in problems] == [{"rubric": "Adds."}, {"rubric": [{"title": "Adds", "weight": "5"}]}]
    for row, said in (('{"problem": "1+1", "answer": "2", "marks": []}', "list as marks"),
                      ('{"problem": "1+1", "answer": "2"}', "no column 'marks'")):  # fmt: skip
        file.write_text(row + "\n")
        with pytest.raises(UserError, match=said):
            read_problems(DataConfig(path=str(file), rubric="marks"))
