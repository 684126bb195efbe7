"""What a chat template does that nobody asked for: parts left out, thoughts opened, turns that end in their own way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import template_cases
from template_cases import REPLY, TURNS, tokenizer

from resumable import lines
from runs import merged, run_small
from sgsd.contexts.prompts import Quote, encode_chat, thinking_mode, turn_end, with_open_thoughts
from sgsd.rollout.engine import completion
from sgsd.rollout.transformers_engine import TransformersEngine, end_token_ids
from sgsd.skills.extraction import strip_thinking
from sgsd.train.context_resources import make_prompts
from sgsd.types import Completion, Problem, UserError
from sgsd.verify import extract_answer

PROBLEM = "Let f(x) = 2x + 1 for all x.\n\n  What is f(3) - f(1), in lowest terms?"
USER = [{"role": "user", "content": PROBLEM}]


def of(template: str) -> Any:
    words = tokenizer("qwen3")
    words.chat_template = template
    return words


def turns(shown: str) -> str:
    return TURNS.replace("{{ m.content }}", shown) + REPLY + "{% endif %}"


# ── The whole problem ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "shown", ["{{ m.content }}", "{{ m.content | trim }}", "{{ m.content.strip() }}", "{{ m.content | indent(2) }}"]
)
def test_white_space_is_a_templates_own_affair(shown: str) -> None:
    assert "f(3) - f(1)" in of(TURNS).decode(encode_chat(of(turns(shown)), USER, thinking=False))


CUT = {
    "cut off": ("{{ m.content[:40] }}", r"'f\(3\) - f"),
    "one line": ("{{ m.content.split('\n')[0] }}", r"'What is f\(3\)"),
    "without its beginning": ("{{ m.content[10:] }}", "'Let f"),
    "signs taken out": ("{{ m.content.replace('-', '') }}", r"'- f\(1\)"),
    "escaped": ("{{ m.content | replace('(', '[') }}", r"'f\(x\)"),
    "left out": ("", "'Let f"),
    "another field": ("{{ m.name }}", "'Let f"),
    "its own thoughts taken out": ("{{ m.content.split('all')[-1] }}", "'Let f"),
}


@pytest.mark.parametrize("name", CUT)
def test_a_template_that_leaves_out_a_part_is_named_with_what_is_missing(name: str, tmp_path: Path) -> None:
    shown, missing = CUT[name]
    with pytest.raises(UserError, match=rf"leaves out a part of the prompt: of the user message from {missing}"):
        encode_chat(of(turns(shown)), USER, thinking=False)
    config = template_config(tmp_path)
    with pytest.raises(UserError, match="problem p7: the model's chat template leaves out"):
        make_prompts(config, of(turns(shown))).student(Problem("p7", PROBLEM), thinking=False)


def test_a_system_message_that_is_passed_over_is_named() -> None:
    users_only = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(UserError, match="of the system message from 'Be brief"):
        encode_chat(of(users_only), [{"role": "system", "content": "Be brief."}, *USER], thinking=False)


PARTS = {
    "a loop": "{% for part in m.content %}{{ part.text }}{% endfor %}",
    "a loop by type": "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}",
    "the first": "{{ m.content[0].text }}",
    "the first, by key": "{{ m.content[0]['text'] }}",
    "joined": "{{ m.content | map(attribute='text') | join('') }}",
    "either": "{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}",
}


@pytest.mark.parametrize("name", PARTS)
def test_a_template_that_wants_content_in_parts_gets_it(name: str) -> None:
    plain = encode_chat(of(turns("{{ m.content }}")), USER, thinking=False)
    assert encode_chat(of(turns(PARTS[name])), USER, thinking=False) == plain


# ── Thoughts ───────────────────────────────────────────────────────────────────────────────────────────────────────

OPENERS = {
    "a line": "<think>\n",
    "bare": "<think>",
    "a blank line": "<think>\n\n",
    "a space": "<think> ",
    "after a closed one": "<think>\n\n</think>\n\n<think>\n",
}
UNCLOSED, CLOSED = r"Maybe it is \boxed{3}. Wait, let me check", r"so 3</think> It is \boxed{3}."


def template_config(folder: Path, **changes: Any) -> Any:
    from runs import small_config

    return small_config(folder, **merged({"prompts": {"folder": "math", "max_tokens": 2048}}, changes))


def written(words: Any, text: str, prompt: Sequence[int]) -> Completion:
    (done,) = with_open_thoughts(words, [prompt], [Completion(0, (1,), text, "length")])
    return done


@pytest.mark.parametrize("name", OPENERS)
def test_a_thought_that_the_prompt_opens_must_be_closed(name: str) -> None:
    words = of(TURNS + REPLY + OPENERS[name] + "{% endif %}")
    prompt = encode_chat(words, USER, thinking=True)
    assert extract_answer(written(words, UNCLOSED, prompt).text) is None
    assert extract_answer(written(words, CLOSED, prompt).text) == "3"
    quote = Quote(["<think>", "</think>", "<|im_end|>"])
    assert quote.text(written(words, UNCLOSED, prompt).text) == ""
    assert quote.text(written(words, CLOSED, prompt).text) == r"It is \boxed{3}."
    assert strip_thinking(written(words, UNCLOSED, prompt).text) == f"<think>\n{UNCLOSED}"


@pytest.mark.parametrize("tail", ["", "<think>\n\n</think>\n\n", "<thinking>\n", "Think:\n"])
def test_a_prompt_that_opens_none_changes_nothing(tail: str) -> None:
    words = of(TURNS + REPLY + tail + "{% endif %}")
    prompt = encode_chat(words, USER, thinking=True)
    assert written(words, UNCLOSED, prompt).text == UNCLOSED


def test_training_and_evaluation_count_an_unclosed_thought_as_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(self: Any, prompts: Any, indices: Any, sampling: Any, *, seed: int) -> list[Completion]:
        ids = self.tokenizer(UNCLOSED, add_special_tokens=False)["input_ids"]
        return [completion(i, ids, self._decode, self.end_ids) for i in indices]

    monkeypatch.setattr(TransformersEngine, "sample", sample)
    monkeypatch.setitem(template_cases.TEMPLATES, "qwen3", template_cases.TEMPLATES["always"])
    path = template_cases.save("qwen3", tmp_path / "model")
    (tmp_path / "d.jsonl").write_text('{"problem": "What is 1 + 2?", "answer": "3"}\n')
    on = {"folder": "math", "student_thinking": True, "teacher_thinking": True, "evaluation_thinking": True}
    data: dict[str, Any] = {"path": str(tmp_path / "d.jsonl"), "limit": None}
    folder = run_small(
        tmp_path / "run",
        model={"path": str(path)},
        data=data,
        steps=1,
        rollouts=2,
        method={"name": "grpo", "group": 2},
        prompts={**on, "max_tokens": 2048},
        evaluation={"data": data, "problems": 1, "samples": 1, "sampling": {"max_tokens": 96}},
        bank={"path": None},
    )
    (rollout,) = lines(folder, "rollouts")
    assert (rollout["status"], rollout["completion"]) == ("incorrect", f"<think>\n{UNCLOSED}")
    assert {line["greedy"]["accuracy"] for line in lines(folder, "evaluations")} == {0.0}


# ── Ends ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Model:
    def __init__(self, *ends: int) -> None:
        self.generation_config = type("Generation", (), {"eos_token_id": list(ends) or None})()


ENDS = {
    "right behind": ("{{ m.content }}<|im_end|>\n", "<|im_end|>"),
    "on the next line": ("{{ m.content }}\n<|im_end|>\n", "<|im_end|>"),
    "the end of the text": ("{{ m.content }}<|endoftext|>", "<|endoftext|>"),
    "words": ("{{ m.content }}\n### User\n", None),
    "nothing": ("{{ m.content }}", None),
    "no turn of the model's": ("{% if m.role == 'user' %}{{ m.content }}{% endif %}", None),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_a_turn_ends_an_answer(name: str) -> None:
    shown, end = ENDS[name]
    words = of("{% for m in messages %}" + shown + "{% endfor %}")
    words.eos_token = "<|endoftext|>"
    expected = {words.convert_tokens_to_ids(token) for token in ("<|endoftext|>", end) if token}
    assert turn_end(words) == (words.convert_tokens_to_ids(end) if end else None)
    assert end_token_ids(Model(words.eos_token_id), words) == expected


@pytest.mark.parametrize("name", PARTS)
def test_the_end_of_a_turn_of_content_in_parts_ends_an_answer(name: str) -> None:
    words = of(turns(PARTS[name]))
    assert turn_end(words) == words.convert_tokens_to_ids("<|im_end|>")


HIDDEN = {
    "users alone": "<|im_start|>{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
    "another field": "{% for m in messages %}<|im_start|>{{ m.name }}<|im_end|>{% endfor %}",
    "in capitals": "{% for m in messages %}<|im_start|>{{ m.content | upper }}<|im_end|>{% endfor %}",
    "the first turn": "<|im_start|>{{ messages[0].content }}<|im_end|>",
    "no turn": "<|im_start|>",
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_template_that_does_not_show_the_answer_names_no_end(name: str) -> None:
    assert turn_end(of(HIDDEN[name])) is None


def test_a_base_model_without_a_template_has_its_own_end_alone() -> None:
    words = tokenizer("base")
    assert turn_end(words) is None
    assert end_token_ids(Model(), words) == {words.eos_token_id}


def test_no_end_token_at_all_is_one_line() -> None:
    words = of("{% for m in messages %}{{ m.content }}{% endfor %}")
    words.eos_token = None
    with pytest.raises(UserError, match="no completion could ever end; set eos_token in tokenizer_config"):
        end_token_ids(Model(), words)


# ── Other switches ─────────────────────────────────────────────────────────────────────────────────────────────────

SWITCHES = (
    "{% if thinking %}Think first.\n{% endif %}"
    "{% if reasoning_effort is defined %}Effort: {{ reasoning_effort }}\n{% endif %}"
    + TURNS + REPLY + "{% endif %}"
)  # fmt: skip


@pytest.mark.parametrize(
    ("kwargs", "begins"),
    [
        ({}, "<|im_start|>user"),
        ({"thinking": True}, "Think first.\n<|im_start|>"),
        ({"thinking": False}, "<|im_start|>user"),
        ({"reasoning_effort": "low"}, "Effort: low\n<|im_start|>"),
        ({"reasoning_effort": "high", "thinking": True}, "Think first.\nEffort: high\n"),
    ],
)
def test_switches_reach_every_prompt(kwargs: dict[str, Any], begins: str, tmp_path: Path) -> None:
    words = of(SWITCHES)
    made = make_prompts(template_config(tmp_path, prompts={"template_kwargs": kwargs}), words)
    problem = Problem("p", "1+1")
    for ids in (made.student(problem, thinking=False), made.teacher(problem, "a hint", thinking=True)):
        assert words.decode(ids).startswith(begins)


@pytest.mark.parametrize(
    ("key", "told"), [("reasoning_effort", False), ("thinking", False), ("effort", True), ("x", True)]
)
def test_a_switch_that_changes_nothing_is_said(
    key: str, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from sgsd.train.checks import warn_of_template

    config = template_config(tmp_path, prompts={"template_kwargs": {key: "low"}})
    warn_of_template(config, config.build_method(), of(SWITCHES))
    assert (f"prompts.template_kwargs.{key}: 'low' changes nothing" in caplog.text) == told


@pytest.mark.parametrize(
    ("condition", "kwargs", "mode"),
    [
        ("thinking", {"thinking": True}, "always"),
        ("thinking", {"thinking": False}, "never"),
        ("reasoning_effort is defined", {"reasoning_effort": "high"}, "always"),
        ("reasoning_effort == 'high'", {"reasoning_effort": "low"}, "never"),
        ("enable_thinking and not fast", {"fast": True}, "never"),
        ("enable_thinking and not fast", {"fast": False}, "switch"),
    ],
)
def test_what_a_thinking_setting_does_is_told_beside_the_other_switches(
    condition: str, kwargs: dict[str, Any], mode: str
) -> None:
    words = of(TURNS + REPLY + "{% if " + condition + " %}<think>\n{% endif %}{% endif %}")
    assert thinking_mode(words, kwargs) == mode
