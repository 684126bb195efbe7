"""Controls: what stands in the place of a pair, how long it is, and that none of them is told an outcome."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sgsd.train.contexts.controls import CONTROLS, in_place_of_pairs, load_off_topic, make_control, null_teacher
from sgsd.train.contexts.pools import make_provider

from runs import small_config
from sgsd.bank import dump_bank, make_retriever, pairs_for, render_pair
from sgsd.contexts import (
    AnswerBlocks,
    Block,
    BlockProvider,
    IrrelevantBlocks,
    JoinedBlocks,
    NullTeacherBlocks,
    OffTopic,
    PromptBuilder,
    ShuffledBlocks,
    SkillPairBlocks,
    load_prompts,
    no_context,
)
from sgsd.contexts import controls as module
from sgsd.contexts.controls import beginnings
from sgsd.lab.demo_bank import demo_bank, off_topic_bank
from sgsd.lab.task import TaskSettings, problems
from sgsd.types import Mistake, Problem, Skill, SkillPair, UserError

STREAM = problems(TaskSettings(), held_out=False, seed=3)
PROBLEMS = [next(STREAM).to_problem() for _ in range(40)]
WORDS = load_off_topic("math")


def pairs_of(prompts: str, k: int = 3) -> SkillPairBlocks:
    return SkillPairBlocks(
        load_prompts(prompts), partial(pairs_for, make_retriever("bm25", demo_bank()), k=k), render_pair
    )


def counted(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def off_topic(prompts: str, tokenizer: Any) -> OffTopic:
    items = load_off_topic(prompts)
    return OffTopic(items.skills, items.mistakes, pairs_of(prompts), partial(counted, tokenizer))


def text(block: Block) -> str:
    assert block.text is not None
    return block.text


# ── Nothing ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("thinking", [True, False])
def test_null_is_the_students_own_prompt_in_the_teachers_mode(thinking: bool, lab_tokenizer: Any) -> None:
    maker = PromptBuilder(load_prompts("lab"), lab_tokenizer, 512)
    ((view,), _) = BlockProvider(maker, no_context, thinking).views(PROBLEMS[:2])
    assert view.prompt_ids == maker.student(PROBLEMS[0], thinking=thinking)
    assert (view.source, view.weight, view.item_ids) == ("null", 1.0, ())


def test_nothing_joined_with_an_answer_is_the_answer_and_an_empty_text_still_spoils_the_whole(
    lab_tokenizer: Any,
) -> None:
    prompts = load_prompts("lab")
    answer = AnswerBlocks(prompts, "answer")
    ((joined,),) = JoinedBlocks(prompts, (no_context, answer))(PROBLEMS[:1])
    assert joined.text == text(answer(PROBLEMS[:1])[0][0])
    ((nothing,),) = JoinedBlocks(prompts, (no_context, no_context))(PROBLEMS[:1])
    assert nothing.text is None
    ((spoilt,),) = JoinedBlocks(prompts, (no_context, lambda found: [(Block("b", ""),) for _ in found]))(PROBLEMS[:1])
    assert spoilt.text == ""


# ── Something else of the same length ──────────────────────────────────────────────────────────────────────────────


def test_the_bundled_off_topic_items_have_nothing_to_do_with_mathematics() -> None:
    assert len(WORDS.skills) == len(WORDS.mistakes) == 18
    said = " ".join(render_pair(SkillPair(s, m, 0, 1), load_prompts("math").text("skill_pair")).split("\n\n", 1)[1]
                    for s, m in zip(WORDS.skills, WORDS.mistakes)).lower()  # fmt: skip
    for word in ("number", "equation", "sum", "digit", "proof", "integer", "triangle", "solve", "formula", "count"):
        assert word not in said.replace("figure", "").split()
    assert not any(character.isdigit() for character in said)


@pytest.mark.parametrize("prompts", ["math", "lab"])
def test_a_stand_in_is_as_long_as_its_pair(prompts: str, lab_tokenizer: Any) -> None:
    stand_ins, pairs = off_topic(prompts, lab_tokenizer), pairs_of(prompts)
    pools, own = IrrelevantBlocks(pairs, stand_ins)(PROBLEMS), pairs(PROBLEMS)
    misses = [
        counted(lab_tokenizer, text(b)) - counted(lab_tokenizer, text(o))
        for pool, blocks in zip(own, pools)
        for o, b in zip(pool, blocks, strict=True)
    ]
    assert len(misses) == 3 * len(PROBLEMS)
    assert max(map(abs, misses)) <= (1 if prompts == "math" else 6)
    assert sum(map(abs, misses)) / len(misses) < (0.2 if prompts == "math" else 2.0)


def test_a_stand_in_has_the_sides_the_weight_and_the_source_it_should_and_is_the_nearest_there_is() -> None:
    pairs = SkillPairBlocks(load_prompts("math"), lambda texts: [], render_pair)
    stand_ins = OffTopic(WORDS.skills[:5], WORDS.mistakes[9:], pairs, lambda t: len(t.split()))
    skill, mistake = Skill("s", "Be brief", "Say it once.", "Always."), Mistake("m", "Haste", "No time.", "Slow down.")
    for pair in (
        SkillPair(skill, mistake, 0.5, 0.2),
        SkillPair(skill, None, 0.5, 0.2),
        SkillPair(None, mistake, 0.5, 0.2),
    ):
        found = stand_ins.like(pair, "key")
        assert (found.skill is None, found.mistake is None) == (pair.skill is None, pair.mistake is None)
        assert (found.score, found.weight) == (0.5, 0.2)
        everything = [
            replace(pair, skill=s, mistake=m)
            for s in (stand_ins._cut_skills if pair.skill else [None])
            for m in (stand_ins._cut_mistakes if pair.mistake else [None])
        ]
        best = min(abs(stand_ins.tokens(other) - stand_ins.tokens(pair)) for other in everything)
        assert abs(stand_ins.tokens(found) - stand_ins.tokens(pair)) == best
    assert pairs.block(found, "irrelevant").source == "irrelevant"


def test_the_problem_alone_decides_the_stand_in_and_many_different_ones_occur(lab_tokenizer: Any) -> None:
    maker = IrrelevantBlocks(pairs_of("math"), off_topic("math", lab_tokenizer))
    whole = maker(PROBLEMS)
    assert maker(PROBLEMS[7:9]) == whole[7:9]
    assert len({block.item_ids for pool in whole for block in pool}) > 30
    assert {block.item_ids[0][:9] for pool in whole for block in pool} == {"off_topic"}


def test_sentences_are_never_cut_in_the_middle() -> None:
    assert beginnings("One. Two is longer!  Three?") == ["One.", "One. Two is longer!", "One. Two is longer! Three?"]
    assert beginnings("No stop at all") == ["No stop at all"]


def test_the_null_teacher_is_one_off_topic_pair_of_middle_length(lab_tokenizer: Any) -> None:
    pairs, stand_ins = pairs_of("math"), off_topic("math", lab_tokenizer)
    for pool, (block,) in zip(pairs(PROBLEMS), NullTeacherBlocks(pairs, stand_ins)(PROBLEMS), strict=True):
        lengths = sorted(counted(lab_tokenizer, text(own)) for own in pool)
        assert abs(counted(lab_tokenizer, text(block)) - lengths[1]) <= 1
        assert (block.source, block.weight) == ("null_teacher", 1.0)


def test_off_topic_items_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "off_topic.json").write_text(dump_bank(demo_bank()))
    assert load_off_topic(str(tmp_path)).version == demo_bank().version
    (tmp_path / "off_topic.json").write_text("{}")
    with pytest.raises(UserError, match=r"off_topic\.json"):
        load_off_topic(str(tmp_path))
    (tmp_path / "off_topic.json").unlink()
    assert load_off_topic(str(tmp_path)).version == load_off_topic("math").version
    assert load_off_topic("lab").version == off_topic_bank().version
    with pytest.raises(UserError, match="at least one skill and one mistake"):
        OffTopic(WORDS.skills, (), pairs_of("math"), len)


# ── Somebody else's ────────────────────────────────────────────────────────────────────────────────────────────────


def test_shuffled_shows_another_problems_pairs_never_ones_own() -> None:
    pairs = pairs_of("lab")
    maker = ShuffledBlocks(pairs, PROBLEMS)
    whole = maker(PROBLEMS)
    assert maker(PROBLEMS[5:7]) == whole[5:7]
    others = [{block.item_ids for block in pool} for pool in pairs(PROBLEMS)]
    for own, pool in zip(pairs(PROBLEMS), whole, strict=True):
        assert not {i for block in own for i in block.item_ids} & {i for block in pool for i in block.item_ids}
        assert {block.item_ids for block in pool} in others
        assert sum(block.weight for block in pool) == pytest.approx(1)
        assert {block.source for block in pool} == {"shuffled"}
    assert len({tuple(block.item_ids for block in pool) for pool in whole}) > 3


def test_shuffled_needs_another_problem() -> None:
    twin = replace(PROBLEMS[0], id="twin")
    with pytest.raises(UserError, match=f"problem {PROBLEMS[0].id}: there is no other problem"):
        ShuffledBlocks(pairs_of("lab"), [PROBLEMS[0], twin])(PROBLEMS[:1])


# ── In a run ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("also", [None, "answer"])
def test_a_control_takes_the_place_of_the_pairs_and_of_nothing_else(
    also: str | None, lab_tokenizer: Any, tmp_path: Path
) -> None:
    config = small_config(tmp_path, method={"name": "sgsd", "k": 2, "also": also}, prompts={"teacher_thinking": True})
    maker = PromptBuilder(load_prompts("lab"), lab_tokenizer, 512)
    provider = make_provider(config, config.build_method(), maker, demo_bank())
    first = PROBLEMS[0]
    for name in CONTROLS:
        made = make_control(name, provider, "lab", PROBLEMS)
        assert isinstance(made, BlockProvider)
        assert (made.thinking, made.maker) == (True, maker)
        (pool,) = made.views([first])
        assert len(pool) == (1 if name == "null" else 2)
        for view in pool:
            shown = lab_tokenizer.decode(view.prompt_ids)
            assert (f"Answer: {first.gold}" in shown) == (also is not None)
            assert ("Skill:" in shown) == (name != "null")
            assert view.source == name + ("+answer" if also else "")
    ((null,),) = null_teacher(provider, "lab").views([first])
    assert ("Answer:" in lab_tokenizer.decode(null.prompt_ids)) == (also is not None)
    assert provider.views([first])[0][0].source.startswith("skill_pair")  # the run's own provider is as it was


def test_what_retrieves_no_pairs_has_nothing_to_replace(lab_tokenizer: Any) -> None:
    maker = PromptBuilder(load_prompts("lab"), lab_tokenizer, 512)
    provider = BlockProvider(maker, AnswerBlocks(maker.prompts, "answer"), False)
    assert in_place_of_pairs(provider, lambda pairs: no_context) == provider


def test_no_control_can_be_told_an_outcome() -> None:
    makers = [no_context, IrrelevantBlocks.__call__, NullTeacherBlocks.__call__, ShuffledBlocks.__call__]
    for maker in makers:
        (argument,) = [p for p in inspect.signature(maker).parameters.values() if p.name != "self"]
        assert argument.annotation == "Sequence[Problem]"
    assert not {"Rollout", "Verdict", "Completion"} & set(vars(module))


def test_a_control_does_not_look_at_the_answer() -> None:
    blind: Sequence[Problem] = [replace(problem, gold=None, solution=None) for problem in PROBLEMS]
    assert ShuffledBlocks(pairs_of("lab"), blind)(blind) == ShuffledBlocks(pairs_of("lab"), PROBLEMS)(PROBLEMS)
