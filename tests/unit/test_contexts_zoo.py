"""Every bundled prompt set serves every method of the zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graded import OTHERS, PROBLEM, RIGHT, WRONG, group_of
from runs import small_config
from sgsd.contexts import Answer, Demonstration, SkillPairs
from sgsd.contexts.prompt_builders import PromptBuilder
from sgsd.contexts.prompts import BUNDLED, load_prompts
from sgsd.contexts.references import Shown
from sgsd.lab.demo_bank import demo_bank
from sgsd.methods.registry import RECIPES, defaults
from sgsd.rollout import ScriptedEngine
from sgsd.train.context_resources import make_contexts

SETS = sorted(file.parent.name for file in BUNDLED.glob("*/student.txt"))
SHOWN: tuple[Shown, ...] = ("answer", "solution", "solution_or_answer")


def needed(options: dict[str, Any]) -> dict[str, Any]:
    """What a configuration must name for a method."""
    return {"data": {"path": "rows.jsonl", "rubric": "rubric"}} if options["name"] == "rcsd" else {}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(
    "options", [*({"name": n} for n in RECIPES), *({"name": "sgsd", "also": a} for a in SHOWN)], ids=str
)
def test_every_bundled_set_serves_every_method_of_the_zoo(
    name: str, options: dict[str, Any], lab_tokenizer: Any, tmp_path: Path
) -> None:
    sizes = {"k": 2} if "k" in defaults(options["name"]) else {}
    config = small_config(tmp_path, method={**sizes, **options}, **needed(options))
    method, made = config.build_method(), PromptBuilder(load_prompts(name), lab_tokenizer, 4096)
    engine = ScriptedEngine(lambda prompt, index: lab_tokenizer("so it is")["input_ids"], lab_tokenizer.decode)
    critic = lambda rollouts, questions: ["step by step" for _ in questions]  # noqa: E731
    contexts = make_contexts(config, method, made, demo_bank(), problems=OTHERS, engine=engine, critic=critic)
    rollouts = group_of(*[RIGHT, WRONG] * 5)
    for pool in contexts.teachers.views(rollouts):
        assert len(pool) == method.context.teachers
        assert sum(view.weight for view in pool) == pytest.approx(min(1, len(pool)))
        for view in pool:
            shown = lab_tokenizer.decode(view.prompt_ids)
            assert "Addition: 38+35" in shown
            of_bank = any(isinstance(leaf, SkillPairs) for leaf in method.context.leaves())
            assert len(view.item_ids) == (2 if of_bank else 0)
            of_reference = any(isinstance(leaf, Answer | Demonstration) for leaf in method.context.leaves())
            assert ("98765" in shown) == of_reference
    assert "Addition: 38+35" in lab_tokenizer.decode(contexts.train_prompts.student(PROBLEM, thinking=False))
