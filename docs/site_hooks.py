"""Hooks of the site (mkdocs.yml): files outside docs/ that a page links become pages, and the reference its docstrings."""

from __future__ import annotations

import ast
import re
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
    return f'{title}``````{LANGUAGES.get(target.suffix, "text")} linenums="1"\n{text}\n``````\n'


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
        line = line_of(file, text.strip("`").partition(": ")[2])
        return f"[{text}]({page_of(name)}{line})"

    text = LINK.sub(to_page, markdown)
    return re.sub(r"^- *\n\n(?=:::)", "", text, flags=re.MULTILINE) if page.file.src_uri == "reference.md" else text


def line_of(file: Path, symbol: str) -> str:
    """The anchor of the line where a module defines a name; nothing where no name is given."""
    if not symbol or file.suffix != ".py":
        return ""
    body: list[ast.stmt] = ast.parse(file.read_text(encoding="utf-8")).body
    line = 0
    for part in symbol.split("."):
        found = next((node for node in body if part in names_of(node)), None)
        if found is None:
            return f"#{symbol}"  # the build warns of an anchor to nothing
        line, body = found.lineno, getattr(found, "body", [])
    return f"#__line-0-{line}"


def names_of(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}
