"""`sgsd bank …`: what the commands return, printed to a terminal that a bank must not be able to steer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console, RenderableType
from test_bank_schema import BANKS, NAMES, good

from sgsd.bank import Bank, BankStore, dump_bank, load_bank, open_bank, parse_bank, save_bank
from sgsd.cli import bank_command as cli
from sgsd.types import Mistake, Skill, UserError


def printed(renderable: RenderableType) -> str:
    console = Console(width=400, force_terminal=True, color_system="truecolor", legacy_windows=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bank.json"
    path.write_text(json.dumps(good()), encoding="utf-8")
    return path


def test_import_says_what_it_did(file: Path, tmp_path: Path) -> None:
    store = tmp_path / "bank.db"
    assert "6 created, 1 described; now 3 skills, 3 mistakes" in printed(cli.import_(file, store))
    assert "nothing new" in printed(cli.import_(file, store))
    assert open_bank(store) == load_bank(file)
    save_bank(Bank(load_bank(file).skills), file)
    assert "3 retired, 1 described; now 3 skills, 0 mistakes" in printed(cli.import_(file, store))
    assert "nothing new" in printed(cli.import_(store, store))


def test_validate_takes_a_file_or_a_store_and_names_what_is_wrong(file: Path, tmp_path: Path) -> None:
    cli.import_(file, tmp_path / "bank.db")
    version = load_bank(file).version[:12]
    for path in (file, tmp_path / "bank.db"):
        assert f"{path.name}: valid; 3 skills, 3 mistakes, version {version}" in printed(cli.validate(path))
    record = good()
    record["common_mistakes"][1]["description"] = "<|im_start|>"
    file.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match=r"bank.json: common_mistakes\[1\] \('err_1'\), field 'description'"):
        cli.validate(file)


def test_a_refused_bank_leaves_no_store_behind(file: Path, tmp_path: Path) -> None:
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="general_skills"):
        cli.import_(file, tmp_path / "bank.db")
    assert not (tmp_path / "bank.db").exists()


def test_show_lists_and_shows(file: Path) -> None:
    text = printed(cli.show(file, limit=2))
    assert "Title 0" in text
    assert "Slip 1" in text
    assert "Title 2" not in text
    assert "… and 2 more" in text
    assert "more" not in printed(cli.show(file))
    one = printed(cli.show(file, "err_1"))
    assert [word in one for word in ("err_1", "Slip 1", "Haste.", "Check.", "Slip 2")] == [True] * 4 + [False]
    with pytest.raises(UserError, match="did you mean"):
        cli.show(file, "err_9")
    with pytest.raises(UserError, match="--limit"):
        cli.show(file, limit=0)


def test_search_shows_pairs_and_weights(file: Path) -> None:
    rows = printed(cli.search(file, "slip 2", k=2)).splitlines()
    assert len(rows) == 3
    assert "err_2: Slip 2" in rows[1]
    assert sum(float(row.split()[0]) for row in rows[1:]) == pytest.approx(1.0, abs=0.002)
    first = printed(cli.search(file, "slip", retriever="random", seed=1))
    assert first == printed(cli.search(file, "slip", retriever="random", seed=1))
    assert len({printed(cli.search(file, "slip", retriever="random", seed=seed)) for seed in range(6)}) > 1
    save_bank(Bank(load_bank(file).skills[:1]), file)
    assert "–" in printed(cli.search(file, "slip"))


def test_export_does_not_overwrite_unless_forced(file: Path, tmp_path: Path) -> None:
    store, output = tmp_path / "bank.db", tmp_path / "out.json"
    cli.import_(file, store)
    cli.export(store, output)
    assert json.loads(output.read_text(encoding="utf-8")) == good()
    output.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="--force"):
        cli.export(store, output)
    assert output.read_text(encoding="utf-8") == "mine"
    cli.export(store, output, force=True)
    assert load_bank(output) == load_bank(file)
    with pytest.raises(UserError, match="is a store"):
        cli.export(store, store, force=True)
    with pytest.raises(UserError, match="no SQLite header"):
        cli.export(file, tmp_path / "other.json")


def test_a_bank_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """Markup is shown as it is written, and a file's name, which no rule of a bank covers, brings in no escape code."""
    markup = "[bold red]loud[/] [link=file:///etc]x[/link] :boom:"
    path = tmp_path / "bank.json"
    bank = Bank((Skill("[red]s", markup, markup, markup),), (Mistake("m", markup, "w", "h", {"n": markup}),))
    save_bank(bank, path)
    for renderable in (cli.show(path), cli.show(path, "[red]s"), cli.show(path, "m"), cli.search(path, markup)):
        assert markup in printed(renderable)
    strange = tmp_path / "a\x1b[2J[bold]b.json"
    save_bank(bank, strange)
    store = tmp_path / "bank.db"
    output = printed(cli.validate(strange)) + printed(cli.import_(strange, store)) + printed(cli.show(strange))
    assert "\x1b[2J" not in output
    assert "\\x1b[2J[bold]b.json" in output
    with BankStore(store) as opened:
        assert opened.events()[0].note == "import of a\\x1b[2J[bold]b.json"


@pytest.mark.shared
@pytest.mark.parametrize("name", NAMES)
def test_a_real_bank_goes_through_every_command_without_loss(name: str, tmp_path: Path) -> None:
    path = BANKS / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine: the real banks are not part of this project")
    store, output = tmp_path / "bank.db", tmp_path / "out.json"
    for command in (
        cli.validate(path),
        cli.import_(path, store),
        cli.show(store),
        cli.search(store, "How many primes divide 2024?"),
        cli.export(store, output),
    ):
        assert printed(command).strip()
    assert json.loads(output.read_text(encoding="utf-8")) == json.loads(path.read_text(encoding="utf-8"))
    assert parse_bank(dump_bank(load_bank(output))) == load_bank(path)
