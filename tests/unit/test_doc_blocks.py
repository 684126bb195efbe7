"""Every Python block of README.md and docs/*.md runs; shell blocks parse, and what they call exists with its flags.

A block that cannot run here stands under `<!-- not run: REASON -->`, and one that shows lines of the package under
`<!-- quoted from: PATH -->`: those lines must stand in that file. A Python block whose first line is `# NAME.py` is a
file of that name, which later blocks of its page may import. In YAML every key must be one of the configuration's.
"""

from __future__ import annotations

import io
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from runs import SMALL, merged, run_small
from sgsd.bank import save_bank
from sgsd.cli.main import COMMANDS
from sgsd.cli.overrides import read_flags
from sgsd.cli.plan_command import ASSUMED
from sgsd.config.loading import load_config
from sgsd.config.schema import keys, parts
from sgsd.lab.demo_bank import demo_bank
from sgsd.lab.tiny_policy import POLICY_FOLDER
from sgsd.records.run_files import Records
from sgsd.types import UserError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- (not run|quoted from): (.+?) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = ("bash", "sh", "console")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    mark: str  # "not run", "quoted from" or nothing
    reason: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def blocks(*languages: str) -> tuple[Block, ...]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            mark, reason, language, body = match.groups(default="")
            if language in languages:
                line = text.count("\n", 0, match.start(4)) + 1
                found.append(Block(page, line, language, body, mark, reason))
    return tuple(found)


