"""The house's one rule of direction: rooms import downwards only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sgsd

ROOT = Path(sgsd.__file__).parent
GROUND = {"types", "secrets", "notices", "files", "lookup"}
CORE = {*GROUND, "methods", "bank", "verify", "contexts", "rollout", "scorer"}
RUN = {*CORE, "evaluate", "lab", "skills", "config", "records", "checkpoint", "distributed", "data", "hub"}
BELOW: dict[str, set[str]] = {
    "types": set(),
    "secrets": set(),
    "notices": set(),
    "files": set(),
    "lookup": {"types"},
    "contexts": {"types", "lookup"},
    "methods": {"types", "lookup", "contexts"},
    "bank": {"types", "files", "notices"},
    "verify": {"types", "methods"},
    "rollout": {"types", "files", "methods"},
    "scorer": {"types", "methods"},
    "evaluate": CORE,
    "lab": {*CORE, "evaluate"},
    "skills": {"types", "files", "bank", "verify", "contexts", "rollout", "config", "data"},
    "config": {"types", "notices", "lookup", "methods", "bank"},
    "records": {*RUN, "train"},
    "checkpoint": {*RUN, "train"},
    "distributed": RUN,
    "data": RUN,
    "hub": RUN,
    "train": RUN,
    "plan": {*RUN, "train"},
    "integrations": {*RUN, "train"},
    "report": {*GROUND, "records"},
}
BELOW["cli"] = {*BELOW} - {"cli"}
BELOW["__main__"] = {"cli"}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its direction"
            names = [node.module or ""]
            if node.module == "sgsd":
                names = [f"sgsd.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("sgsd.")}
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_downwards(path: Path) -> None:
    if path == ROOT / "__init__.py":
        assert not imported_rooms(path)
        return
    own = room(path)
    upwards = imported_rooms(path) - BELOW[own] - {own}
    assert not upwards, f"{own} imports {', '.join(sorted(upwards))}"


def test_every_room_has_a_place() -> None:
    rooms = {room(p) for p in ROOT.rglob("*.py")} - {"__init__"}
    assert rooms == set(BELOW)


def test_files_stay_one_room() -> None:
    long = {str(p.relative_to(ROOT)): n for p in ROOT.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long
    assert len((ROOT / "train" / "loop.py").read_text().splitlines()) <= 250
