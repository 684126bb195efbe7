"""Old names of keys: read in mappings and flags, and rewritten in files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from sgsd.config.renamed import FORMAT, RENAMED, SHED, UNTIL, Shed
from sgsd.config.yaml_text import parse_yaml
from sgsd.types import UserError


def migrate(raw: Mapping[str, Any], where: str = "config", *, saved: bool = False) -> tuple[dict[str, Any], list[str]]:
    """The mapping with the keys of today, and a line for each thing its owner should know.

    Args:
        raw: a config as a file or a program gives it.
        where: what to call it in the notes.
        saved: a run wrote it, so that old names are no news; only what is ignored is noted.

    Raises:
        UserError: the format is newer than this version reads, or a key stands there by both its names.
    """
    _check_format(raw.get("format"), where)
    found = {key: dict(value) if isinstance(value, Mapping) else value for key, value in raw.items()}
    renamed = [f"{entry.old} → {entry.new}" for entry in RENAMED if _rename(found, entry.old, entry.new, where)]
    shed = [entry for entry in SHED if _take_out(found, entry)]
    if "format" in found:
        found["format"] = FORMAT
    notes = [f"{where}: {entry.key} is ignored: {entry.reason}" for entry in shed]
    if renamed and not saved:
        advice = f"`sgsd migrate {where}` rewrites them" if where.endswith((".yaml", ".yml")) else "use the new ones"
        notes.insert(0, f"{where}: old names of keys, read until sgsd {UNTIL}: {', '.join(renamed)}; {advice}")
    return found, notes


def current_key(dotted: str, method: object = "") -> str:
    """Today's name of a dotted key; options of a method of one's own, named module:function, were never renamed.

    >>> current_key("growth.every"), current_key("optimizer.lr")
    ('skills.every', 'optimizer.lr')
    """
    for entry in RENAMED:
        if _is_meant(entry.old, method) and (dotted == entry.old or dotted.startswith(f"{entry.old}.")):
            dotted = entry.new + dotted[len(entry.old) :]
    return dotted


def migrate_text(text: str, where: str) -> str:
    """A config file rewritten to today's keys, with its comments and its layout.

    Raises:
        UserError: it is no config, or its layout cannot be kept.
    """
    raw = parse_yaml(text, where)
    if not isinstance(raw, Mapping):
        raise UserError(f"{where}: a config is a mapping of keys to values")
    wanted = {**migrate(raw, where)[0], "format": FORMAT}
    root = yaml.compose(text, yaml.SafeLoader)
    edits = {*_edits(root, text)} | ({_format_line(root, text)} if "format" not in raw else set())
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    if not _reads_as(text, wanted):
        raise UserError(f"{where}: cannot be rewritten in place; rename its keys by hand (docs/configuration.md)")
    return text


# ── Mappings ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_format(found: Any, where: str) -> None:
    if isinstance(found, int) and not isinstance(found, bool) and found > FORMAT:
        raise UserError(f"{where}: format: {found} is newer than this version of sgsd, which reads up to {FORMAT}")
    if found is not None and found not in range(1, FORMAT + 1):
        raise UserError(f"{where}: format: {found!r} is no format; leave it out, or write {FORMAT}")


def _rename(found: dict[str, Any], old: str, new: str, where: str) -> bool:
    section, _, before = old.rpartition(".")
    after = new.rpartition(".")[2]
    place = found.get(section) if section else found
    if not isinstance(place, dict) or before not in place or not _is_meant(old, place.get("name")):
        return False
    if after in place:
        raise UserError(f"{where}: {old} and {new} are the same key; leave the old one out")
    items = [(after if key == before else key, value) for key, value in place.items()]
    place.clear()
    place.update(items)
    return True


def _is_meant(key: str, method: object) -> bool:
    return not key.startswith("method.") or ":" not in str(method)


def _take_out(found: dict[str, Any], entry: Shed) -> bool:
    """Remove the key; true where it asked for something."""
    section, _, key = entry.key.rpartition(".")
    place = found.get(section) if section else found
    if not isinstance(place, dict) or key not in place or not _is_meant(entry.key, place.get("name")):
        return False
    return bool(place.pop(key) != entry.off)


# ── Text ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _edits(root: Any, text: str) -> Iterator[tuple[int, int, str]]:
    """Spans of the text and what takes their place."""
    renamed = {entry.old: entry.new.rpartition(".")[2] for entry in RENAMED}
    shed = {entry.key for entry in SHED}
    for key, value in root.value:
        yield from _renamed(key, renamed.get(key.value))
        if key.value == "format":
            yield value.start_mark.index, value.end_mark.index, str(FORMAT)
        section = current_key(key.value)
        if not isinstance(value, yaml.MappingNode):
            continue
        name = next((inner_value.value for inner, inner_value in value.value if inner.value == "name"), "")
        if key.value == "method" and ":" in str(name):
            continue
        gone = [inner for inner, _ in value.value if f"{section}.{inner.value}" in shed]
        for inner, inner_value in value.value:
            yield from _renamed(inner, renamed.get(f"{section}.{inner.value}"))
            if inner in gone:
                yield _removal(inner, inner_value, text, flow=bool(value.flow_style))
        if gone and len(gone) == len(value.value) and not value.flow_style:
            yield key.end_mark.index, key.end_mark.index + 1, ": {}"


def _renamed(key: Any, new: str | None) -> Iterator[tuple[int, int, str]]:
    if new is not None:
        yield key.start_mark.index, key.end_mark.index, new


def _removal(key: Any, value: Any, text: str, *, flow: bool) -> tuple[int, int, str]:
    start, end = key.start_mark.index, value.end_mark.index
    if flow:
        while text[end : end + 1] in (",", " ") and text[end : end + 1]:
            end += 1
        if text[end : end + 1] == "}":  # the last of its mapping: take the comma before it
            while text[start - 1] in ", ":
                start -= 1
        return start, end, ""
    return text.rfind("\n", 0, start) + 1, (text.find("\n", end) + 1) or len(text), ""


def _reads_as(text: str, wanted: Mapping[str, Any]) -> bool:
    try:
        return bool(parse_yaml(text, "") == wanted)
    except UserError:
        return False


def _format_line(root: Any, text: str) -> tuple[int, int, str]:
    """An insertion of `format: 2` before the first key, below the comments at the top."""
    at = root.start_mark.index
    return (at + 1, at + 1, f"format: {FORMAT}, ") if text[at] == "{" else (at, at, f"format: {FORMAT}\n")
