r"""The layouts in which data sets publish their rows: each a small pure function from a row to a problem's parts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sgsd.config.sections import DataConfig
from sgsd.verify.final_answer import has_box, last_box

Row = Mapping[str, Any]

#: What DAPO-Math-17k writes before and after each problem.
DAPO_FRAME = (
    "Solve the following math problem step by step. The last line of your response should be of the form"
    " Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n",
    '\n\nRemember to put your answer on its own line after "Answer:".',
)
#: What OpenThoughts writes before each mathematics problem.
OPENTHOUGHTS_FRAME = ("Return your final response within \\boxed{}. ", "")
#: Between what an answer of OpenThoughts keeps its solution, after its thoughts.
SOLUTION_MARKS = ("<|begin_of_solution|>", "<|end_of_solution|>")

LONGEST_BARE_ANSWER = 200  # characters; a longer text without a box is a derivation, and its answer is anyone's guess

FRAME_TAKEN_OFF = "the data's own instruction was taken off (our prompts bring one; data.strip_instruction)"
SYSTEM_LEFT_OUT = "the data's own system text was left out (our prompts bring the wording)"
ANSWER_OF_THE_MODEL = "the answer is the box of deepseek_solution, ground_truth_solution has none"


class UnusableRow(ValueError):
    """This row makes no problem; the message goes on from "row 3"."""


class MissingColumn(UnusableRow):
    """There is no such column in this row."""


@dataclass(frozen=True, slots=True)
class Item:
    """The content of one row; `remarks` are what was done to it, told once for all rows together."""

    text: str
    gold: str
    solution: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


# ── The layouts ────────────────────────────────────────────────────────────────────────────────────────────────────


def plain(row: Row, config: DataConfig) -> Item:
    """Columns named by `data.problem`, `data.answer` and, where asked for, `data.solution` and `data.rubric`."""
    text, solution = cell(row, config.problem), cell(row, config.solution) if config.solution else None
    meta = {"rubric": _rubric(row, config.rubric)} if config.rubric else {}
    return Item(text, without_derivation(_answer(row, config.answer)), solution, meta)


def dapo(row: Row, config: DataConfig) -> Item:
    """`prompt` messages and `reward_model.ground_truth`. Source: DAPO-Math-17k, arXiv 2503.14476; verl's own layout."""
    asked, of_system = _question(_turns(row, "prompt", "role", "content"), "prompt")
    reward = row.get("reward_model")
    if not isinstance(reward, dict):
        raise UnusableRow("has no reward_model with a ground_truth in it")
    gold = as_text(reward.get("ground_truth"), "reward_model.ground_truth")
    text, of_frame = _without_frame(asked, DAPO_FRAME, config)
    return Item(text, gold, None, _kept(row, "data_source"), of_system + of_frame)


def conversational(row: Row, config: DataConfig) -> Item:
    """`prompt` messages and a `solution`, which holds the answer or is it. Source: the conversational data of TRL."""
    text, remarks = _question(_turns(row, "prompt", "role", "content"), "prompt")
    gold, solution = answer_in(cell(row, "solution"), "solution")
    return Item(text, gold, solution, {}, remarks)


def openthoughts(row: Row, config: DataConfig) -> Item:
    """`conversations`, or the columns of the metadata subset. Source: OpenThoughts-114k, arXiv 2506.04178."""
    return _openthoughts_turns(row, config) if "conversations" in row else _openthoughts_metadata(row)


def _openthoughts_turns(row: Row, config: DataConfig) -> Item:
    *turns, (who, answered) = _turns(row, "conversations", "from", "value")
    if who not in ("assistant", "gpt"):
        raise UnusableRow("has conversations that do not end with an answer")
    asked, of_system = _question(turns, "conversations")
    gold = last_box(answered)
    if gold is None:
        raise UnusableRow("has no boxed answer in its last turn")
    if row.get("system"):
        of_system = (SYSTEM_LEFT_OUT,)
    text, of_frame = _without_frame(asked, OPENTHOUGHTS_FRAME, config)
    return Item(text, gold, _between(answered, SOLUTION_MARKS).strip(), {}, of_system + of_frame)


def _openthoughts_metadata(row: Row) -> Item:
    text, meta = cell(row, "problem"), _kept(row, "domain", "source")
    reference, written = cell(row, "ground_truth_solution"), cell(row, "deepseek_solution")
    if _has_answer(reference):
        gold, solution = answer_in(reference, "ground_truth_solution")
        return Item(text, gold, solution or written, meta)
    boxed = last_box(written)
    if boxed is None:
        raise UnusableRow("has no answer in ground_truth_solution, and no boxed one in deepseek_solution")
    return Item(text, boxed, written, meta, (ANSWER_OF_THE_MODEL,))


READERS: Mapping[str, Callable[[Row, DataConfig], Item]] = {
    "plain": plain,
    "dapo": dapo,
    "conversational": conversational,
    "openthoughts": openthoughts,
}


