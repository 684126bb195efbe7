"""Reads a writer's answer: items one by one, so that one broken item, or a cut end, costs that item and no other.

A server that decodes by JSON schema needs none of this. Others wrap the JSON in prose, think first, write LaTeX whose
backslashes are no JSON, leave quotes open or commas before brackets, or stop in the middle. An item is a flat object
whose fields are known, so a broken one is read by the names of its fields, which is surer than mending its JSON. Every
step goes through the text once: an answer may be of any size and any malice.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import ValidationError

from sgsd.skills.drafts import AnswerType, Draft
from sgsd.types import UserError

# Backslashes from the left, two at a time where the second is escaped. What JSON would take for a control character
# and LaTeX for a command (\times: a tab and "imes") is LaTeX: \b, \f and \r before any letter, for prose has no use
# for those characters, \n and \t before the rest of a command's name. What is no escape at all is LaTeX too.
_BACKSLASH = re.compile(
    r"""\\(?:(?P<fine>["\\/])|(?P<quote>')|(?P<latex>[bfr](?=[a-zA-Z])
    |n(?=(?:abla|atural|e|earrow|eg|eq|eqq|exists|geq|leq|mid|ot|otin|parallel|rightarrow|subseteq|u|warrow)(?![a-z]|\.\w))
    |t(?=(?:ag|an|anh|au|binom|ext[a-z]*|frac|herefore|heta|ilde|imes|o|op|riangle[a-z]*)(?![a-z])))
    |(?P<escape>[bfnrt]|u[0-9a-fA-F]{4})|)""",
    re.VERBOSE,
)
_DECODER = json.JSONDecoder(strict=False)  # a line break inside a string is legible enough
_UNTERMINATED = "unterminated"
MAX_ITEM_CHARS = 20_000  # twice what a bank takes
_ANSWERS_TRIED = 3  # of several in one text, from the last: a writer may give an example first, or change its mind

NO_JSON = "no JSON in it"
EMPTY = "empty"
UNCLOSED_THINKING = "thinking that never ends"
NOT_AN_OBJECT = "an item that is no object"
MISSING_FIELD = "an item without one of its fields"
CUT_OFF = "an item cut off"
UNREADABLE = "an item that is not JSON"
UNFIT = "an item that may not stand in a bank"


@dataclass(frozen=True)
class ParsedAnswer:
    """The items of an answer that could be read; `unusable` says why nothing could."""

    drafts: tuple[Draft, ...] = ()
    dropped: Counter[str] = field(default_factory=Counter)
    unusable: str | None = None

    @property
    def wants_repair(self) -> bool:
        """Asking once more may bring something: nothing was read, but something was meant."""
        return self.unusable is not None or (not self.drafts and self.dropped.total() > 0)


def parse_answer(text: str, answer: AnswerType) -> ParsedAnswer:
    """The drafts in a reply, whatever stands around them. A null list is an answer with no items."""
    body = after_thinking(text)
    if body is None:
        return ParsedAnswer(unusable=UNCLOSED_THINKING)
    if not body.strip():
        return ParsedAnswer(unusable=EMPTY)
    mended = _BACKSLASH.sub(_escaped, body)
    starts = _list_starts(mended, answer)
    readings = [ParsedAnswer(unusable=NO_JSON)]
    for start in reversed(starts[-_ANSWERS_TRIED:]):
        reading = _read_list(mended, start, answer.draft)
        if not reading.wants_repair:
            return reading
        readings.append(reading)
    return readings[1] if starts else readings[0]


def after_thinking(text: str) -> str | None:
    """Return the text after the last think block; None if it never closes."""
    tail = text.rpartition("</think>")[2]
    return None if "<think>" in tail else tail


def _escaped(found: re.Match[str]) -> str:
    if found["fine"] or found["escape"]:
        return found[0]
    return "'" if found["quote"] else rf"\\{found[0][1:]}"


def _list_starts(text: str, answer: AnswerType) -> list[int]:
    """Return the places where items may begin: after a mention of the key, or else at the first item."""
    named = [m.end() for m in re.finditer(rf"""{answer.key}["'”]?\s*+:\s*+(?=[\[{{]|null|None)""", text)]
    if named:
        return named
    bare = _item_head(answer.draft).search(text)
    return [bare.start()] if bare else []


def _read_list(text: str, start: int, model: type[Draft]) -> ParsedAnswer:
    drafts: list[Draft] = []
    dropped: Counter[str] = Counter()
    for found in _Items(text, start, model).read(start):
        made = _draft(found, model) if not isinstance(found, _Broken) else found.why
        if isinstance(made, str):
            dropped[made] += 1
        else:
            drafts.append(made)
    return ParsedAnswer(tuple(drafts), dropped)


@dataclass(frozen=True)
class _Broken:
    why: str


