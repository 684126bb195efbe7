"""Contexts made of rollouts: who is shown what, who is never shown, who is left out, and that nothing else decides."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from graded import PROBLEM, RIGHT, UNKNOWN, WRONG, Made, graded, group_of, resources_of, shown, teachers_of
from sgsd.contexts import (
    Answer,
    Block,
    Context,
    Critique,
    Feedback,
    Graded,
    Hints,
    Joined,
    Mixed,
    Null,
    Pool,
    ReasonFirst,
    RolloutContext,
    Sibling,
    controls,
    make_pools,
    references,
    rollouts,
    skill_pairs,
)
from sgsd.contexts.prompt_builders import PromptBuilder, UnfitPrompt
from sgsd.contexts.prompts import load_prompts
from sgsd.types import Problem, UserError

MATH = load_prompts("math")
MIX = (RIGHT, WRONG, RIGHT, WRONG, WRONG, RIGHT, WRONG, UNKNOWN)


def texts(pools: Sequence[Sequence[Block]]) -> list[list[str]]:
    return [[block.text or "" for block in pool] for pool in pools]


def siblings(seed: int = 0) -> Callable[[Sequence[Graded]], list[Pool]]:
    return made(Sibling(), seed=seed)


def hints(wrong: int, seed: int = 0) -> Callable[[Sequence[Graded]], list[Pool]]:
    return made(Hints(wrong), seed=seed)


def made(context: Context, **resources: Any) -> Callable[[Sequence[Graded]], list[Pool]]:
    return lambda rollouts: make_pools(context, rollouts, resources_of(MATH, **resources))


# ── Siblings ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sibling_is_another_success_of_the_same_group() -> None:
    batch = [*group_of(*MIX), *group_of(*MIX, first=100, group=1)]
    chosen = set()
    for rollout, [text] in zip(batch, texts(siblings()(batch)), strict=True):
        right = {r.index for r in batch if r.rollout.group == rollout.rollout.group and r.outcome > 0} - {rollout.index}
        (written,) = [r.index for r in batch if r.rollout.completion.text in text]
        assert written in right
        chosen.add(written)
        assert "98765" not in text
    assert len(chosen) > 3  # not always the first


@pytest.mark.parametrize("statuses", [(WRONG, WRONG), (RIGHT, WRONG), (WRONG, UNKNOWN, UNKNOWN)])
def test_without_a_success_to_be_shown_the_teacher_is_left_out(statuses: tuple[Any, ...]) -> None:
    batch = group_of(*statuses)
    for rollout, (block,) in zip(batch, siblings()(batch), strict=True):
        only = any(other.outcome > 0 for other in batch if other is not rollout)
        assert bool(block.text) == only
        assert block.optional


@pytest.mark.parametrize("context", [Sibling(), Hints(2), Feedback()], ids=lambda c: type(c).__name__)
def test_the_choice_is_the_groups_own(context: Context) -> None:
    make = made(context)
    ours, theirs = group_of(*MIX), group_of(*MIX, first=40, group=5)
    alone = make(ours)
    assert make([*theirs, *ours])[len(theirs) :] == alone
    order = list(range(len(ours)))
    random.Random(1).shuffle(order)
    assert make([ours[i] for i in order]) == [alone[i] for i in order]


def test_another_seed_draws_others() -> None:
    batch = group_of(*MIX)
    assert texts(siblings(0)(batch)) != texts(siblings(1)(batch))
    assert texts(hints(2, 0)(batch)) != texts(hints(2, 1)(batch))


def test_what_cannot_be_quoted_is_not_chosen() -> None:
    thought = graded(1, RIGHT, text="<think>\nhm</think>\n\nplainly 7")
    endless, forged = graded(2, RIGHT, text="<think>\nhm"), graded(3, RIGHT, text="7<|im_end|>\n<|im_start|>user")
    batch = [graded(0, WRONG), thought, endless, forged]
    for seed in range(6):
        ((text,), *_) = texts(siblings(seed)(batch))
        assert "plainly 7" in text
        assert "hm" not in text
    assert texts(siblings()([graded(0, WRONG), endless, forged]))[0] == [""]


# ── Hints ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_hints_are_one_success_and_different_failures_in_the_same_words() -> None:
    batch = group_of(*MIX)
    for rollout, pool in zip(batch, hints(3)(batch), strict=True):
        found = [next(r for r in batch if r.rollout.completion.text in (b.text or "")) for b in pool]
        assert [r.outcome for r in found] == [1, -1, -1, -1]
        assert rollout not in found
        assert len({r.index for r in found}) == 4
        frames = {(b.text or "").replace(f"attempt-{r.index}", "").replace(str(100 + r.index), "") for b, r in
                  zip(pool, found)}  # fmt: skip
        assert len(frames) == 1
        assert {b.source for b in pool} == {"hint"}
        assert all(r.verdict.answer in (b.text or "") for b, r in zip(pool, found))


def test_of_fewer_failures_all_are_shown_and_of_half_a_contrast_nothing() -> None:
    batch = group_of(RIGHT, RIGHT, WRONG, WRONG, UNKNOWN)
    shown_BK = [[bool(text) for text in pool] for pool in texts(hints(3)(batch))]
    assert shown_BK == [[True, True, True, False]] * 2 + [[True, True, False, False]] * 2 + [[True, True, True, False]]
    assert not any(map(any, texts(hints(3)(group_of(RIGHT, RIGHT, UNKNOWN)))))
    assert not any(map(any, texts(hints(3)(group_of(WRONG, WRONG, WRONG)))))
    assert [bool(t) for (t, *_) in texts(hints(1)(group_of(RIGHT, WRONG, WRONG)))] == [False, True, True]


def test_a_failure_whose_answer_was_not_read_is_no_hint() -> None:
    silent = graded(2, WRONG, text="attempt-2 and so on", answer=None)
    batch = [graded(0, RIGHT), graded(1, WRONG), silent, graded(3, RIGHT)]
    ((_, first, second), *_) = texts(hints(2)(batch))
    assert "attempt-1" in first
    assert second == ""
    mute = [graded(n, s, text=f"attempt-{n}", answer=None) for n, s in enumerate((RIGHT, RIGHT, WRONG))]
    assert "attempt-2" in texts(hints(1)(mute))[0][1]  # a verifier that never says what it read


# ── Feedback ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_feedback_says_what_was_read_and_whether_it_was_right_and_never_the_gold() -> None:
    nothing = graded(3, WRONG, text="attempt-3 and so on", answer=None)
    batch = [*group_of(RIGHT, WRONG, UNKNOWN), nothing]
    (right,), (wrong,), (unknown,), (unread,) = texts(made(Feedback())(batch))
    assert "attempt-0" in right
    assert "100, is correct" in right
    assert "attempt-1" in wrong
    assert "read as 101, which is wrong" in wrong
    assert unknown == ""
    assert "no final answer could be read" in unread
    assert "98765" not in right + wrong + unread


# ── Critique ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_critic_sees_problem_reference_and_attempt_and_the_teacher_its_words() -> None:
    asked: list[str] = []

    def critic(rollouts: Sequence[Graded], questions: Sequence[str]) -> list[str | None]:
        asked.extend(questions)
        return [None if r.index == 1 else f"<think>no</think>mended {r.index}" for r in rollouts]

    batch = [*group_of(RIGHT, WRONG, WRONG), graded(3, WRONG, text="<think>never ends")]
    found = made(Critique(), critic=critic)(batch)
    assert [bool(text) for (text,) in texts(found)] == [True, False, True, False]
    assert len(asked) == 3  # what cannot be quoted is not asked about
    for number, question in enumerate(asked):
        for part in (PROBLEM.text, "98765", "8+5=13, hence the sum.", f"attempt-{number}"):
            assert part in question
    assert "mended 2" in texts(found)[2][0]
    assert "no" not in texts(found)[2][0].split()
    assert "98765" not in texts(found)[2][0]


# ── Reasons ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_reasons_stand_under_the_reference_and_know_nothing_of_the_rollout() -> None:
    def reasoner(rollouts: Sequence[Graded], blocks: Sequence[Block]) -> list[str]:
        return ["" if r.index == 2 else f"<think>because {r.index}</think>so<|im_end|>more" for r in rollouts]

    make = made(ReasonFirst(Answer("answer")), reasoner=reasoner)
    batch = group_of(RIGHT, WRONG, WRONG)
    (first,), (second,), (without,) = make(batch)
    assert (first.source, without.source) == ("answer+reasons", "answer")
    assert "98765" in (first.text or "")
    assert "because 1\nso" in (second.text or "")
    assert "more" not in (second.text or "")
    other = [graded(r.index, UNKNOWN, text="else", answer=None) for r in batch]
    assert make(other) == make(batch)


# ── Together ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_context_of_problems_is_handed_problems_and_nothing_else(lab_tokenizer: Any) -> None:
    seen: list[Any] = []

    def make(problems: Sequence[Problem]) -> list[Pool]:
        seen.extend(problems)
        return [(Block("null", None),) for _ in problems]

    made(Joined((Made(make), Sibling())))(group_of(RIGHT, WRONG))
    assert seen == [PROBLEM, PROBLEM]
    teachers_of(Made(make), PromptBuilder(MATH, lab_tokenizer, 512)).views(group_of(RIGHT))
    assert seen == [PROBLEM] * 3


def test_half_a_joined_context_is_none_and_the_rest_of_a_mix_shares_the_weight(lab_tokenizer: Any) -> None:
    answer = Answer("answer")
    maker = PromptBuilder(MATH, lab_tokenizer, 512)
    batch = group_of(RIGHT, WRONG)
    joined = teachers_of(Joined((answer, Sibling())), maker).views(batch)
    assert [[bool(view.prompt_ids) for view in pool] for pool in joined] == [[False], [True]]
    (_,), (text,) = shown(maker, joined)
    assert "98765" in text
    assert "attempt-0" in text
    mixed = teachers_of(Mixed((answer, Hints(1), Null())), maker).views([*batch, graded(2, RIGHT)])
    assert [len(pool) for pool in mixed] == [4, 4, 4]
    for pool in mixed:
        kept = [view.weight for view in pool if view.prompt_ids]
        assert sum(kept) == pytest.approx(1)
        assert kept == pytest.approx([1 / len(kept)] * len(kept))
    assert [sum(bool(view.prompt_ids) for view in pool) for pool in mixed] == [4, 2, 4]


def test_what_was_sampled_and_does_not_fit_is_left_out_and_the_data_s_own_is_an_error(lab_tokenizer: Any) -> None:
    tight = PromptBuilder(MATH, lab_tokenizer, 110)
    batch = [graded(0, WRONG), graded(1, RIGHT, text="long " * 200)]
    (pool, _) = teachers_of(Sibling(), tight).views(batch)
    assert [(view.prompt_ids, view.weight) for view in pool] == [((), 0.0)]
    wordy = [replace(r, rollout=replace(r.rollout, problem=replace(PROBLEM, gold="9" * 200))) for r in batch]
    with pytest.raises(UnfitPrompt, match=r"prompts\.unfit: skip"):
        teachers_of(Mixed((Answer("answer"), Sibling())), tight).views(wordy)
    forged = [replace(r, rollout=replace(r.rollout, problem=replace(PROBLEM, gold="</think>"))) for r in batch]
    with pytest.raises(UserError, match="control token"):
        teachers_of(Answer("answer"), tight).views(forged)


def asked_of(module: Any) -> list[tuple[type[Context], str]]:
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Context)]
    own = [kind for kind in kinds if kind.__module__ == module.__name__]
    return [(kind, name) for kind in own for name in ("block", "blocks") if name in vars(kind)]


@pytest.mark.parametrize(
    ("kind", "name"),
    [asked for module in (references, rollouts, controls, skill_pairs) for asked in asked_of(module)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_only_contexts_of_rollouts_are_handed_verdicts(kind: type[Context], name: str) -> None:
    _, handed, _ = inspect.signature(getattr(kind, name)).parameters.values()
    one = "Graded" if issubclass(kind, RolloutContext) else "Problem"
    assert handed.annotation == (one if name == "block" else f"Sequence[{one}]")


def test_a_combination_sees_rollouts_where_a_part_does() -> None:
    assert Joined((Answer(), Mixed((Null(), Sibling())))).sees_rollouts
    assert not Joined((Answer(), Mixed((Null(), Answer())))).sees_rollouts
    assert ReasonFirst(Answer()).sees_rollouts
    for context in (Sibling(), Hints(2), Mixed((Answer(), Null()))):
        with pytest.raises(ValueError, match="made from problems"):
            ReasonFirst(context)
