"""Hides all that looks like a credential: whatever shows a run to others asks here first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "(hidden)"

# "max_tokens", "key_variable" and "api_key_env" are settings; what IS a key or a token is none of a reader's business.
_NAME = (
    r"(?:(?<![^\W_])(?:key|token)"
    r"|api[._-]?key|(?:access|auth|hf|api)[._-]?token|secret|password|passwd|credentials?|authorization)"
)
_FLAG = rf"--[\w.-]*{_NAME}"
_SHELL_WORD = r"""(?:'[^']*'|"[^"]*"|[^\s'"])+"""
_SECRET_NAME = re.compile(rf"{_NAME}$", re.I)
_SECRET_FLAG = re.compile(rf"('{_FLAG}=)[^']*|({_FLAG}(?:=|\s+)){_SHELL_WORD}", re.I)
_SECRET_TEXT = re.compile(
    r"hf_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|sk-[A-Za-z0-9_-]{16,}"  # OpenAI and its imitators
    r"|gh[pousr]_[A-Za-z0-9]{16,}"  # GitHub
    r"|AKIA[A-Z0-9]{12,}"  # Amazon
    r"|(?<=://)[^/\s@]+@"  # user:password@ in an address
)


def is_secret(key: object, value: Any) -> bool:
    """Whether a setting of this name holds a credential; what is empty, a switch or a section does not."""
    return value is not None and not isinstance(value, (bool, Mapping)) and bool(_SECRET_NAME.search(str(key)))


def hide_secrets(text: str) -> str:
    """The text, or command line, with what looks like a credential blotted out.

    >>> hide_secrets("sgsd train c.yaml --verifier.options.token abc --output http://me:pass@host/x")
    'sgsd train c.yaml --verifier.options.token (hidden) --output http://(hidden)host/x'
    """
    return _SECRET_TEXT.sub(HIDDEN, _SECRET_FLAG.sub(lambda found: f"{found[1] or found[2]}{HIDDEN}", text))


def without_secrets(value: Any) -> Any:
    """The same nesting of mappings and lists, credentials blotted out by their names and by their looks."""
    if isinstance(value, Mapping):
        return {key: HIDDEN if is_secret(key, inner) else without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets(inner) for inner in value]
    return hide_secrets(value) if isinstance(value, str) else value
