"""Hooks of the site (mkdocs.yml): linked files outside docs/ become pages, and the reference shows docstrings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[([^\[\]]*)\]\((\.\./[^()\s#]+)\)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".json": "json"}


def on_files(files: Files, config: Any) -> Files:
    """Add a page for every linked file outside docs/, and one with its list for every folder."""
    pages = [file.content_string for file in files.documentation_pages()]
    linked = {match[2] for text in pages for match in LINK.finditer(text)}
    for target in sorted({(ROOT / "docs" / target).resolve() for target in linked}):
        if not target.exists():
            continue  # the build warns of a link to nothing, and a strict one stops
        name = target.relative_to(ROOT)
        made = File.generated(config, page_of(name), content=shown(target, name))
        made.inclusion = made.inclusion.NOT_IN_NAV
        files.append(made)
    return files


def page_of(name: Path) -> str:
    return f"code/{name}.md"


def shown(target: Path, name: Path) -> str:
    """The text of the page about a file or a folder of the repository."""
    title = f"# `{name}`\n\n"
    if target.is_dir():
        return title + "".join(f"- `{path.name}{'/' * path.is_dir()}`\n" for path in sorted(target.iterdir()))
    text = target.read_text(encoding="utf-8")
    if target.suffix == ".md":
        return re.sub(r"\]\((?!\w+:)[^)]*\)", "]", text)  # its links lead from another folder
    if target.suffix == ".py":
        return title + "\n".join(sections(text))
    return title + code(text, LANGUAGES.get(target.suffix, "text"), 1)


def sections(text: str) -> Iterator[str]:
    """A module as blocks of code, each top-level definition under a heading that links can lead to."""
    lines, start = text.splitlines(), 0
    marks = [(first_line(node), name) for node in ast.parse(text).body for name in sorted(names_of(node))]
    for place, name in marks:
        yield code("\n".join(lines[start:place]), "python", start + 1)
        yield f"## {name} {{#{name}}}\n"
        start = place
    yield code("\n".join(lines[start:]), "python", start + 1)


def code(text: str, language: str, first: int) -> str:
    return f'``````{language} linenums="{first}"\n{text}\n``````\n' if text.strip() else ""


def first_line(node: ast.stmt) -> int:
    """The number of lines before a definition and its decorators."""
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))]) - 1


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links to those pages, to the line where a link names a function or a class; fill the reference."""

    def to_page(match: re.Match[str]) -> str:
        text, target = match.groups()
        file = (ROOT / "docs" / target).resolve()
        if not file.exists():
            return match[0]
        name = file.relative_to(ROOT)
        if page.file.src_uri == "reference.md" and ": " in text:
            module = ".".join(name.with_suffix("").parts[1:]).removesuffix(".__init__")
            return f"\n\n::: {module}.{text.strip('`').split(': ')[1]}\n"
        symbol = text.strip("`").partition(": ")[2].partition(".")[0]
        return f"[{text}]({page_of(name)}{'#' * bool(symbol)}{symbol})"

    text = LINK.sub(to_page, markdown)
    return re.sub(r"^- *\n\n(?=:::)", "", text, flags=re.MULTILINE) if page.file.src_uri == "reference.md" else text


def names_of(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}
