"""The house's one rule of direction: rooms import downwards only."""

from __future__ import annotations

import ast
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sgsd

ROOT = Path(sgsd.__file__).parent
#: From the ground up: a room may import those before it, and of those only the ones named.
BELOW: dict[str, set[str]] = {
    "types": set(),
    "files": set(),
    "notices": set(),
    "secrets": set(),
    "lookup": {"types"},
    "contexts": {"lookup", "types"},
    "methods": {"contexts", "lookup", "types"},
    "verify": {"lookup", "notices", "types"},
    "rollout": {"contexts", "files", "types"},
    "scorer": {"contexts", "types"},
    "bank": {"files", "notices", "types"},
    "config": {"bank", "lookup", "methods", "notices", "types"},
    "evaluation": {"bank", "contexts", "methods", "notices", "rollout", "types", "verify"},
    "lab": {"bank", "contexts", "evaluation", "rollout", "types"},
    "data": {"config", "lab", "lookup", "notices", "types", "verify"},
    "distributed": {"config", "rollout", "scorer", "types"},
    "checkpoint": {"distributed", "files", "scorer", "types"},
    "hub": {"bank", "config", "files", "lab", "methods", "secrets", "types"},
    "records": {"config", "evaluation", "files", "hub", "methods", "notices", "types"},
    "skills": {"bank", "config", "contexts", "data", "files", "rollout", "types", "verify"},
}
BELOW["train"] = {*BELOW} - {"lookup", "secrets"}
BELOW["plan"] = {"checkpoint", "config", "distributed", "methods", "records", "rollout", "scorer", "train", "types"}
BELOW["integrations"] = {*BELOW} - {"plan", "hub", "lab", "secrets", "skills"}
BELOW["report"] = {"files", "records", "secrets", "types"}
BELOW["cli"] = {*BELOW}
BELOW["__main__"] = {"cli"}
#: The only names that modules of two packages may share.
SHARED_NAMES = {"base", "schema", "__main__"}


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
    if path == ROOT / "__init__.py":  # the package's own names, loaded when they are used
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
    assert len((ROOT / "train" / "loop.py").read_text().splitlines()) <= 100


def module_name(path: Path) -> str:
    return ".".join(("sgsd", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_name(path): path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"}


def imported_modules(path: Path) -> set[str]:
    """Every module of the package that a file imports, inside functions and for type checkers too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            within = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= within & MODULES.keys() or {node.module}
    return found & MODULES.keys()


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {name: imported_modules(path) - {name} for name, path in MODULES.items()}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert {*MODULES} <= {*order}


def test_no_two_packages_have_a_module_of_one_name() -> None:
    seen = Counter(name.rpartition(".")[2] for name in MODULES)
    assert {name for name, count in seen.items() if count > 1} <= SHARED_NAMES


def test_functions_stay_one_thought() -> None:
    long = {
        f"{name}.{node.name}": node.end_lineno - node.lineno + 1
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 60
    }
    assert not long
