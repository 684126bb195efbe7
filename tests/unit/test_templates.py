"""Chat templates of the common families: thinking, start and end tokens, and one chain of ids from prompt to loss."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from template_cases import FAMILIES, TEMPLATES, model, save, tokenizer

from runs import LORA, small_config
from sgsd.contexts.prompt_builders import PromptBuilder
from sgsd.contexts.prompts import encode_chat, load_prompts, thinking_mode
from sgsd.rollout import Sampling, TransformersEngine
from sgsd.scorer import Scorer, collate
from sgsd.train.batch import Batch
from sgsd.train.setup import build_run, find_ignored_token_ids, warn_of_template
from sgsd.types import Problem, Status, UserError, Verdict

USER = [{"role": "user", "content": "1+1"}]
CHATML, OPEN = "<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n", "<|start_header_id|>"
LLAMA = f"<|begin_of_text|>{OPEN}user<|end_header_id|>\n\n1+1<|eot_id|>{OPEN}assistant<|end_header_id|>\n\n"


@pytest.mark.parametrize(
    ("kind", "thinking_on", "thinking_off", "mode"),
    [
        ("qwen3", CHATML, CHATML + "<think>\n\n</think>\n\n", "switch"),
        ("qwen2.5", "<|im_start|>system\nBe of use.<|im_end|>\n" + CHATML, None, "never"),
        ("llama3", LLAMA, None, "never"),
        ("always", CHATML + "<think>\n", None, "always"),
        ("base", "<|begin_of_text|>1+1\n\n", None, "never"),
    ],
)
def test_a_prompt_ends_where_the_model_answers(
    kind: str, thinking_on: str, thinking_off: str | None, mode: str
) -> None:
    words = tokenizer(kind)
    assert words.decode(encode_chat(words, USER, thinking=True)) == thinking_on
    assert words.decode(encode_chat(words, USER, thinking=False)) == (thinking_off or thinking_on)
    assert thinking_mode(words) == mode


@pytest.mark.parametrize("kind", ["llama3", "base"])
def test_the_start_token_stands_once_and_the_end_token_not_at_all(kind: str) -> None:
    for writes_end in (False, True):
        words = tokenizer(kind, writes_end=writes_end)
        assert (words("1+1")["input_ids"][-1] == words.convert_tokens_to_ids("<|end_of_text|>")) == writes_end
        ids = encode_chat(words, USER, thinking=False)
        assert ids[0] == words.bos_token_id
        assert ids.count(words.bos_token_id) == 1
        assert words.decode(ids[-1:]) == "\n"


def test_a_template_that_refuses_the_messages_is_one_line() -> None:
    system = [{"role": "system", "content": "Be brief."}, *USER]
    with pytest.raises(UserError, match="refuses a system and user message: no system turns here; change the prompts"):
        encode_chat(tokenizer("no system"), system, thinking=False)


# ── Thinking settings that the template does not heed ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "student", "teacher", "evaluation", "method", "named"),
    [
        ("qwen3", True, False, True, "sgsd", []),
        ("qwen2.5", False, False, False, "sgsd", []),
        ("qwen2.5", False, True, True, "sgsd", ["teacher", "evaluation"]),
        ("llama3", True, True, False, "grpo", ["student"]),  # there is no teacher whose setting could be ignored
        ("base", True, False, False, "sgsd", ["student"]),
        ("always", False, True, False, "sgsd", ["student", "evaluation"]),
        ("always", True, True, True, "sgsd", []),
    ],
)
def test_a_thinking_setting_that_is_ignored_is_said_once_and_loudly(
    kind: str,
    student: bool,
    teacher: bool,
    evaluation: bool,
    method: str,
    named: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    thinking = {"student_thinking": student, "teacher_thinking": teacher, "evaluation_thinking": evaluation}
    held_out = {"data": {"path": "lab:held-out"}}
    config = small_config(tmp_path, method={"name": method}, prompts=thinking, evaluation=held_out)
    warn_of_template(config, config.build_method(), tokenizer(kind))
    assert len(caplog.records) == bool(named)
    for record in caplog.records:
        assert record.levelno == logging.WARNING
        assert record.getMessage().startswith(
            "WARNING " + " and ".join(f"prompts.{role}_thinking" for role in named) + ": ignored"
        )
        assert record.getMessage().endswith(f"set {str(kind == 'always').lower()} to say so")


def test_a_template_that_writes_the_date_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, words = small_config(tmp_path), tokenizer("qwen3")
    words.chat_template = "{{ strftime_now('%d %b %Y') }}" + words.chat_template
    warn_of_template(config, config.build_method(), words)
    (record,) = caplog.records
    assert "writes today's date into every prompt" in record.getMessage()


def test_only_the_first_process_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(tmp_path, prompts={"teacher_thinking": True})
    for rank, count in (("1", 0), ("0", 1)):
        monkeypatch.setenv("RANK", rank)
        warn_of_template(config, config.build_method(), tokenizer("llama3"))
        assert len(caplog.records) == count


# ── Pad and end ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", TEMPLATES)
def test_every_special_token_is_silent_and_no_other(kind: str) -> None:
    words = tokenizer(kind)
    silent = find_ignored_token_ids(words)
    marked = {i for i in range(len(words)) if words.decode([i]).startswith(("<|", "<think", "</think"))}
    assert silent == marked
    assert words.eos_token_id in silent


@pytest.mark.parametrize("kind", FAMILIES)
def test_neither_pads_nor_neighbours_reach_a_rollout(kind: str) -> None:
    """Whatever pads: the end token itself ("base"), another one, or none that has a name ("llama3")."""
    words, network = tokenizer(kind), model(kind).eval()
    engine, end = TransformersEngine(network, words), words.eos_token_id
    prompts = [encode_chat(words, [{"role": "user", "content": "1" * n}], thinking=False) for n in (1, 40, 9)]
    prompts[1] = (*prompts[1][:5], end, *prompts[1][5:])  # an end token inside a prompt is no pad
    sampling = Sampling(temperature=1.0, max_tokens=110)
    together = engine.sample(prompts, [0, 1, 2], sampling, seed=3)
    for index, prompt in enumerate(prompts):
        (alone,) = engine.sample([prompt], [index], sampling, seed=3)
        assert alone.token_ids == together[index].token_ids
        assert alone.logps == pytest.approx(together[index].logps, abs=1e-4)
    assert any(c.finish == "stop" for c in together)
    for c in together:
        ends = [token in engine.end_ids for token in c.token_ids]
        assert ends.count(True) == (c.finish == "stop")
        assert ends[-1] == (c.finish == "stop")  # the end token stays, nothing comes after it
        assert c.text == words.decode(c.token_ids[: len(c.token_ids) - ends[-1]])


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_is_scored_is_what_was_sampled_to_the_last_id(kind: str, tmp_path: Path) -> None:
    """No text is tokenised a second time: the random model's tokens seldom survive a decoding."""
    folder = save(kind, tmp_path / "model")
    config = small_config(
        tmp_path / "run",
        model={"path": str(folder)},
        lora=LORA,
        rollouts=4,
        sampling={"max_tokens": 24},
        prompts={"folder": "math", "max_tokens": 4096, "student_thinking": kind == "qwen3"},
        data={"limit": 8},
    )
    parts = build_run(config, Accelerator())
    seen: dict[str, Any] = {}
    plain = parts.engine.sample

    def sample(prompts: Any, *rest: Any, **options: Any) -> Any:
        seen["prompts"], seen["done"] = prompts, plain(prompts, *rest, **options)
        return seen["done"]

    parts.engine.sample = sample  # type: ignore[method-assign]
    rollouts = parts.sampler.sample(1)
    views = parts.contexts.teachers.views([rollout.problem for rollout in rollouts])
    batch = Batch(rollouts, [Verdict(Status.INCORRECT)] * len(rollouts), views)
    rows = batch.student_rows()
    assert [row.prompt_ids for row in rows] == seen["prompts"]
    assert [row.completion_ids for row in rows] == [c.token_ids for c in seen["done"]]
    taught = [row.completion_ids for row in batch.teacher_rows()]
    assert taught == [c.token_ids for c in seen["done"] for _ in range(2)]
    assert isinstance(parts.engine, TransformersEngine)
    assert parts.learner.ignored_token_ids >= parts.engine.end_ids
    words = parts.tokenizer
    assert any(tuple(words(c.text, add_special_tokens=False)["input_ids"]) != c.token_ids for c in seen["done"])
    pack = collate(rows, pad_id=parts.policy.pad_id)
    scorer: Scorer = parts.policy.bare_scorer.eval()
    with torch.no_grad():
        scores = scorer(pack)
    sampled = torch.tensor([logp for c in seen["done"] for logp in c.logps])
    torch.testing.assert_close(scores.logps_N, sampled, atol=2e-4, rtol=0)


def test_prompts_of_the_bundled_sets_fit_every_family() -> None:
    for kind in (*FAMILIES, "always"):
        words = tokenizer(kind)
        for name in ("lab", "math"):
            made = PromptBuilder(load_prompts(name), words, 4096)
            problem = Problem("p", "Is 2 < 3?", gold="yes")
            assert "Is 2 < 3?" in words.decode(made.student(problem, thinking=True))
            assert "a hint\n" in words.decode(made.teacher(problem, "a hint", thinking=True))
