r"""The text of a completion's answer: the last box after the last </think>. Pure and linear.

The last box decides, even when it is broken: a model that was cut off while writing its final box has not
answered, whatever it had boxed before.
"""

from __future__ import annotations

import re
from typing import Any

_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # the first branch swallows escaped braces and escaped backslashes
_BARE = re.compile(r"[^\s${}]+")
_CONTENT = re.compile(r"[^\s~]")


def extract_answer(completion: Any) -> str | None:
    r"""Take the final answer out of a completion.

    Args:
        completion: any Python value.

    Returns:
        The content of the last box, `\boxed{…}`, `\fbox{…}` or the braceless `\boxed 5`; None if there is no answer:
        not a text, no box, an empty box, a last box whose braces never close, or a think block that opens after the
        last `</think>` and stays open.

    Example:
        >>> extract_answer(r"<think>\boxed{3}</think> it is \boxed{\frac{1}{2}}.")
        '\\frac{1}{2}'
    """
    if not issubclass(type(completion), str):  # isinstance would call into a hostile object's __class__
        return None
    text = str.__str__(completion).rpartition(_THINK_CLOSE)[2]
    if _THINK_OPEN in text:
        return None
    return last_box(text)


def has_box(text: str) -> bool:
    """True for a text that holds a box, closed or not."""
    return _BOX.search(text) is not None


def last_box(text: str) -> str | None:
    """The content of the last box of a text that no other box encloses; None if it is empty or cut off."""
    starts = [match.end() for match in _BOX.finditer(text)]
    if not starts:
        return None
    last, closes = starts[-1], _matching_braces(text)
    outer = next((start for start in starts if closes.get(start, -1) > last), None)
    if outer is None:
        return _bare_box(text, last)
    content = _unwrap(text[outer + 1 : closes[outer]].strip())
    return content if _CONTENT.search(content) else None


def _bare_box(text: str, start: int) -> str | None:
    match = _BARE.match(text, start)  # a brace that never closes is no bare answer: the pattern stops at it
    return match.group().rstrip(".,;:") or None if match else None


def _matching_braces(text: str) -> dict[int, int]:
    """Position of each opening brace that closes → position of its closing brace."""
    closes: dict[int, int] = {}
    open_braces: list[int] = []
    for match in _BRACE.finditer(text):
        if match.group() == "{":
            open_braces.append(match.start())
        elif match.group() == "}" and open_braces:
            closes[open_braces.pop()] = match.start()
    return closes


def _unwrap(content: str) -> str:
    r"""Take off boxes that wrap the whole content: \boxed{\boxed{5}} → 5."""
    if not _BOX.match(content):
        return content
    closes = _matching_braces(content)
    start, end = 0, len(content)
    while (box := _BOX.match(content, start)) and closes.get(box.end()) == end - 1:
        start, end = box.end() + 1, end - 1
    return content[start:end].strip()
