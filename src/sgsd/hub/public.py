"""The parts of a run that may leave the machine: names instead of local paths, and nothing that looks like a secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from sgsd.secrets import HIDDEN, hide_secrets, is_secret

_CACHED = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})/?$")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILE = re.compile(r"\.(jsonl?|csv|parquet|ya?ml|sqlite3?|db|txt|py|gz|zst)$", re.I)


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as others may see it: secrets hidden, paths cut down to their last part."""
    return {key: _public_entry(key, value) for key, value in config.items()}


def public_name(text: str) -> str:
    """The last part of a path; a hub name, and anything that is no path, as it is.

    >>> public_name("/home/me/data/problems.jsonl"), public_name("Qwen/Qwen3-1.7B"), public_name("lab:train")
    ('problems.jsonl', 'Qwen/Qwen3-1.7B', 'lab:train')
    """
    text = hide_secrets(text)
    if cached := cached_hub_model(text):
        return cached[0]
    if "\\" in text and PureWindowsPath(text).is_absolute():
        return PureWindowsPath(text).name
    address = "://" in text and not text.startswith("file:")
    return text if "/" not in text or address or is_hub_name(text) else Path(text).name


def is_hub_name(text: str) -> bool:
    """Whether this can only be the name of something on the hub: owner/name, and no such path here."""
    return bool(_HUB_NAME.fullmatch(text)) and not _FILE.search(text) and not Path(text).exists()


def cached_hub_model(path: str) -> tuple[str, str] | None:
    """The hub name and commit of a model that lies in the hub's cache on this machine."""
    found = _CACHED.search(path)
    return (f"{found[1]}/{found[2]}", found[3]) if found else None


def _public_entry(key: str, value: Any) -> Any:
    if is_secret(key, value):
        return HIDDEN
    # A name may hold a slash and is no path.
    return hide_secrets(value) if key == "name" and isinstance(value, str) else _public(value)


def _public(value: Any) -> Any:
    if isinstance(value, Mapping):
        return public_config(value)
    if isinstance(value, (list, tuple)):
        return [_public(part) for part in value]
    return public_name(value) if isinstance(value, str) else value
