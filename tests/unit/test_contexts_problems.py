"""Contexts about problems: other problems, rubrics, mixtures, sides of pairs, and pairs for the student itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graded import OTHERS, PROBLEM, Made, resources_of, teachers_of
from runs import small_config
from sgsd.bank import Bank
from sgsd.config.run_config import RunConfig
from sgsd.contexts import (
    Answer,
    Block,
    Context,
    Demonstration,
    Feedback,
    Hints,
    Irrelevant,
    Joined,
    Mixed,
    NoContext,
    Null,
    OtherProblem,
    RandomPairs,
    ReasonFirst,
    Rubric,
    Shuffled,
    Sibling,
    SkillPairs,
    WrongAnswer,
    make_pools,
)
from sgsd.contexts.controls import controlled_alone, in_place, null_teacher
from sgsd.contexts.prompt_builders import PromptBuilder, TeacherPrompts, UnfitPrompt
from sgsd.contexts.prompts import load_prompts
from sgsd.lab.demo_bank import demo_bank
from sgsd.methods import Method
from sgsd.methods.objectives import MatchSampledToken
from sgsd.train.context_resources import Contexts, make_contexts, make_train_prompts
from sgsd.types import Problem, UserError

MATH = load_prompts("math")


def text(block: Block) -> str:
    assert block.text is not None
    return block.text


def method_of(context: Context, **more: Any) -> Method:
    return Method(name="mine", context=context, objective=MatchSampledToken(), group=4, **more)


def block_of(context: Context, problem: Problem = PROBLEM, others: Sequence[Problem] = OTHERS) -> Block:
    ((block,),) = make_pools(context, [problem], resources_of(MATH, problems=others))
    return block


def teachers_in_a_run(
    context: Context, tokenizer: Any, folder: Path, *, prompts: str = "lab", **changes: Any
) -> TeacherPrompts:
    config = small_config(folder, **changes)
    builder = PromptBuilder(load_prompts(prompts), tokenizer, 512)
    return make_contexts(config, method_of(context), builder, demo_bank(), problems=OTHERS).teachers


# ── Other problems ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("context", [WrongAnswer(), OtherProblem()], ids=lambda c: type(c).__name__)
def test_another_problem_is_drawn_by_id_and_seed_alone(context: Context) -> None:
    whole = make_pools(context, OTHERS, resources_of(MATH, problems=OTHERS))
    assert make_pools(context, OTHERS[2:4], resources_of(MATH, problems=OTHERS)) == whole[2:4]
    assert make_pools(context, OTHERS, resources_of(MATH, problems=OTHERS, seed=1)) != whole
    chosen = Counter(other.id for (block,) in whole for other in OTHERS if str(other.gold) in text(block))
    assert len(chosen) > 2
    for problem, (block,) in zip(OTHERS, whole, strict=True):
        assert str(problem.gold) not in text(block)
        assert problem.text not in text(block)


def test_a_wrong_answer_is_shown_in_the_words_of_a_right_one() -> None:
    right, wrong = block_of(Answer("answer")), block_of(WrongAnswer())
    (gold,) = [other.gold for other in OTHERS if str(other.gold) in text(wrong)]
    assert text(wrong) == text(right).replace("98765", str(gold))
    same = [replace(other, gold=" $98765$") for other in OTHERS]
    with pytest.raises(UserError, match="problem p1: no other problem has another answer"):
        block_of(WrongAnswer(), others=same)


def test_another_problem_comes_with_its_solution_or_its_answer() -> None:
    twin = Problem("twin", "Addition:  38+35", "1", "twin")
    bare = Problem("bare", "Bracket: 1-(2-3)", "777")
    shown = block_of(OtherProblem(), others=[twin, PROBLEM, OTHERS[0]])
    for part in (OTHERS[0].text, str(OTHERS[0].solution)):
        assert part in text(shown)
    assert "Its answer: 777" in text(block_of(OtherProblem(), others=[bare]))
    with pytest.raises(UserError, match="problem p1: there is no other problem"):
        block_of(OtherProblem(), others=[twin, PROBLEM])


# ── Demonstrations and rubrics ─────────────────────────────────────────────────────────────────────────────────────


def test_a_demonstration_is_the_solution_or_else_the_answer() -> None:
    block = block_of(Demonstration())
    assert "how an expert responds" in text(block)
    assert "8+5=13, hence the sum." in text(block)
    assert "\n98765\n" in text(block_of(Demonstration(), replace(PROBLEM, solution=None)))
    with pytest.raises(UserError, match="problem p1: it has no answer"):
        block_of(Demonstration(), replace(PROBLEM, gold=None))


def test_a_rubric_is_shown_as_it_is_and_without_the_answer() -> None:
    block = block_of(Rubric())
    assert "Carries the one." in text(block)
    assert "98765" not in text(block)
    criteria = [{"title": "Carry", "weight": "5"}]
    block = block_of(Rubric(), replace(PROBLEM, meta={"rubric": criteria}))
    assert '[{"title": "Carry", "weight": "5"}]' in text(block)
    with pytest.raises(UserError, match=r"problem p1: it has no rubric.*data\.rubric"):
        block_of(Rubric(), replace(PROBLEM, meta={}))


# ── Pools ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_parts_of_a_mix_weigh_by_their_numbers() -> None:
    def three(problems: Any) -> list[tuple[Block, ...]]:
        return [tuple(Block("b", str(n), weight) for n, weight in enumerate((0.5, 0.3, 0.2))) for _ in problems]

    context = Mixed((Made(three), Null(), Mixed((Made(three), Null()))))
    (pool,) = make_pools(context, [PROBLEM], resources_of(MATH))
    assert [block.weight for block in pool] == pytest.approx(
        [0.5 * 3 / 8, 0.3 * 3 / 8, 0.2 * 3 / 8, 1 / 8, 0.5 * 3 / 8, 0.3 * 3 / 8, 0.2 * 3 / 8, 1 / 8]
    )


@pytest.mark.parametrize(
    ("context", "sources"),
    [
        (Mixed((Joined((SkillPairs(3), Answer("answer"))), Null())), ["skill_pair+answer"] * 3 + ["null"]),
        (
            Mixed((RandomPairs(2), Shuffled(SkillPairs(1)), Irrelevant(SkillPairs(1)))),
            ["random"] * 2 + ["shuffled", "irrelevant"],
        ),
    ],
)
def test_a_declared_pool(context: Context, sources: list[str], lab_tokenizer: Any, tmp_path: Path) -> None:
    (pool,) = teachers_in_a_run(context, lab_tokenizer, tmp_path).views([PROBLEM])
    assert [view.source for view in pool] == sources
    assert sum(view.weight for view in pool) == pytest.approx(1)
    assert len({view.prompt_ids for view in pool}) == len(pool)


@pytest.mark.parametrize("prompts", ["lab", "math"])
@pytest.mark.parametrize("kind", [SkillPairs, RandomPairs, Irrelevant, Shuffled], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("side", ["skill", "mistake"])
def test_one_side_of_a_pair_is_shown_alone(
    kind: type[Context], side: Any, prompts: str, lab_tokenizer: Any, tmp_path: Path
) -> None:
    bank: Bank = demo_bank()
    pairs = SkillPairs(3, side)
    context: Context = kind(pairs) if kind in (Irrelevant, Shuffled) else kind(3, side)  # type: ignore[call-arg]
    (pool,) = teachers_in_a_run(context, lab_tokenizer, tmp_path, prompts=prompts).views([PROBLEM])
    assert len(pool) == 3
    assert sum(view.weight for view in pool) == pytest.approx(1)
    for view in pool:
        shown = lab_tokenizer.decode(view.prompt_ids)
        assert ("Skill:" in shown) == (side == "skill")
        assert ("istake:" in shown) == (side == "mistake")
        if kind is not Irrelevant:
            wanted = bank.skills if side == "skill" else bank.mistakes
            assert set(view.item_ids) <= {item.id for item in wanted}
            assert len(view.item_ids) == 1


def test_random_pairs_are_the_problem_s_and_the_seed_s(lab_tokenizer: Any, tmp_path: Path) -> None:
    chosen = [
        [
            view.item_ids
            for view in teachers_in_a_run(RandomPairs(3), lab_tokenizer, tmp_path, seed=seed).views(batch)[-1]
        ]
        for seed, batch in ((0, [PROBLEM]), (0, [*OTHERS, PROBLEM]), (1, [PROBLEM]))
    ]
    assert chosen[0] == chosen[1] != chosen[2]


def test_a_control_and_the_null_teacher_reach_into_a_mix(lab_tokenizer: Any, tmp_path: Path) -> None:
    context = Mixed((Null(), Joined((SkillPairs(2), Answer("answer"))), RandomPairs(1)))
    teachers = teachers_in_a_run(context, lab_tokenizer, tmp_path)
    (pool,) = teachers.of(in_place(context, lambda pairs: Null())).views([PROBLEM])
    assert [view.source for view in pool] == ["null", "null+answer", "random"]
    ((null,),) = teachers.of(null_teacher(context)).views([PROBLEM])
    assert null.source == "null_teacher+answer"
    assert null.weight == 1
    (pool,) = teachers.of(controlled_alone(context)).views([PROBLEM])
    assert [view.source for view in pool] == ["skill_pair+answer"] * 2


# ── Before there are rollouts ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("context", "left"),
    [
        (SkillPairs(2), SkillPairs(2)),
        (Sibling(), NoContext()),
        (ReasonFirst(Answer("answer")), Answer("answer")),
        (Mixed((SkillPairs(2), Sibling(), Null())), Mixed((SkillPairs(2), Null()))),
        (Joined((SkillPairs(2), Feedback())), NoContext()),
        (Mixed((Hints(2), Feedback())), NoContext()),
    ],
)
def test_what_can_be_foreseen(context: Context, left: Context, lab_tokenizer: Any, tmp_path: Path) -> None:
    assert context.before_rollouts() == left
    builder = PromptBuilder(load_prompts("lab"), lab_tokenizer, 512)
    made = make_contexts(small_config(tmp_path), method_of(context), builder, demo_bank(), problems=OTHERS)
    (pool,) = made.before_rollouts().teachers.views([PROBLEM])
    assert len(pool) == left.teachers
    assert bool(context.sampled_kinds()) == (context != left)


# ── Pairs for the student ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prompts", ["lab", "math"])
def test_the_student_is_shown_its_best_pairs_in_one_block(prompts: str, lab_tokenizer: Any, tmp_path: Path) -> None:
    config, maker = small_config(tmp_path), PromptBuilder(load_prompts(prompts), lab_tokenizer, 900)
    method = method_of(Answer("answer"), student_context=SkillPairs(3))
    made = make_contexts(config, method, maker, demo_bank())
    shown = lab_tokenizer.decode(made.train_prompts.student(PROBLEM, thinking=False))
    assert (shown.count("Skill:"), shown.count("istake:")) == (3, 3)
    assert shown.count(PROBLEM.text) == 1
    assert shown.count("Notes from earlier problems") == (prompts == "math")
    assert "98765" not in shown
    ((teacher,),) = made.teachers.views([PROBLEM])
    assert "Skill:" not in lab_tokenizer.decode(teacher.prompt_ids)
    assert make_train_prompts(config, method_of(Answer()), maker, None) is maker
    with pytest.raises(UserError, match="the student is shown retrieved pairs or random ones"):
        make_train_prompts(config, method_of(Answer(), student_context=Irrelevant(SkillPairs(2))), maker, demo_bank())


def test_pairs_that_do_not_fit_are_an_error_or_fewer(lab_tokenizer: Any, tmp_path: Path) -> None:
    maker, method = (
        PromptBuilder(load_prompts("lab"), lab_tokenizer, 60),
        method_of(Answer(), student_context=SkillPairs(3)),
    )
    strict = make_train_prompts(small_config(tmp_path), method, maker, demo_bank())
    with pytest.raises(UnfitPrompt, match="problem p1 with its pairs: its prompt has"):
        strict.student(PROBLEM, thinking=False)
    lenient = make_train_prompts(small_config(tmp_path, prompts={"unfit": "skip"}), method, maker, demo_bank())
    ids = lenient.student(PROBLEM, thinking=False)
    assert len(ids) <= 60
    assert 0 < lab_tokenizer.decode(ids).count("Skill:") < 3


def test_an_evaluation_may_show_pairs(lab_tokenizer: Any, tmp_path: Path) -> None:
    maker = PromptBuilder(load_prompts("lab"), lab_tokenizer, 900)
    config = small_config(tmp_path, evaluation={"data": {"path": "lab:held-out"}, "skills": 8})
    shown = lab_tokenizer.decode(contexts_of(config, maker).eval_prompts.student(PROBLEM, thinking=True))
    assert shown.count("Skill:") == 8
    assert contexts_of(small_config(tmp_path), maker).eval_prompts is maker


def contexts_of(config: RunConfig, builder: PromptBuilder) -> Contexts:
    return make_contexts(config, config.build_method(), builder, demo_bank())


def test_blocks_of_one_s_own_mix_as_well(lab_tokenizer: Any) -> None:
    maker = PromptBuilder(MATH, lab_tokenizer, 512)
    (pool,) = teachers_of(Mixed((Answer("answer"), Null())), maker).views([PROBLEM])
    assert [view.weight for view in pool] == [0.5, 0.5]
