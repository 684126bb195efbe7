"""Prompts: plain template files in a folder, and the chat template of the model's own tokenizer.

A prompt set is a folder with `student.txt` (variable: problem), `teacher.txt` (problem, context), and one file for
each kind of context that a method shows; docs/contexts.md has the list. `join.txt` (blocks, a list) is for teachers
that are shown several. `system.txt` is optional. A user replaces the wording for another domain by naming a folder of
their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import jinja2
import jinja2.meta
from jinja2.sandbox import SandboxedEnvironment

from sgsd.types import Completion, UserError

BUNDLED = Path(__file__).parent.parent / "prompts"
REQUIRED = ("student", "teacher")
THINK, END_THINK = "<think>", "</think>"
TAIL = 8  # tokens at the end of a prompt, more than any spelling of a think tag takes
NOTHING: Mapping[str, Any] = MappingProxyType({})

#: What a template must show, lest a teacher be silently shown nothing.
PURPOSE = {
    "student": ("problem",),
    "teacher": ("problem", "context"),
    "answer": ("answer",),
    "join": ("blocks",),
    "rubric": ("rubric",),
    "other_problem": ("problem",),
    "critique": ("problem", "answer", "attempt"),
    "critiqued": ("critique",),
    "reasoned": ("context", "reasons"),
    "injected": ("pairs",),
}

_ENVIRONMENT = SandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)


@lru_cache(maxsize=256)
def _compile(text: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(text)


@dataclass(frozen=True)
class PromptSet:
    """The wording of one domain: template texts by name."""

    name: str
    texts: Mapping[str, str]

    def text(self, name: str) -> str:
        """The raw template `name`.

        Raises:
            UserError: the folder has no such file.
        """
        if name not in self.texts:
            raise UserError(
                f"prompts {self.name}: there is no {name}.txt; add it, or use a method without that context"
            )
        return self.texts[name]

    def render(self, name: str, **values: Any) -> str:
        """Fill in a template; the values are data and are never read as templates.

        Raises:
            UserError: the file is missing, is not a template, or uses a variable it is not given.
        """
        text = self.text(name)
        try:
            return _compile(text).render(**values).strip()
        except (jinja2.TemplateError, TypeError, ArithmeticError, LookupError, ValueError) as error:
            raise UserError(
                f"prompts {self.name}/{name}.txt: {error}; it may use {', '.join(sorted(values))}"
            ) from error

    def student(self, problem: str) -> list[dict[str, str]]:
        return self._messages(self.render("student", problem=problem))

    def teacher(self, problem: str, context: str) -> list[dict[str, str]]:
        """The teacher's messages; with an empty context they are the student's own."""
        if not context:
            return self.student(problem)
        return self._messages(self.render("teacher", problem=problem, context=context))

    def _messages(self, user: str) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.texts["system"].strip()}] if "system" in self.texts else []
        return [*system, {"role": "user", "content": user}]


def load_prompts(name: str | Path, required: Sequence[str] = REQUIRED) -> PromptSet:
    """A bundled prompt set by name ("math", "lab"), or a user's folder.

    Raises:
        UserError: no such folder, it lacks one of the `required` templates, or one does not show what it is for.
    """
    folder = BUNDLED / name if (BUNDLED / name).is_dir() else Path(name)
    if not folder.is_dir():
        serving = {path.parent.name for path in BUNDLED.glob(f"*/{required[0]}.txt")}
        bundled = ", ".join(sorted(serving))
        raise UserError(f"prompts: {name} is neither a bundled set ({bundled}) nor a folder")
    try:
        texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}
    except UnicodeDecodeError as error:
        raise UserError(
            f"prompts {folder}: a template is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    if missing := [f"{template}.txt" for template in required if template not in texts]:
        raise UserError(
            f"prompts {folder}: {' and '.join(missing)} missing; copy the bundled set and change the wording"
        )
    for template, variables in PURPOSE.items():
        if hidden := [name for name in variables if template in texts and name not in _variables(texts[template])]:
            raise UserError(f"prompts {folder}/{template}.txt: does not show {{{{ {hidden[0]} }}}}; put it in")
    return PromptSet(str(name), texts)


def _variables(text: str) -> set[str]:
    try:
        return jinja2.meta.find_undeclared_variables(_ENVIRONMENT.parse(text))
    except jinja2.TemplateSyntaxError:
        return set(chain.from_iterable(PURPOSE.values()))  # its own complaint comes when it is filled in


@dataclass(frozen=True)
class Quote:
    """Takes what may be shown from what a model wrote."""

    control_tokens: Sequence[str]

    def text(self, written: str) -> str:
        """The text after the thinking; empty where the thinking never ends or a control token is left."""
        shown = written.rpartition(END_THINK)[2].strip()
        return "" if THINK in shown or any(token in shown for token in self.control_tokens) else shown

    def thoughts(self, written: str) -> str:
        """All of it, thinking included, up to the first control token other than a think tag."""
        shown = written.replace(THINK, "\n").replace(END_THINK, "\n")
        ends = [place for token in self.control_tokens if (place := shown.find(token)) >= 0]
        return shown[: min(ends, default=len(shown))].strip()


def encode_chat(
    tokenizer: Any,
    messages: Sequence[Mapping[str, str]],
    *,
    thinking: bool,
    template_kwargs: Mapping[str, Any] = NOTHING,
) -> tuple[int, ...]:
    """The ids of a chat up to the point where the model answers.

    `thinking` is handed to the chat template as `enable_thinking`, beside the switches of `template_kwargs`; see
    `thinking_mode` for templates without such a switch. A base model without a chat template gets the plain text of its
    messages, one after the other.

    Raises:
        UserError: the template refuses these messages, as some refuse a system message, or leaves out a part of them.
    """
    if tokenizer.chat_template is None:
        return encode_plain(tokenizer, "\n\n".join(message["content"] for message in messages) + "\n\n")
    switches = {"enable_thinking": thinking, **template_kwargs}
    text = _rendered(tokenizer, messages, switches)
    if (lost := _left_out(messages, text)) is not None:
        refusal = UserError(f"the model's chat template leaves out a part of the prompt: {lost}; give another template")
        try:
            in_parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
            text = _rendered(tokenizer, in_parts, switches)
        except UserError:
            raise refusal from None
        if _left_out(messages, text) is not None:
            raise refusal
    # The template has written every special token itself, so the tokenizer must not add its own.
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _rendered(tokenizer: Any, messages: Sequence[Mapping[str, Any]], switches: Mapping[str, Any]) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True, **switches)
        )
    except (jinja2.TemplateError, TypeError) as error:  # TypeError: a text where the template wants parts, say
        if all(isinstance(message["content"], str) for message in messages) and isinstance(error, TypeError):
            return ""  # nothing of it is there: it is tried in parts
        roles = " and ".join(message["role"] for message in messages)
        raise UserError(f"the model's chat template refuses a {roles} message: {error}; change the prompts") from error


def _left_out(messages: Sequence[Mapping[str, Any]], text: str) -> str | None:
    """The place from which the rendered text lacks something, white space aside; None where all is there."""
    shown = "".join(text.split())
    for message in messages:
        words = message["content"].split()
        if (content := "".join(words)) in shown:
            continue
        kept = next((n for n in range(len(words), 0, -1) if "".join(words[:n]) in shown), 0)
        missing = " ".join(words[kept:])[:60] if content else ""
        return f"of the {message['role']} message from {missing!r} on"
    return None


def opens_thought(tokenizer: Any, prompt_ids: Sequence[int]) -> bool:
    """True where the prompt itself ends in a think tag that has yet to be closed."""
    return str(tokenizer.decode(list(prompt_ids[-TAIL:]))).rstrip().endswith(THINK)


def with_open_thoughts(
    tokenizer: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Completion]
) -> list[Completion]:
    """The completions, each with the think tag in its text that its prompt has opened for it.

    Whether a thought was closed only the two together can tell, and whoever reads an answer is given the completion.
    """
    opened = {tuple(ids[-TAIL:]): opens_thought(tokenizer, ids) for ids in prompts}
    return [
        replace(c, text=f"{THINK}\n{c.text}") if opened[tuple(ids[-TAIL:])] else c
        for ids, c in zip(prompts, completions, strict=True)
    ]


def turn_end(tokenizer: Any) -> int | None:
    """The token by which the chat template ends the model's turn; None where it shows none."""
    if tokenizer.chat_template is None:
        return None
    answer = "7f3a"
    for content in (answer, [{"type": "text", "text": answer}]):
        turns = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": content}]
        try:
            text = str(tokenizer.apply_chat_template(turns, tokenize=False))
        except (jinja2.TemplateError, TypeError):
            continue
        _, shown, behind = text.rpartition(answer)
        if shown:  # a template that does not show the answer says nothing about what comes after it
            ids = tokenizer(behind.lstrip(), add_special_tokens=False)["input_ids"]
            return ids[0] if ids and ids[0] in tokenizer.added_tokens_decoder else None
    return None


def encode_plain(tokenizer: Any, text: str) -> tuple[int, ...]:
    """With the start token, if the tokenizer writes one, and without its end token: the answer has yet to come."""
    ids = list(tokenizer(text)["input_ids"])
    while ids and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        ids.pop()
    return tuple(ids)


def thinking_mode(tokenizer: Any, template_kwargs: Mapping[str, Any] = NOTHING) -> Literal["switch", "never", "always"]:
    """The effect of `enable_thinking` beside the other switches: it decides, or the model never or always thinks.

    "never" stands for a template that leaves it to the model, too. "always": the prompt ends in an open think tag.
    """
    probe = [{"role": "user", "content": "1+1"}]
    on, off = (
        encode_chat(tokenizer, probe, thinking=thinking, template_kwargs=template_kwargs) for thinking in (True, False)
    )
    if on != off:
        return "switch"
    return "always" if opens_thought(tokenizer, on) else "never"