# ── Python ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with small stand-ins for what the pages name: a model, problems, a bank, prompts and configs."""
    for folder in ("configs", "src/sgsd/lab", "path/to"):
        (tmp_path / folder).mkdir(parents=True)
    demo = (ROOT / "src/sgsd/lab/demo.yaml").read_text(encoding="utf-8")  # two threads wait for each other among tests
    (tmp_path / "src/sgsd/lab/demo.yaml").write_text(demo.replace("threads: 2", "threads: 1"), encoding="utf-8")
    (tmp_path / "path/to/my-model").symlink_to(POLICY_FOLDER)
    shutil.copytree(ROOT / "src/sgsd/prompts/lab", tmp_path / "my_prompts")
    save_bank(demo_bank(0), tmp_path / "bank.json")
    rows = [f'{{"problem": "Sum: {n}+{n + 1}", "answer": "{2 * n + 1}"}}\n' for n in range(10, 50)]
    for name in ("problems.jsonl", "train.jsonl"):
        (tmp_path / name).write_text("".join(rows), encoding="utf-8")
    small = merged(SMALL, {"steps": 1, "rollouts": 4, "output": str(tmp_path / "runs/small")})
    for config in (ROOT / "configs").glob("*.yaml"):
        (tmp_path / "configs" / config.name).write_text(yaml.safe_dump(small), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if (tmp_path / f"{name}.py").exists():
            del sys.modules[name]


def run_page(page: Path, folder: Path) -> list[dict[str, Any]]:
    """Run the blocks of a page in their order; returns their globals."""
    found = []
    for number, block in enumerate(block for block in blocks("python") if block.page == page):
        if block.mark:
            continue
        named = re.match(r"# (\w+\.py)\n", block.text)
        file = folder / (named[1] if named else f"block_{number}.py")
        file.write_text(block.text, encoding="utf-8")
        found.append(runpy.run_path(str(file)))
    return found


@pytest.mark.parametrize("page", sorted({block.page for block in blocks("python")}), ids=lambda page: page.name)
def test_python_blocks_run(page: Path, workplace: Path) -> None:
    run_page(page, workplace)


@pytest.mark.parametrize("block", [block for block in blocks("python") if block.mark], ids=str)
def test_python_blocks_that_do_not_run(block: Block) -> None:
    compile(block.text, str(block), "exec")
    if block.mark == "quoted from":
        lines = [line.strip() for line in (ROOT / block.reason).read_text(encoding="utf-8").splitlines()]
        missing = [line for line in block.text.splitlines() if line.strip() and line.strip() not in lines]
        assert not missing, f"{block}: {block.reason} no longer has {missing}"


def test_the_context_and_the_objective_of_the_overview_train_together(workplace: Path) -> None:
    run_page(ROOT / "docs" / "overview.md", workplace)
    method = {"name": "my_objectives:imitate", "context": "my_contexts:WorkBackwards"}
    folder = run_small(workplace / "run", steps=2, method=method)
    metrics = Records(folder).read("metrics")
    assert len(metrics) == 2
    assert any(record["grad_norm"] > 0 for record in metrics)


# ── YAML ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("block", [block for block in blocks("yaml") if not block.mark], ids=str)
def test_yaml_blocks_have_known_keys(block: Block) -> None:
    unknown = [key for key in dotted(yaml.safe_load(block.text)) if not is_key(key)]
    assert not unknown, f"{block}: no such key: {', '.join(unknown)}"


def dotted(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in mapping.items():
        yield prefix + key
        if isinstance(value, Mapping) and f"{prefix}{key}" in parts():
            yield from dotted(value, f"{prefix}{key}.")


def is_key(key: str) -> bool:
    """Options of methods and of verifiers are checked where they are built."""
    return key in keys() or key in parts() or key.startswith(("method.", "guards."))


# ── Shell ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("block", blocks(*SHELL), ids=str)
def test_shell_blocks_parse(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block}: {done.stderr}"


@dataclass(frozen=True)
class Command:
    block: Block
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.block}-{' '.join(self.words)[:60]}"


def commands() -> list[Command]:
    """The commands of all shell blocks and of inline code that begins with `sgsd`, without comments and variables."""
    found = []
    for block in blocks(*SHELL):
        text = block.text.replace("\\\n", " ")
        for line in text.splitlines():
            for part in re.split(r"\s(?:&&|\|\|)\s", line):
                bare = re.sub(r"(^|\s)#\s.*", "", part)
                words = shlex.split(bare, comments=True) if bare.count("'") % 2 == 0 else bare.split()
                while words and re.match(r"[A-Z_]+=", words[0]):
                    words = words[1:]
                if words:
                    found.append(Command(block, tuple(words)))
    return found


def sgsd_words(words: tuple[str, ...]) -> tuple[str, ...] | None:
    """The words behind `sgsd`, however it is started; none for another program."""
    if words[0] == "sgsd":
        return words[1:]
    for module in ("sgsd", "sgsd.cli"):
        if words[0] in ("accelerate", "python", "exec") and ("-m", module) in pairwise(words):
            return words[words.index(module) + 1 :]
    return None


CALLS = [(command, words) for command in commands() if (words := sgsd_words(command.words)) is not None]
INLINE = sorted(
    {
        (page, match[1])
        for page in PAGES
        if page.name != "LOG.md"
        for match in re.finditer(r"`sgsd ([^`…]+)`", page.read_text(encoding="utf-8").replace("\n", " "))
    }
)
# Commands whose config comes first, and how many words each of their own flags takes.
CONFIG_FIRST: dict[str, dict[str, int]] = {
    "train": {"--resume": 0, "--print-config": 0, "--dry-run": 0, "--sample": 1},
    "preview": {},
    "probe": {"--rollouts": 1, "--json": 1},
    "plan": dict.fromkeys(("--steps", "--memory", *ASSUMED), 1),
    "migrate": {"--write": 0},
    "bank build": {"--dry-run": 0},
}


@cache
def helped(command: str) -> str:
    """The help of a command, as the command line prints it."""
    from contextlib import redirect_stdout

    from sgsd.cli import main

    shown = io.StringIO()
    with redirect_stdout(shown), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        patch.setattr(main, "Console", lambda **_: Console(file=shown, width=200))
        try:
            code = main.run([*command.split(), "--help"])
        except SystemExit as leaving:  # tyro leaves by itself
            code = int(leaving.code or 0)
    assert code == 0, command
    return shown.getvalue()


def wrong_with(words: tuple[str, ...]) -> str | None:
    """What the command line would refuse, but for files that do not exist here."""
    if not words or words[0] in ("--help", "--version"):
        return None
    if words[0] not in COMMANDS:
        return f"there is no command {words[0]}"
    name, rest = words[0], list(words[1:])
    if name in ("bank", "lab") and rest:
        name, rest = f"{name} {rest[0]}", rest[1:]
        if name != "bank build" and f"• {name.split()[1]} " not in helped(name.split()[0]):
            return f"there is no command {name}"
    flags = [word.partition("=")[0] for word in rest if word.startswith("--")]
    if name not in CONFIG_FIRST:
        return next(
            (f"{name} has no {flag}" for flag in flags if flag not in re.findall(r"--[\w-]+", helped(name))), None
        )
    if {"--help", "-h"} & set(rest):
        return None
    own = CONFIG_FIRST[name]
    left: list[str] = []
    place = 0 if rest and rest[0].startswith("--") else 1  # the config comes first
    while place < len(rest):
        flag = rest[place].partition("=")[0]
        if flag in own:
            place += 1 + (own[flag] if "=" not in rest[place] else 0)
            continue
        left.append(rest[place])
        place += 1
    try:
        values = read_flags(left)
        if rest and (ROOT / rest[0]).is_file() and name != "migrate":
            load_config(ROOT / rest[0], {"bank.path": "lab", **values})  # also what does not go together
    except UserError as error:
        return str(error)
    return next((f"there is no key {key}" for key in values if not is_key(key)), None)


@pytest.mark.parametrize(("command", "words"), CALLS, ids=map(str, (command for command, _ in CALLS)))
def test_commands_of_shell_blocks_exist(command: Command, words: tuple[str, ...]) -> None:
    found = wrong_with(words)
    assert found is None, f"{command.block}: {found}"
    for word in words:
        if word.startswith(("configs/", "src/")) and not command.block.mark:
            assert (ROOT / word).exists(), f"{command.block}: {word} does not exist"


@pytest.mark.parametrize(("page", "text"), INLINE, ids=lambda value: getattr(value, "name", value))
def test_commands_in_the_text_exist(page: Path, text: str) -> None:
    words = re.sub(r"[\[\]]", " ", text).split()  # [--dry-run] is a flag that may be left out
    found = wrong_with(tuple(word for word in words if word not in ("…", "|")))
    assert found is None, f"{page.name}: `sgsd {text}`: {found}"


OTHER = [command for command in commands() if sgsd_words(command.words) is None]


@pytest.mark.parametrize("command", OTHER, ids=str)
def test_scripts_and_targets_of_shell_blocks_exist(command: Command) -> None:
    words = command.words
    if words[0] == "make" and len(words) > 1:
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), words
    if words[0] != "python":
        return
    script = next((word for word in words[1:] if word.endswith(".py") or word.startswith("tests/")), None)
    if script is None:
        return
    assert (ROOT / script).exists(), f"{command.block}: {script} does not exist"
    if "pytest" not in words:
        known = (ROOT / script).read_text(encoding="utf-8")
        unknown = [word for word in words if word.startswith("--") and f'"{word}"' not in known]
        assert not unknown, f"{command.block}: {script} has no {', '.join(unknown)}"


#: What can be run in a moment, with a bank, a config or a finished run in the place of what a page names.
CHEAP = {
    "bank validate BANK": ["bank", "validate", "bank.json"],
    "bank search": ["bank", "search", "bank.json", "How many zeros end 100!?"],
    "bank lint": ["bank", "stats", "bank.json"],
    "train --print-config": ["train", "src/sgsd/lab/demo.yaml", "--optimizer.lr", "1e-5", "--print-config"],
    "lab config": ["lab", "config", "dasd"],
    "migrate": ["migrate", "src/sgsd/lab/demo.yaml"],
}


@pytest.mark.parametrize("name", CHEAP)
def test_cheap_commands_run(name: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sgsd.cli.main import run

    assert run(CHEAP[name]) == 0
    assert capsys.readouterr().out.strip()


def test_every_block_has_a_language() -> None:
    """Output and layouts are `text`, so that a command never escapes its check."""
    bare = [str(block) for block in blocks("") if block.page.name != "LOG.md"]
    assert not bare, f"blocks without a language: {', '.join(bare)}"
