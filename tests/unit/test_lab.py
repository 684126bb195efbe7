"""The lab: problems with traps, items that speak of them, and the policy that was shown both."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import islice, product
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sgsd.bank import Bm25Retriever, dump_bank, parse_bank, retrieve_pairs
from sgsd.contexts.prompts import encode_chat, load_prompts
from sgsd.lab import task_skills as S
from sgsd.lab.demo_bank import DEMO_MIX, demo_bank
from sgsd.lab.pretrain import Recipe, completion_loss, encode_example, examples, procedure_logits, rate, style_for
from sgsd.lab.task import (
    ALL_RIGHT,
    BRANCHES,
    FAMILIES,
    RIGHT_SHARE,
    STYLES,
    Family,
    LabProblem,
    enumerate_problems,
    held_out_problems,
    is_held_out,
    problems,
)
from sgsd.lab.tiny_policy import CHAT_TEMPLATE, POLICY_FOLDER, VOCABULARY
from sgsd.rollout import Sampling, TransformersEngine
from sgsd.types import BankItem, UserError

#: What a pupil would write down, worked out here without any of the lab's own steps.
TRUTH: Mapping[str, Callable[..., int]] = {
    "precedence": lambda a, b, c: a + b * c,
    "bracket": lambda a, b, c: a - (b - c),
    "carry": lambda a, b: a + b,
    "mod": lambda a, b: a % b,
    "square": lambda a, b: a**2 + b,
    "minus": lambda a, b, c: a - (-b) + c,
    "square_bracket": lambda a, b, c: a**2 - (b - c),
    "precedence_minus": lambda a, b, c, d: a + b * c - (-d),
}
STEP = re.compile(r"(\d+)([-+*])(\d+)(?:\+(\d+))?=(\d+)")
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def mixes(family: Family) -> list[dict[str, bool]]:
    """Every mix of right and faulty procedures that the family can tell apart."""
    return [{**ALL_RIGHT, **dict(zip(family.branches, c))} for c in product((True, False), repeat=len(family.branches))]


def some_problems(family: Family) -> list[LabProblem]:
    return [*enumerate_problems(family.name, False)[::41], *enumerate_problems(family.name, True)[::11]]


# ── The task ───────────────────────────────────────────────────────────────────────────────────────────────────────


@each_family
def test_every_mix_of_procedures_reaches_an_answer_of_its_own(family: Family) -> None:
    for problem in (*enumerate_problems(family.name, False), *enumerate_problems(family.name, True)):
        answers = [problem.family.derive(problem.operands, mix)[1] for mix in mixes(family)]
        assert len(set(answers)) == 2 ** len(family.branches), problem.text
        assert answers[0] == TRUTH[family.name](*problem.operands), problem.text


@each_family
def test_a_branch_that_a_problem_does_not_meet_changes_nothing(family: Family) -> None:
    for problem in some_problems(family):
        assert list(map(int, re.findall(r"\d+", problem.text.replace("^2", "")))) == list(problem.operands)
        for mix in mixes(family):
            others = {branch: not right for branch, right in mix.items() if branch not in family.branches}
            assert problem.family.derive(problem.operands, {**mix, **others}) == problem.family.derive(
                problem.operands, mix
            )


@each_family
def test_derivations_are_sums_that_add_up_and_end_in_their_box(family: Family) -> None:
    for problem in some_problems(family):
        for mix, style in product(mixes(family), STYLES):
            solution = problem.solve(mix, style)
            found = STEP.findall(solution.working)
            assert len(found) == len(problem.family.derive(problem.operands, mix)[0]) >= 2
            for left, sign, right, carried, result in found:
                value = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[sign](int(left), int(right))
                assert value + int(carried or 0) == int(result), solution.text
            assert not re.search(r"\d", STEP.sub("", solution.working)), solution.text
            last = int(found[-1][-1])
            shown = 10 * last + int(found[0][-1]) % 10 if family.name == "carry" else last
            assert solution.answer == str(shown)
            assert solution.text == f"{solution.working}\\boxed{{{shown}}}"
            assert solution.thinking_text == f"<think>\n{solution.working.strip()}\n</think>\n\n\\boxed{{{shown}}}"


def test_training_and_held_out_problems_have_nothing_in_common() -> None:
    sides = [{p.text for f in FAMILIES for p in enumerate_problems(f.name, held_out)} for held_out in (False, True)]
    assert not sides[0] & sides[1]
    assert not any(map(is_held_out, sides[0]))
    assert all(map(is_held_out, sides[1]))
    assert len(sides[1]) / (len(sides[0]) + len(sides[1])) == pytest.approx(1 / 6, abs=0.01)
    for held_out in (False, True):
        assert all(p.text in sides[held_out] for p in islice(problems(held_out=held_out, seed=3), 200))


def test_the_held_out_problems_are_the_same_ones_for_everybody() -> None:
    chosen = held_out_problems(512)
    texts = [problem.text for problem in chosen]
    assert len(set(texts)) == len({problem.to_problem().id for problem in chosen}) == 512
    assert Counter(p.family.name for p in chosen) == {f.name: 64 for f in FAMILIES}
    assert [problem.text for problem in held_out_problems(64)] == texts[:64]
    # Results are compared across versions on these problems; whoever changes them has to say so here.
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16] == "eb7704f0195a6f35"
    with pytest.raises(UserError, match="has 3349 problems, 3350 were asked for"):
        held_out_problems(3350)
    assert len({p.text for p in held_out_problems(3349)}) == 3349


def test_a_stream_of_problems_is_a_function_of_its_seed_and_draws_families_evenly() -> None:
    def texts(seed: int, **settings: Any) -> list[LabProblem]:
        return list(islice(problems(held_out=False, seed=seed, **settings), 2000))

    assert texts(1) == texts(1) != texts(2)
    counts = Counter(p.family.name for p in texts(1))
    assert all(counts[f.name] == pytest.approx(250, abs=60) for f in FAMILIES)
    assert {p.family.name for p in texts(1, families=("mod", "carry"))} == {"mod", "carry"}


def test_a_problem_for_the_trainer_carries_the_right_answer_and_its_branches() -> None:
    for problem in held_out_problems(16):
        made = problem.to_problem()
        assert made.text == problem.text
        assert made.gold == str(TRUTH[problem.family.name](*problem.operands))
        assert made.solution == problem.solve(ALL_RIGHT).text
        assert made.meta == {"branches": problem.branches}


# ── Items ──────────────────────────────────────────────────────────────────────────────────────────────────────────

ALL_AIMS = [aim for kind in (S.HELPFUL, S.MISLEADING, S.STYLISTIC, S.IRRELEVANT) for aim in S.aims(kind)]


def said(aim: S.Aim, phrasings: tuple[int, ...], times: int) -> list[str]:
    """What items of one aim say of the act, in all the phrasings that `times` draws come upon."""
    rng = random.Random(0)
    made = [(S.make_skill("s", aim, rng, phrasings), S.make_mistake("m", aim, rng, phrasings)) for _ in range(times)]
    return [f"{s.title}|{s.principle}|{m.description}|{m.how_to_avoid}".lower() for s, m in made]


def test_items_are_made_as_counted() -> None:
    counts = {S.HELPFUL: 12, S.MISLEADING: 7, S.STYLISTIC: 3, S.IRRELEVANT: 2}
    skills, mistakes = S.make_items(counts, seed=1)
    pools: list[list[BankItem]] = [[*skills], [*mistakes]]
    for items in pools:
        assert Counter(item.meta["kind"] for item in items) == counts
        assert Counter(i.meta["target"] for i in items if i.meta["kind"] == S.HELPFUL) == dict.fromkeys(BRANCHES, 2)
    assert len({item.id for items in pools for item in items}) == 48
    assert [s.meta for s in skills] != [m.meta for m in mistakes]  # shuffled apart, or rank would pair them
    assert S.make_items(counts, seed=1) == (skills, mistakes) != S.make_items(counts, seed=2)


@pytest.mark.parametrize("aim", ALL_AIMS, ids=lambda aim: f"{aim.kind}-{aim.target}")
def test_the_fourth_phrasing_is_never_shown_in_training(aim: S.Aim) -> None:
    (unseen,) = set(said(aim, S.HELD_OUT_PHRASINGS, 20))
    title, principle, description, remedy = unseen.split("|")
    trained = said(aim, S.TRAINED_PHRASINGS, 200)
    assert len(set(trained)) > 50 or aim.kind == S.IRRELEVANT
    act = title.removeprefix("be sure to ")
    frames = [text.replace(act, "") for text in (title, principle, remedy)]
    frames = [frame.strip(" .") for frame in frames] + [description.split(" with ")[0]]
    assert all(frames)
    assert act in principle
    assert act in remedy
    for text in trained:
        assert not [frame for frame in frames if any(field.startswith(frame) for field in text.split("|"))]
        assert act not in text or aim.kind == S.IRRELEVANT  # what is off topic has one phrasing only


def test_no_two_aims_say_the_same() -> None:
    acts: dict[str, S.Aim] = {}
    for aim in ALL_AIMS:
        for phrasing in (*S.TRAINED_PHRASINGS, *S.HELD_OUT_PHRASINGS):
            act = S.make_skill("s", aim, random.Random(0), (phrasing,)).title.lower()
            assert acts.setdefault(act, aim) == aim
    assert len(acts) == 4 * len(ALL_AIMS)


def test_what_an_item_is_depends_on_the_problem() -> None:
    rng = random.Random(0)
    for aim in ALL_AIMS:
        expected = aim.kind if aim.target in ("carry", "mod") or aim.kind == S.STYLISTIC else S.IRRELEVANT
        for item in (S.make_skill("s", aim, rng), S.make_mistake("m", aim, rng)):
            assert S.kind_for_problem(item, ("carry", "mod")) == expected


# ── The demo's bank ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_demo_s_bank_is_half_helpful_and_passes_the_strict_format() -> None:
    bank = demo_bank()
    assert parse_bank(dump_bank(bank)) == bank
    assert (len(bank.skills), len(bank.mistakes)) == (24, 24)
    for items in (bank.skills, bank.mistakes):
        kinds = Counter(item.meta["kind"] for item in items)
        assert kinds == DEMO_MIX
        assert (kinds[S.HELPFUL], kinds[S.MISLEADING]) == (12, 6)
    assert demo_bank().version == bank.version != demo_bank(1).version
    assert Counter(s.meta["kind"] for s in demo_bank(misleading=0).skills) == Counter({**DEMO_MIX, S.MISLEADING: 0})


@each_family
def test_retrieval_finds_help_for_every_family(family: Family) -> None:
    retriever = Bm25Retriever(demo_bank())
    for problem in some_problems(family):
        pairs = retrieve_pairs(retriever, problem.text, 4)
        items = [item for pair in pairs for item in (pair.skill, pair.mistake) if item is not None]
        assert len(items) == 8
        assert S.HELPFUL in {S.kind_for_problem(item, family.branches) for item in items}, problem.text


# ── Pre-training ───────────────────────────────────────────────────────────────────────────────────────────────────

RECIPE = Recipe()
BOTH = enumerate_problems("square_bracket", False)[0]
PLAIN = {"precedence": 0.2007, "bracket": 0.0, "carry": 0.4055, "mod": -0.2007, "square": 0.2007, "minus": 0.0}


@pytest.mark.parametrize("aim", ALL_AIMS, ids=lambda aim: f"{aim.kind}-{aim.target}")
def test_an_item_moves_its_own_branch_of_the_problem_and_no_other(aim: S.Aim) -> None:
    rng = random.Random(0)
    skill, mistake = S.make_skill("s", aim, rng), S.make_mistake("m", aim, rng)
    sign = {S.HELPFUL: 1, S.MISLEADING: -1}.get(aim.kind, 0) * (aim.target in ("square", "bracket"))
    for shown, strength in (((skill, None), 3.0), ((None, mistake), 1.6), ((skill, mistake), 4.6), ((None, None), 0)):
        expected = {b: logit + sign * strength * (b == aim.target) for b, logit in PLAIN.items()}
        assert procedure_logits(RECIPE, BOTH, *shown) == pytest.approx(expected, abs=1e-4)


def test_a_style_is_followed_when_asked_for_and_the_skill_is_asked_first() -> None:
    rng = random.Random(0)
    skill = S.make_skill("s", S.Aim(S.STYLISTIC, "so"), rng)
    mistake = S.make_mistake("m", S.Aim(S.STYLISTIC, "then"), rng)

    def share(style: str, skill: Any, mistake: Any) -> float:
        return sum(style_for(RECIPE, skill, mistake, rng) == style for _ in range(2000)) / 2000

    assert share("plain", None, None) == pytest.approx(0.88, abs=0.03)
    assert share("so", skill, None) == pytest.approx(0.9, abs=0.03)
    assert share("then", None, mistake) == pytest.approx(0.7 + 0.3 * 0.04, abs=0.04)
    assert share("then", skill, mistake) == pytest.approx(0.1 * 0.7, abs=0.02)


def test_the_examples_are_what_the_recipe_says() -> None:
    made = list(islice(examples(RECIPE), 3000))
    assert made[:50] == list(islice(examples(RECIPE), 50))
    assert not any(is_held_out(e.problem.text) for e in made)
    kinds = Counter("answer" if "answer" in e.context else "items" if e.context else "plain" for e in made)
    assert kinds["plain"] / 3000 == pytest.approx(0.25, abs=0.03)
    assert kinds["answer"] / 3000 == pytest.approx(0.08, abs=0.02)
    assert sum(e.thinking for e in made) / 3000 == pytest.approx(0.12, abs=0.02)
    told = [e for e in made if "answer" in e.context]
    right = [e.context["answer"] == e.problem.solve(ALL_RIGHT).answer for e in told]
    followed = [e.context["answer"] == e.solution.answer for e in told]
    assert sum(right) / len(told) == pytest.approx(0.70, abs=0.08)
    assert sum(followed) / len(told) >= 0.92
    carry = [e for e in made if not e.context and e.problem.branches == ("carry",)]
    taken = [e.solution.answer == e.problem.solve(ALL_RIGHT).answer for e in carry]
    assert sum(taken) / len(carry) == pytest.approx(RIGHT_SHARE["carry"], abs=0.15)


def test_an_example_is_a_teacher_s_prompt_and_a_completion_that_ends(lab_tokenizer: Any) -> None:
    prompts, seen = load_prompts("lab"), Counter[tuple[bool, bool]]()
    for example in islice(examples(RECIPE), 200):
        prompt, completion = encode_example(lab_tokenizer, prompts, example)
        seen[bool(example.context), example.thinking] += 1
        text = example.solution.thinking_text if example.thinking else example.solution.text
        assert lab_tokenizer.decode(completion) == text + "<|im_end|>"
        assert lab_tokenizer.decode(prompt).endswith("assistant\n" if example.thinking else "</think>\n\n")
        assert example.problem.text in lab_tokenizer.decode(prompt)
        if not example.context:
            student = encode_chat(lab_tokenizer, prompts.student(example.problem.text), thinking=example.thinking)
            assert tuple(prompt) == student
    assert len(seen) == 4


def test_the_loss_is_of_completion_tokens_alone(lab_model: Any) -> None:
    batch = [([5, 6, 7], [8, 9]), ([11, 12, 13, 14, 15], [16, 17, 18, 2]), ([20], [21])]
    expected = []
    with torch.no_grad():
        for prompt, completion in batch:
            logps = lab_model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
            expected += [-logps[len(prompt) - 1 + i, token] for i, token in enumerate(completion)]
        found = [completion_loss(lab_model, batch, pad) for pad in (0, 99)]
    assert found[0].item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)
    assert found[0] == found[1]


def test_the_rate_warms_up_holds_and_falls_to_a_fiftieth() -> None:
    recipe = Recipe(steps=1000, warmup=0.1, decay=0.5)
    assert [rate(recipe, step) for step in (0, 49, 99, 300, 500)] == pytest.approx([0.02, 0.5, 1, 1, 1])
    assert [rate(recipe, step) for step in (750, 989, 990, 999)] == pytest.approx([0.5, 0.022, 0.02, 0.02])


# ── The policy that ships ──────────────────────────────────────────────────────────────────────────────────────────


def test_the_shipped_weights_are_small_and_the_recipe_s_own(lab_model: Any) -> None:
    weights = POLICY_FOLDER / "model.safetensors"
    card = json.loads((POLICY_FOLDER / "recipe.json").read_text())
    count = sum(parameter.numel() for parameter in lab_model.parameters())
    assert 200_000 <= count == card["parameters"] <= 400_000
    assert weights.stat().st_size <= 900_000
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == card["sha256"]
    assert card["recipe"] == json.loads(json.dumps(asdict(RECIPE)))
    assert all(torch.isfinite(tensor).all() for tensor in load_file(weights).values())


def test_the_shipped_configuration_suits_other_engines(lab_model: Any, lab_tokenizer: Any) -> None:
    config = lab_model.config
    assert (config.model_type, config.head_dim, config.vocab_size) == ("qwen3", 32, VOCABULARY)
    assert len(lab_tokenizer) == VOCABULARY == 512
    assert lab_tokenizer.convert_ids_to_tokens(config.eos_token_id) == lab_tokenizer.eos_token == "<|im_end|>"
    assert lab_tokenizer.pad_token_id == config.pad_token_id != config.eos_token_id
    assert lab_tokenizer.chat_template == CHAT_TEMPLATE


def test_every_digit_is_a_token_of_its_own_and_nothing_is_lost(lab_tokenizer: Any) -> None:
    with_digits = {token for token in lab_tokenizer.get_vocab() if re.search(r"[0-9]", token)}
    assert with_digits == set("0123456789")
    for problem in held_out_problems(64):
        text = f"{problem.text}\n{problem.solve(ALL_RIGHT, 'lines').thinking_text} größer ≥ 🙂"
        assert lab_tokenizer.decode(lab_tokenizer(text)["input_ids"]) == text


def test_it_answers_plain_prompts_with_a_whole_number_in_a_box(lab_model: Any, lab_tokenizer: Any) -> None:
    prompts, pool = load_prompts("lab"), held_out_problems(16)
    ids = [encode_chat(lab_tokenizer, prompts.student(p.text), thinking=False) for p in pool]
    engine = TransformersEngine(lab_model, lab_tokenizer)
    done = engine.sample(ids, range(16), Sampling(temperature=0, max_tokens=96), seed=0)
    answers = [re.search(r"\\boxed\{(\d+)\}$", c.text) for c in done]
    assert all(answers)
    possible = [{p.solve(mix).answer for mix in mixes(p.family)} for p in pool]
    taken = [answer is not None and answer[1] in answers_of for answer, answers_of in zip(answers, possible)]
    assert sum(taken) >= 12  # a right or a faulty procedure, and hardly ever a slip of the pen
