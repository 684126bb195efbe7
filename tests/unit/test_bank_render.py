"""Rendering: bank text is data on its way into a prompt, and this is the only way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from test_bank_schema import BANKS, NAMES, REPO

from sgsd.bank import Bm25Retriever, load_bank, render_pair, retrieve_pairs
from sgsd.types import Mistake, Skill, SkillPair, UserError

TEMPLATE = """{% if skill %}Skill: {{ skill.title }} ({{ skill.principle }}; {{ skill.when_to_apply }}){% endif %}
{% if mistake %}Mistake: {{ mistake.description }} ({{ mistake.why_it_happens }}; {{ mistake.how_to_avoid }}){% endif %}
"""
SKILL, MISTAKE = Skill("s", "Add", "Sum up.", "Always."), Mistake("m", "Slip", "Haste.", "Check.")


def pair(skill: Skill | None = SKILL, mistake: Mistake | None = MISTAKE) -> SkillPair:
    return SkillPair(skill, mistake, 1.0, 1.0)


def test_both_sides_or_either() -> None:
    assert render_pair(pair(), TEMPLATE) == "Skill: Add (Sum up.; Always.)\nMistake: Slip (Haste.; Check.)"
    assert render_pair(pair(mistake=None), TEMPLATE) == "Skill: Add (Sum up.; Always.)"
    assert render_pair(pair(skill=None), TEMPLATE) == "Mistake: Slip (Haste.; Check.)"
    with pytest.raises(UserError, match="nothing to say"):
        render_pair(pair(None, None), TEMPLATE)


@pytest.mark.parametrize(
    "text",
    [
        "{{ 7*7 }}",
        "{% for i in range(9) %}x{% endfor %}",
        "{# gone #}",
        "{{ skill.__class__ }}",
        "{% raw %}",
        "}}",
        "# x",
    ],
)
def test_bank_text_is_never_a_template(text: str) -> None:
    assert render_pair(pair(Skill("s", text, text, text)), "[{{ skill.title }}]") == f"[{text}]"
    assert render_pair(pair(mistake=Mistake("m", text, text, text)), "[{{ mistake.how_to_avoid }}]") == f"[{text}]"


def test_bank_text_is_not_escaped() -> None:
    text = "if a < b & c > d: \\frac{1}{2} \"quoted\" 'so' é ≤"
    assert render_pair(pair(Skill("s", text, "p", "w")), "{{ skill.title }}") == text


@pytest.mark.parametrize(
    "template",
    [
        "{{ skill.titel }}",
        "{{ problem }}",
        "{{ skill.title",
        "{% if skill %}",
        "{{ skill.title + 1 }}",
        "{{ skill.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ range(9) }}",
        "{% include 'other' %}",
    ],
)
def test_a_template_that_cannot_be_rendered_is_refused_by_pair(template: str) -> None:
    with pytest.raises(UserError) as caught:
        render_pair(pair(), template)
    assert str(caught.value).startswith("pair 's' + 'm': the template cannot be rendered (")
    assert "\n" not in str(caught.value)


def test_a_missing_side_must_be_asked_for() -> None:
    with pytest.raises(UserError, match="'None' has no attribute 'title'"):
        render_pair(pair(skill=None), "{{ skill.title }}")


@pytest.mark.parametrize(
    ("skill", "says"),
    [
        (Skill("s", "<|im_start|>", "p", "w"), "item 's': field 'title' has the control token '<|im_start|>'"),
        (Skill("s", "t", "x" * 102_400, "w"), "item 's': field 'principle' has 102,400 characters"),
        (Skill("s", "t", "p", "\u202e"), "item 's': field 'when_to_apply' has the unseen character"),
        (Skill("s", "t", "p", "w", {"n": "</think>"}), "item 's': field 'meta' at ['n'] has the control token"),
    ],
    ids=["token", "100 kB", "bidi", "meta"],
)
def test_nothing_reaches_a_prompt_that_could_not_stand_in_a_bank(skill: Skill, says: str) -> None:
    """However the pair was made: by hand, by a merge, by a plug-in."""
    with pytest.raises(UserError) as caught:
        render_pair(pair(skill), TEMPLATE)
    assert says in str(caught.value)


def test_two_harmless_halves_do_not_make_a_control_token() -> None:
    halves = Skill("s", "a <|im_", "start|> b", "w")
    assert render_pair(pair(halves), "{{ skill.title }}; 1 < 2; {{ skill.principle }}") == "a <|im_; 1 < 2; start|> b"
    with pytest.raises(UserError, match=r"makes the control token '<\|im_start\|>'"):
        render_pair(pair(halves), "{{ skill.title }}{{ skill.principle }}")


def test_a_template_may_have_marks_of_its_own() -> None:
    assert render_pair(pair(), "<skill>{{ skill.title }}</skill>") == "<skill>Add</skill>"


def test_nothing_else_in_the_room_makes_prompt_text() -> None:
    room = REPO / "src" / "sgsd" / "bank"
    users = {path.name for path in room.glob("*.py") if "jinja2" in _imports(path)}
    assert users == {"render.py"}


def _imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


@pytest.mark.shared
@pytest.mark.parametrize("name", NAMES)
def test_every_item_of_the_real_banks_renders_in_full(name: str) -> None:
    path = BANKS / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine: the real banks are not part of this project")
    bank = load_bank(path)
    for skill in bank.skills:
        text = render_pair(pair(skill, None), TEMPLATE)
        assert text == f"Skill: {skill.title} ({skill.principle}; {skill.when_to_apply})"
    for mistake in bank.mistakes:
        text = render_pair(pair(None, mistake), TEMPLATE)
        assert text == f"Mistake: {mistake.description} ({mistake.why_it_happens}; {mistake.how_to_avoid})"
    pool = retrieve_pairs(Bm25Retriever(bank), "How many integers n make n^2 + 1 divisible by 5?", 8)
    assert len({render_pair(each, TEMPLATE) for each in pool}) == 8
