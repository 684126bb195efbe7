"""Checks the text of a bank: plain prose, which can steer neither a tokenizer, a terminal nor a reader's eye.

Every check returns its value unchanged (nothing is ever repaired: an imported bank must export without loss) or
raises a ValueError whose message completes the sentence "field … <message>".
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_ID_CHARS = 128
MAX_META_CHARS = 16_000
MAX_NESTING = 32
MAX_INT_BITS = 1024  # no number of a bank file needs more, and Python refuses to print 4,300 digits

# The markers that chat templates and tokenizers give a meaning of their own. Any name in angle brackets is taken for
# one unless it is ordinary typesetting, because the list of real ones grows with every model; single letters stay
# legal, since <g> is how algebra writes the group that g generates. Square brackets are listed by name: [ABC] is
# how geometry writes an area. `/think` and `/no_think` are switches Qwen3 obeys inside ordinary text.
_CONTROL_TOKEN = re.compile(
    r"<\|[^<>|]*\|>"
    r"|<\|[a-z_]{2,}>|<[a-z_]{2,}\|>"
    r"|</?(?!(?:sub|sup|br|em|strong)/?>)[a-z][a-z0-9_.:-]+/?>"
    r"|(?-i:</?s>)"
    r"|<0x[0-9a-f]{2}>"
    r"|<</?sys>>"
    r"|\[/?(?:inst|think|system_prompt|available_tools|tool_calls?|tool_results?|tool_content|img(?:_\w+)?|gmask)\]"
    r"|(?<!\w)/(?:no_)?think\b"
    r"|\u2581",
    re.IGNORECASE,
)
_OPENING = re.compile(r"[<\[/\u2581]")  # how each of them begins: most text has none, and is done with sooner

# Characters that are not seen, or that change how their neighbours are seen: C0 and C1 controls but for newline and
# tab, soft hyphen, joiners and fillers, zero-width and bidirectional marks, line and paragraph separators, the
# byte order mark, the tag block, and surrogates, which no UTF-8 file can hold.
_UNSEEN = (
    r"\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    r"\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff"
)
_UNSEEN_IN_PROSE = re.compile(rf"[\x00-\x08\x0b-\x1f{_UNSEEN}]")
_UNSEEN_IN_A_LINE = re.compile(rf"[\x00-\x1f{_UNSEEN}]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class NotJson:
    """Stands in a parsed file where the text is not JSON, so that the refusal can name the item and the field."""

    reason: str


def quoted(text: str, limit: int = 60) -> str:
    """`text` for a message: on one line, in quotes, unprintable characters escaped, the tail cut."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def terminal_safe(text: str) -> str:
    """`text` with every character that is not printable (escape codes above all) spelt out; newline and tab stay."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode("ascii") for char in text
    )


def control_tokens(text: str) -> list[str]:
    """The control tokens in `text`, also those that appear only once compatibility characters are folded (NFKC)."""
    readings = (text,) if text.isascii() else (text, unicodedata.normalize("NFKC", text))
    return [token for reading in readings if _OPENING.search(reading) for token in _CONTROL_TOKEN.findall(reading)]


def check_prose(text: str, limit: int) -> str:
    """Text that may reach a prompt: something to read, not too long, no control token, no unseen character."""
    if not text.strip():
        raise ValueError("is empty; write it, or drop the item")
    return _check_clean(_check_length(text, limit), _UNSEEN_IN_PROSE)


def check_line(text: str, limit: int) -> str:
    """Like prose, but on one line, possibly empty: a note."""
    return _check_clean(_check_length(text, limit), _UNSEEN_IN_A_LINE)


def check_id(text: str) -> str:
    """An item's name: one line, no space at its ends, at most 128 characters."""
    if not text.strip():
        raise ValueError("is empty; give the item an id")
    if text != text.strip():
        raise ValueError("has space at its ends; strip it")
    return check_line(text, MAX_ID_CHARS)


def check_meta(value: Any) -> dict[str, Any]:
    """An item's own notes: a JSON object whose keys and strings are as clean as prose, for a template may show them."""
    plain = _check_object(value, lambda text: _check_clean(text, _UNSEEN_IN_PROSE))
    _check_length(json.dumps(plain, ensure_ascii=False), MAX_META_CHARS)
    return plain


def check_metadata(value: Any) -> dict[str, Any]:
    """A bank's metadata: any JSON object that a UTF-8 file can hold. It reaches no prompt."""
    return _check_object(value, lambda text: _check_clean(text, _SURROGATE, tokens=False))


def _check_length(text: str, limit: int) -> str:
    if len(text) > limit:
        raise ValueError(f"has {len(text):,} characters, at most {limit:,} are allowed; shorten it")
    return text


def _check_clean(text: str, unseen: re.Pattern[str], *, tokens: bool = True) -> str:
    if hidden := unseen.search(text):
        raise ValueError(f"has the unseen character U+{ord(hidden[0]):04X} at position {hidden.start()}; remove it")
    if tokens and (found := control_tokens(text)):
        raise ValueError(f"has the control token {quoted(found[0])}; say it in plain words")
    return text


def _check_object(value: Any, check_string: Callable[[str], str]) -> dict[str, Any]:
    if isinstance(value, NotJson):
        raise ValueError(value.reason)
    if not isinstance(value, dict):
        raise ValueError(f"must be an object, not {json_type(value)}")
    _check_json(value, check_string, where="", nesting=0)
    return value


def _check_json(value: Any, check_string: Callable[[str], str], where: str, nesting: int) -> None:
    place = f"at {where} " if where else ""
    if nesting > MAX_NESTING:
        raise ValueError(f"is nested more than {MAX_NESTING} deep; flatten it")
    match value:
        case None | bool():
            pass
        case str():
            try:
                check_string(value)
            except ValueError as error:
                raise ValueError(f"{place}{error}") from None
        case int():
            if value.bit_length() > MAX_INT_BITS:
                raise ValueError(f"{place}has a number of {value.bit_length():,} bits; write it as a string")
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{place}has the number {value}, which JSON cannot hold; remove it")
        case list():
            for position, entry in enumerate(value):
                _check_json(entry, check_string, f"{where}[{position}]", nesting + 1)
        case dict():
            for key, entry in value.items():
                if not isinstance(key, str):
                    raise ValueError(f"{place}has the key {key!r}, which is not a string")
                try:
                    check_string(key)
                except ValueError as error:
                    raise ValueError(f"{place}has a key that {error}") from None
                _check_json(entry, check_string, f"{where}[{quoted(key)}]", nesting + 1)
        case NotJson():
            raise ValueError(f"{place}{value.reason}")
        case _:
            raise ValueError(f"{place}holds a {type(value).__name__}, which is not JSON")


def json_type(value: Any) -> str:
    """Return JSON's name for the type of `value`, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list() | tuple():
            return "a list"
        case dict():
            return "an object"
    return f"a {type(value).__name__}"
