"""Controls: what stands in the place of a pair, how long it is, and that none of them is told an outcome."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from graded import Made, resources_of, teachers_of
from runs import small_config
from sgsd.bank import dump_bank, make_retriever, pairs_for, render_pair
from sgsd.contexts import (
    Answer,
    Block,
    Context,
    Irrelevant,
    Joined,
    Null,
    NullTeacher,
    Pool,
    RandomPairs,
    Resources,
    Shuffled,
    Sibling,
    SkillPairs,
    make_pools,
)
from sgsd.contexts import controls as module
from sgsd.contexts.controls import CONTROLS, control, has_controls, in_place, null_teacher
from sgsd.contexts.off_topic import OffTopic, beginnings
from sgsd.contexts.prompt_builders import PromptBuilder
from sgsd.contexts.prompts import load_prompts
from sgsd.contexts.skill_pairs import pair_text
from sgsd.lab.demo_bank import demo_bank, off_topic_bank
from sgsd.lab.task import problems
from sgsd.train.context_resources import make_contexts, off_topic_items
from sgsd.types import Mistake, Problem, Skill, SkillPair, UserError

STREAM = problems(held_out=False, seed=3)
PROBLEMS = [next(STREAM).to_problem() for _ in range(40)]
WORDS = off_topic_items("math")
PAIRS = SkillPairs(3)


def retrieve(pairs: SkillPairs, queries: Sequence[str]) -> list[tuple[SkillPair, ...]]:
    return pairs_for(make_retriever("bm25", demo_bank()), queries, pairs.k)


def made_of(prompts: str, **more: Any) -> Resources:
    return resources_of(prompts, problems=PROBLEMS, retrieve=retrieve, render_pair=render_pair, **more)


def pairs_of(prompts: str, problems: Sequence[Problem] = PROBLEMS) -> list[Pool]:
    return make_pools(PAIRS, problems, made_of(prompts))


def counted(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def off_topic(prompts: str, tokenizer: Any) -> OffTopic:
    items = off_topic_items(prompts)
    text = partial(pair_text, resources=made_of(prompts))
    return OffTopic(items.skills, items.mistakes, text, partial(counted, tokenizer))


def with_off_topic(prompts: str, tokenizer: Any) -> Resources:
    count = partial(counted, tokenizer)
    return made_of(prompts, load_off_topic=partial(off_topic, prompts, tokenizer), count_tokens=count)


def text(block: Block) -> str:
    assert block.text is not None
    return block.text


# ── Nothing ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("thinking", [True, False])
def test_null_is_the_students_own_prompt_in_the_teachers_mode(thinking: bool, lab_tokenizer: Any) -> None:
    maker = PromptBuilder(load_prompts("lab"), lab_tokenizer, 512)
    ((view,), _) = teachers_of(Null(), maker, thinking=thinking).views(PROBLEMS[:2])
    assert view.prompt_ids == maker.student(PROBLEMS[0], thinking=thinking)
    assert (view.source, view.weight, view.item_ids) == ("null", 1.0, ())


def test_nothing_joined_with_an_answer_is_the_answer_and_an_empty_text_still_spoils_the_whole() -> None:
    def shown(*parts: Context) -> str | None:
        ((block,),) = make_pools(Joined(parts), PROBLEMS[:1], made_of("lab"))
        return block.text

    ((answer,),) = make_pools(Answer("answer"), PROBLEMS[:1], made_of("lab"))
    assert shown(Null(), Answer("answer")) == text(answer)
    assert shown(Null(), Null()) is None
    assert shown(Null(), Made(lambda found: [(Block("b", ""),) for _ in found])) == ""


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
    pools, own = make_pools(Irrelevant(PAIRS), PROBLEMS, with_off_topic(prompts, lab_tokenizer)), pairs_of(prompts)
    misses = [
        counted(lab_tokenizer, text(b)) - counted(lab_tokenizer, text(o))
        for pool, blocks in zip(own, pools)
        for o, b in zip(pool, blocks, strict=True)
    ]
    assert len(misses) == 3 * len(PROBLEMS)
    assert max(map(abs, misses)) <= (1 if prompts == "math" else 6)
    assert sum(map(abs, misses)) / len(misses) < (0.2 if prompts == "math" else 2.0)


def test_a_stand_in_has_the_sides_the_weight_and_the_source_it_should_and_is_the_nearest_there_is() -> None:
    in_words = partial(pair_text, resources=made_of("math"))
    stand_ins = OffTopic(WORDS.skills[:5], WORDS.mistakes[9:], in_words, lambda t: len(t.split()))
    skill, mistake = Skill("s", "Be brief", "Say it once.", "Always."), Mistake("m", "Haste", "No time.", "Slow down.")
    for pair in (
        SkillPair(skill, mistake, 0.5, 0.2),
        SkillPair(skill, None, 0.5, 0.2),
        SkillPair(None, mistake, 0.5, 0.2),
        None,
    ):
        block = Block("hint", "Be brief and say it once." if pair is None else in_words(pair), 0.2, pair=pair)
        found = stand_ins.like(block, "key")
        sides = (True, True) if pair is None else (pair.skill is not None, pair.mistake is not None)
        assert found.pair is not None
        assert (found.pair.skill is not None, found.pair.mistake is not None) == sides
        assert (found.weight, found.item_ids, found.text) == (0.2, found.pair.item_ids, in_words(found.pair))
        everything = [
            replace(found.pair, skill=s, mistake=m)
            for s in (stand_ins._cut_skills if sides[0] else [None])
            for m in (stand_ins._cut_mistakes if sides[1] else [None])
        ]
        wanted = len(text(block).split())
        best = min(abs(stand_ins.tokens(other) - wanted) for other in everything)
        assert abs(stand_ins.tokens(found.pair) - wanted) == best
    ((block, *_),) = make_pools(Irrelevant(PAIRS), PROBLEMS[:1], made_of("math", load_off_topic=lambda: stand_ins))
    assert block.source == "irrelevant"


def test_the_problem_alone_decides_the_stand_in_and_many_different_ones_occur(lab_tokenizer: Any) -> None:
    resources = with_off_topic("math", lab_tokenizer)
    whole = make_pools(Irrelevant(PAIRS), PROBLEMS, resources)
    assert make_pools(Irrelevant(PAIRS), PROBLEMS[7:9], resources) == whole[7:9]
    assert len({block.item_ids for pool in whole for block in pool}) > 30
    assert {block.item_ids[0][:9] for pool in whole for block in pool} == {"off_topic"}


def test_sentences_are_never_cut_in_the_middle() -> None:
    assert beginnings("One. Two is longer!  Three?") == ["One.", "One. Two is longer!", "One. Two is longer! Three?"]
    assert beginnings("No stop at all") == ["No stop at all"]


def test_the_null_teacher_is_one_off_topic_pair_of_middle_length(lab_tokenizer: Any) -> None:
    nulls = make_pools(NullTeacher(PAIRS), PROBLEMS, with_off_topic("math", lab_tokenizer))
    for pool, (block,) in zip(pairs_of("math"), nulls, strict=True):
        lengths = sorted(counted(lab_tokenizer, text(own)) for own in pool)
        assert abs(counted(lab_tokenizer, text(block)) - lengths[1]) <= 1
        assert (block.source, block.weight) == ("null_teacher", 1.0)


def test_off_topic_items_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "off_topic.json").write_text(dump_bank(demo_bank()))
    assert off_topic_items(str(tmp_path)).version == demo_bank().version
    (tmp_path / "off_topic.json").write_text("{}")
    with pytest.raises(UserError, match=r"off_topic\.json"):
        off_topic_items(str(tmp_path))
    (tmp_path / "off_topic.json").unlink()
    assert off_topic_items(str(tmp_path)).version == off_topic_items("math").version
    assert off_topic_items("lab").version == off_topic_bank().version
    with pytest.raises(UserError, match="at least one skill and one mistake"):
        OffTopic(WORDS.skills, (), str, len)


# ── Somebody else's ────────────────────────────────────────────────────────────────────────────────────────────────


def test_shuffled_shows_another_problems_pairs_never_ones_own() -> None:
    whole = make_pools(Shuffled(PAIRS), PROBLEMS, made_of("lab"))
    assert make_pools(Shuffled(PAIRS), PROBLEMS[5:7], made_of("lab")) == whole[5:7]
    others = [{block.item_ids for block in pool} for pool in pairs_of("lab")]
    for own, pool in zip(pairs_of("lab"), whole, strict=True):
        assert not {i for block in own for i in block.item_ids} & {i for block in pool for i in block.item_ids}
        assert {block.item_ids for block in pool} in others
        assert sum(block.weight for block in pool) == pytest.approx(1)
        assert {block.source for block in pool} == {"shuffled"}
    assert len({tuple(block.item_ids for block in pool) for pool in whole}) > 3


def test_shuffled_needs_another_problem() -> None:
    twin = replace(PROBLEMS[0], id="twin")
    with pytest.raises(UserError, match=f"problem {PROBLEMS[0].id}: there is no other problem"):
        make_pools(Shuffled(PAIRS), PROBLEMS[:1], replace(made_of("lab"), problems=[PROBLEMS[0], twin]))


# ── In a run ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("also", [None, "answer"])
def test_a_control_takes_the_place_of_the_pairs_and_of_nothing_else(
    also: str | None, lab_tokenizer: Any, tmp_path: Path
) -> None:
    config = small_config(tmp_path, method={"name": "sgsd", "k": 2, "also": also}, prompts={"teacher_thinking": True})
    maker = PromptBuilder(load_prompts("lab"), lab_tokenizer, 512)
    method = config.build_method()
    teachers = make_contexts(config, method, maker, demo_bank(), problems=PROBLEMS).teachers
    first = PROBLEMS[0]
    for name in CONTROLS:
        made = teachers.of(control(method.context, name))
        assert (made.thinking, made.builder) == (True, maker)
        (pool,) = made.views([first])
        assert len(pool) == (1 if name == "null" else 2)
        for view in pool:
            shown = lab_tokenizer.decode(view.prompt_ids)
            assert (f"Answer: {first.gold}" in shown) == (also is not None)
            assert ("Skill:" in shown) == (name != "null")
            assert view.source == name + ("+answer" if also else "")
    ((null,),) = teachers.of(null_teacher(method.context)).views([first])
    assert ("Answer:" in lab_tokenizer.decode(null.prompt_ids)) == (also is not None)
    assert teachers.views([first])[0][0].source.startswith("skill_pair")  # the run's own teachers are as they were


def test_what_retrieves_no_pairs_has_nothing_to_replace() -> None:
    for context in (Answer("answer"), RandomPairs(2), Shuffled(PAIRS), Joined((Answer(), Irrelevant(PAIRS)))):
        assert in_place(context, lambda part: Null()) == context
        assert not has_controls(context)


def test_no_control_can_be_told_an_outcome() -> None:
    for kind in (Irrelevant, NullTeacher, Shuffled, SkillPairs):
        _, batch, _ = inspect.signature(kind.blocks).parameters.values()
        assert batch.annotation == "Sequence[Problem]"
    for context in (Null(), RandomPairs(), *(kind(PAIRS) for kind in (Irrelevant, NullTeacher, Shuffled))):
        assert not context.sees_rollouts
        with pytest.raises(ValueError, match="made from problems"):
            Irrelevant(Joined((context, Sibling())))
    assert not {"Graded", "Rollout", "Verdict", "Completion"} & set(vars(module))


def test_a_control_does_not_look_at_the_answer() -> None:
    blind: Sequence[Problem] = [replace(problem, gold=None, solution=None) for problem in PROBLEMS]
    unseen = replace(made_of("lab"), problems=blind)
    assert make_pools(Shuffled(PAIRS), blind, unseen) == make_pools(Shuffled(PAIRS), PROBLEMS, made_of("lab"))


# ── Of a context of one's own ──────────────────────────────────────────────────────────────────────────────────────


def hints(problems: Sequence[Problem]) -> list[Pool]:
    return [(Block("hint", f"See {p.id}. " * 9, 0.75, (p.id,)), Block("hint", "Or do not.", 0.25)) for p in problems]


def test_controls_take_the_place_of_a_context_of_ones_own(lab_tokenizer: Any) -> None:
    context, resources = Joined((Made(hints), Answer("answer"))), with_off_topic("math", lab_tokenizer)
    assert has_controls(context)
    assert in_place(Joined((Made(hints), PAIRS)), lambda part: Null()) == Joined((Made(hints), Null()))
    own, off, other = (
        make_pools(made, PROBLEMS, resources)
        for made in (Made(hints), control(Made(hints), "irrelevant"), control(Made(hints), "shuffled"))
    )
    for problem, mine, stand_ins, theirs in zip(PROBLEMS, own, off, other, strict=True):
        assert [block.weight for block in stand_ins] == [0.75, 0.25]
        assert counted(lab_tokenizer, text(stand_ins[0])) == pytest.approx(counted(lab_tokenizer, text(mine[0])), abs=4)
        assert problem.id not in text(stand_ins[0]) + text(theirs[0])
        assert {block.source for block in (*stand_ins, *theirs)} == {"irrelevant", "shuffled"}
    ((null,), *_) = make_pools(null_teacher(context), PROBLEMS, resources)
    assert (null.source, null.weight) == ("null_teacher+answer", 1.0)
    nothing = Made(lambda problems: [(Block("b", "", 0.5), Block("b", None, 0.5)) for _ in problems])
    ((empty, none), *_) = make_pools(control(nothing, "irrelevant"), PROBLEMS, resources)
    assert (empty.text, none.text) == ("", None)