class _Items:
    """A list of items in a text. Where items and fields begin is found once, for all of them."""

    def __init__(self, text: str, start: int, model: type[Draft]) -> None:
        self.text = text
        self.heads = [found.start() for found in _item_head(model).finditer(text, start)]
        self.fields = list(_field_head(model).finditer(text, start))
        self.field_starts = [found.start() for found in self.fields]

    def read(self, start: int) -> Iterator[Any]:
        """Every item from there on; objects without brackets are a list too, null is an empty one."""
        text = self.text
        listed = text[start] == "["
        position = start + listed
        while position < len(text):
            if text[position] in " \t\r\n," or (listed and text[position] == "}"):
                position += 1
            elif text[position] == "{":
                found, position = self._object(position)
                yield found
                if found == _Broken(CUT_OFF):
                    return
            elif text[position] == "]" or not listed:
                return
            else:
                found, position = self._other(position)
                yield found
        if listed:
            yield _Broken(CUT_OFF)

    def _object(self, start: int) -> tuple[Any, int]:
        """The object that starts there and where it ends: a broken one at the latest where the next item begins."""
        following = bisect_right(self.heads, start)
        limit = min(len(self.text), start + MAX_ITEM_CHARS)
        stop = min(limit, self.heads[following]) if following < len(self.heads) else limit
        decoded = _decoded(self.text[start:stop])
        if decoded == _UNTERMINATED and stop < limit:  # what looks like the next item stands inside a string
            decoded = _decoded(self.text[start:limit])
        if isinstance(decoded, tuple):
            return decoded[0], start + decoded[1]
        return self._by_fields(start, stop)

    def _by_fields(self, start: int, stop: int) -> tuple[Any, int]:
        """Return the text between the names of the fields, in an object that is not JSON, and where it ends."""
        fields = self.fields[bisect_right(self.field_starts, start) : bisect_right(self.field_starts, stop - 1)]
        last = fields[-1].end() if fields else start
        # The end of the last value, then the brace: a brace inside a text has no quote of that kind before it.
        closing = rf"{re.escape(_closer(self.text[last]))}\s*+(?:,\s*+)?\}}" if fields else r"\}"
        closed = re.compile(closing).search(self.text, last + 1, stop)
        if closed is None:
            return _Broken(CUT_OFF if stop == len(self.text) else UNREADABLE), stop
        if not fields:
            return _Broken(UNREADABLE), closed.end()
        ends = [*(found.start() for found in fields[1:]), closed.start() + 1]
        values = {found[1]: _value(self.text[found.end() : end]) for found, end in zip(fields, ends)}
        return values, closed.end()

    def _other(self, start: int) -> tuple[Any, int]:
        """An entry that is no object: skipped whole where it is JSON, up to the next bracket where it is not."""
        decoded = _decoded(self.text[start : start + MAX_ITEM_CHARS])
        if isinstance(decoded, tuple):
            return decoded[0], start + decoded[1]
        stop = re.compile(r"[{\]]").search(self.text, start + 1)
        return _Broken(UNREADABLE), stop.start() if stop else len(self.text)


def _decoded(text: str) -> tuple[Any, int] | str | None:
    """Decode the JSON at the beginning of the text; returns it and its length."""
    try:
        return _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        return _UNTERMINATED if error.msg.startswith("Unterminated") else None
    except (ValueError, RecursionError):  # a number of thousands of digits, thousands of brackets
        return None


@cache
def _item_head(model: type[Draft]) -> re.Pattern[str]:
    return re.compile(rf"""\{{\s*+["'“]?(?:{"|".join(model.model_fields)})["'”]?\s*+:""")


@cache
def _field_head(model: type[Draft]) -> re.Pattern[str]:
    return re.compile(rf"""(?<!\w)["'“]?({"|".join(model.model_fields)})["'”]?\s*+:\s*+(?=["'\[“])""")


def _closer(opening: str) -> str:
    return {"[": "]", "“": "”"}.get(opening, opening)


def _value(text: str) -> str:
    """A field's text: between its quotes, which may be of any kind; quotes inside need no backslash."""
    whole = text.strip(" \t\r\n,")
    if whole[0] == "[":
        return whole
    inner = whole[1:].removesuffix(_closer(whole[0]))
    quoted = re.sub(r'(\\.)|"', lambda found: found[1] or r"\"", inner, flags=re.DOTALL)
    decoded = _decoded(f'"{quoted}"')
    return decoded[0] if isinstance(decoded, tuple) else inner


def _draft(found: Any, model: type[Draft]) -> Draft | str:
    """The draft, or why there is none."""
    if not isinstance(found, dict):
        return NOT_AN_OBJECT
    try:
        draft = model.model_validate({key: found[key] for key in model.model_fields if key in found})
    except ValidationError:
        return MISSING_FIELD
    try:
        draft.to_item()
    except UserError:
        return UNFIT
    return draft