def fitting_layouts(row: Row, config: DataConfig) -> dict[str, tuple[str, ...]]:
    """Every layout whose columns this row has, with those columns."""
    wanted: dict[str, list[tuple[str, ...]]] = {
        "plain": [(config.problem, config.answer)],
        "dapo": [("prompt", "reward_model")],
        "conversational": [("prompt", "solution")],
        "openthoughts": [("conversations",), ("problem", "ground_truth_solution", "deepseek_solution")],
    }
    if not isinstance(row.get("prompt"), list):
        del wanted["dapo"], wanted["conversational"]
    found = {name: [cs for cs in sets if all(c in row for c in cs)] for name, sets in wanted.items()}
    return {name: sets[0] for name, sets in found.items() if sets}


# ── Their parts ────────────────────────────────────────────────────────────────────────────────────────────────────


def cell(row: Row, column: str) -> str:
    """The text of a column. Raises MissingColumn, and UnusableRow for an empty one."""
    if column not in row:
        raise MissingColumn(f"has no column {column!r}; it has {', '.join(map(str, row))}")
    return as_text(row[column], column)


def _answer(row: Row, column: str) -> str:
    """A reference as text; a list or an object as JSON. Raises MissingColumn, and UnusableRow for an empty one."""
    value = row.get(column)
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    text = cell(row, column)
    if text.strip().lower() == "nan":
        raise UnusableRow(f"has {text.strip()!r} as {column}, which is a missing number and no answer")
    return text


def as_text(value: Any, name: str) -> str:
    """A text or a number as text. Raises UnusableRow for nothing, for lists, and for what is no UTF-8."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UnusableRow(f"has no {name}")
    if isinstance(value, list | dict | bytes):
        raise UnusableRow(f"has a {type(value).__name__} as {name}, not a text")
    if isinstance(value, float) and not math.isfinite(value):
        raise UnusableRow(f"has {value} as {name}, which is a missing number and no text")
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise UnusableRow(f"holds half a character (a lone surrogate) in {name}") from None
    return str(value)


def without_derivation(reference: str) -> str:
    """Takes the answer out of a reference: behind its last #### or in its last box, else the reference as it is."""
    if ("####" in reference or has_box(reference)) and _has_answer(reference):
        return answer_in(reference, "the reference")[0]
    return reference


def answer_in(text: str, name: str) -> tuple[str, str | None]:
    """The answer that a reference ends in, and the reference as a solution unless it is nothing but the answer.

    The last box, else what follows the last ####, else the whole text where it is short and of one line. Raises
    UnusableRow: none of these.
    """
    if not _has_answer(text):
        raise UnusableRow(f"has no answer in {name}: no box, no ####, and too long to be one itself")
    if has_box(text):
        gold = last_box(text)
        assert gold is not None, "it has been asked for"
        return gold, None if text.strip(" $.\n") == f"\\boxed{{{gold}}}" else text
    reasoning, mark, answer = text.rpartition("####")
    return answer.strip(), text if mark and reasoning.strip() else None


def _has_answer(text: str) -> bool:
    if has_box(text):
        return last_box(text) is not None
    answer = text.rpartition("####")[2].strip()
    return 0 < len(answer) <= LONGEST_BARE_ANSWER and "\n" not in answer


def _turns(row: Row, column: str, who: str, what: str) -> list[tuple[str, str]]:
    """The messages of a conversation as (role, text)."""
    turns = row.get(column)
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise UnusableRow(f"has no list of messages as {column}")
    return [
        (as_text(turn.get(who), f"{column}: {who}"), as_text(turn.get(what), f"{column}: {what}")) for turn in turns
    ]


def _question(turns: list[tuple[str, str]], column: str) -> tuple[str, tuple[str, ...]]:
    """The one thing that is asked, after a system text at most; a question asked in several turns is another task."""
    after_system = turns[1:] if turns and turns[0][0] == "system" else turns
    if len(after_system) != 1 or after_system[0][0] not in ("user", "human"):
        roles = ", ".join(role for role, _ in turns) or "none"
        raise UnusableRow(f"has {column} with these roles before the answer: {roles}; one question can be used")
    return after_system[0][1], (SYSTEM_LEFT_OUT,) if len(turns) == 2 else ()


def _without_frame(text: str, frame: tuple[str, str], config: DataConfig) -> tuple[str, tuple[str, ...]]:
    """Take off what the publisher wrote round each problem, where it is there to the letter."""
    before, after = frame
    inside = text.removeprefix(before).removesuffix(after)
    whole = len(text) == len(before) + len(inside) + len(after)
    if not config.strip_instruction or not whole or not inside.strip():
        return text, ()
    return inside, (FRAME_TAKEN_OFF,)


def _rubric(row: Row, column: str) -> Any:
    """A text, or a list of criteria as it is. Raises MissingColumn, and UnusableRow for an empty one."""
    return row[column] if isinstance(row.get(column), list) and row[column] else cell(row, column)


def _between(text: str, marks: tuple[str, str]) -> str:
    """The text between the last pair of marks; the whole text where there is none."""
    _, opened, tail = text.rpartition(marks[0])
    inside, closed, _ = tail.partition(marks[1])
    return inside if opened and closed else text


def _kept(row: Row, *columns: str) -> dict[str, Any]:
    return {column: row[column] for column in columns if row.get(column) is not None}
