"""Prompts: plain template files in a folder, and the chat template of the model's own tokenizer.

A prompt set is a folder with `student.txt` (variable: problem), `teacher.txt` (problem, context), and one file for
each kind of context, `skill_pair.txt` (skill, mistake) and `answer.txt` (answer, solution); `system.txt` is optional.
A user replaces the wording for another domain by naming a folder of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from sgsd.types import UserError

BUNDLED = Path(__file__).parent.parent / "prompts"
REQUIRED = ("student", "teacher")

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


def load_prompts(name: str | Path) -> PromptSet:
    """A bundled prompt set by name ("math", "lab"), or a user's folder.

    Raises:
        UserError: no such folder, or it lacks `student.txt` or `teacher.txt`.
    """
    folder = BUNDLED / name if (BUNDLED / name).is_dir() else Path(name)
    if not folder.is_dir():
        bundled = ", ".join(sorted(path.name for path in BUNDLED.iterdir() if path.is_dir()))
        raise UserError(f"prompts: {name} is neither a bundled set ({bundled}) nor a folder")
    try:
        texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}
    except UnicodeDecodeError as error:
        raise UserError(
            f"prompts {folder}: a template is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    if missing := [f"{required}.txt" for required in REQUIRED if required not in texts]:
        raise UserError(
            f"prompts {folder}: {' and '.join(missing)} missing; copy the bundled set and change the wording"
        )
    return PromptSet(str(name), texts)


def encode_chat(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, thinking: bool) -> tuple[int, ...]:
    """The ids of a chat up to the point where the model answers.

    `thinking` is handed to the chat template as `enable_thinking`. A base model without a chat template gets the
    plain text of its messages, one after the other.
    """
    if tokenizer.chat_template is None:
        text = "\n\n".join(message["content"] for message in messages) + "\n\n"
        return tuple(tokenizer(text)["input_ids"])
    text = tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    # The template has written every special token itself, so the tokenizer must not add its own.
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
