"""`sgsd init` and `sgsd configs`: a beginning with files of one's own, and the configurations that come with sgsd."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Literal

from rich.console import Console
from tyro.conf import Positional

import sgsd
from sgsd.cli.arguments import FileOrNone, Folder, NameOrNone, call
from sgsd.files import write_atomic
from sgsd.lookup import nearest
from sgsd.types import Problem, UserError

#: What a config names for each kind of verifier, and the file of one's own that goes with it.
VERIFIERS: Mapping[str, tuple[str, str | None]] = {
    "function": ("verifier.py:right", "verifier.py"),
    "math": ("math", None),
}
FILES = ("config.yaml", "bank.json", "README.md", *(f"prompts/{n}.txt" for n in ("student", "teacher", "skill_pair")))
TAUGHT = ("carry", "square", "bracket")  # the families of the lab's problems that the three pairs are about
TRAINING, HELD_OUT = 510, 192  # problems


def init(args: list[str], console: Console) -> None:
    """Write a folder that trains as it is."""

    def options(folder: Folder, verifier: Literal["function", "math"] = "function") -> None:
        """Begin with your own problems, verifier, bank and prompts: a folder that trains as it is.

        Args:
            folder: A new folder.
            verifier: A function of your own in verifier.py, or the bundled grader of mathematical answers.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder}: is there already; choose a new folder")
        for name, text in starter(verifier).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / name, text)
        console.print(f"Wrote {folder}. Next: cd {folder} && sgsd train config.yaml", markup=False, soft_wrap=True)

    call(options, "sgsd init", args)


def starter(verifier: str) -> dict[str, str]:
    """The files of a new folder by name."""
    spec, own = VERIFIERS[verifier]
    names = [*FILES, own] if own else FILES
    texts = {name: (files("sgsd.cli") / "starter" / name).read_text(encoding="utf-8") for name in names}
    texts["config.yaml"] = texts["config.yaml"].replace("{{ verifier }}", spec)
    for name, problems in starter_problems().items():
        rows = ({"problem": problem.text, "answer": problem.gold} for problem in problems)
        texts[name] = "".join(f"{json.dumps(row)}\n" for row in rows)
    return texts


def starter_problems() -> dict[str, list[Problem]]:
    """Problems of the lab that the three pairs are about, by the file that holds them."""
    from sgsd.lab.task import enumerate_problems

    def some(count: int, *, held_out: bool) -> list[Problem]:
        families = [enumerate_problems(name, held_out)[: count // len(TAUGHT)] for name in TAUGHT]
        return [problem.to_problem() for turn in zip(*families, strict=True) for problem in turn]

    return {"train.jsonl": some(TRAINING, held_out=False), "held_out.jsonl": some(HELD_OUT, held_out=True)}


# ── The configurations that come with sgsd ─────────────────────────────────────────────────────────────────────────


def configs(args: list[str], console: Console) -> None:
    """List them, or write one to a file."""

    def options(name: Positional[NameOrNone] = None, output: FileOrNone = None) -> None:
        """The published configurations: list them, show one, or write it to a file to be changed.

        Args:
            name: Which, for instance zoo/dasd; nothing: they are listed.
            output: A new file; nothing: it is shown.
        """
        known = shipped()
        if name is None:
            console.print("\n".join(known), markup=False, highlight=False)
            return
        if name not in known:
            raise UserError(f"configs: there is no {name!r}; {nearest(name, list(known))}")
        text = known[name].read_text(encoding="utf-8")
        if output is None:
            console.print(text, markup=False, highlight=False, soft_wrap=True, end="")
            return
        if output.exists():
            raise UserError(f"{output}: the file exists; choose another")
        write_atomic(output, text)
        console.print(f"Wrote {output}", markup=False, soft_wrap=True)

    call(options, "sgsd configs", args)


def shipped() -> dict[str, Path]:
    """The configurations by name: in the package, or beside its sources where it runs from these."""
    package = Path(sgsd.__file__).parent
    root = next(root for root in (package / "configs", package.parents[1] / "configs") if root.is_dir())
    return {str(path.relative_to(root).with_suffix("")): path for path in sorted(root.rglob("*.yaml"))}
