"""Every relative link and anchor of the documentation leads somewhere, and the code that a page names exists."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
HISTORY = ("LOG.md", "CHANGELOG.md")  # they name files as they were called then


@cache
def prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as code hosts and our site make them."""
    found: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        found[slug if not found[slug] else f"{slug}-{found[slug]}"] += 1
    return frozenset(found)


LINKS = [(page, *match) for page in PAGES for match in LINK.findall(prose(page)) if "://" not in match[2]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for _, _, target in LINK.findall(prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        if not to.exists() or (anchor and to.suffix == ".md" and anchor not in anchors(to)):
            broken.append(target)
    assert not broken, f"{page.name}: {', '.join(broken)}"


@cache
def defined(file: Path) -> frozenset[str]:
    """Names that a module defines, those of a class's body as `Class.name`."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        names = names_of(node)
        found |= names
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner}" for part in node.body for inner in names_of(part)}
    return frozenset(found)


def names_of(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


CODE = [(page, text, target) for page, _, text, target in LINKS if re.fullmatch(r"`\w+\.py: [\w.]+`", text)]


@pytest.mark.parametrize(("page", "text", "target"), CODE, ids=[f"{p.name}-{t[1:-1]}" for p, t, _ in CODE])
def test_linked_code_defines_the_name(page: Path, text: str, target: str) -> None:
    file, name = text.strip("`").split(": ")
    to = (page.parent / target).resolve()
    assert to.name == file
    assert name in defined(to), f"{target} defines no {name}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in HISTORY], ids=lambda page: page.name)
def test_named_paths_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:src/sgsd|tests|benchmarks|configs|examples|docs)/[\w./-]*)`", page.read_text(encoding="utf-8")
    )
    missing = [path for path in named if not (ROOT / path).exists() and not re.search(r"[A-Z]{4}", path)]
    assert not missing, f"{page.name}: {', '.join(missing)}"


def test_every_page_is_in_the_index() -> None:
    linked = {target.partition("#")[0] for _, _, target in LINK.findall(prose(ROOT / "docs" / "index.md"))}
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages <= linked
