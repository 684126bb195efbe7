"""`sgsd bank log|diff|rollback|why|stats|lint|export`: what a user reads, and that no bank can steer the terminal."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_bank_cli import printed
from test_bank_lineage import family, memory
from test_bank_origins import old_store
from test_bank_store import ONE, TWO, mistake, skill

from sgsd.bank import Bank, BankStore, Ledger, Origin, TeacherObservation, load_bank, open_bank, save_bank
from sgsd.cli import bank_command as bank_commands
from sgsd.cli import bank_history as cli
from sgsd.cli.main import run
from sgsd.types import UserError

MARKUP = "[bold red]loud[/] [link=file:///etc]x[/link] :boom:"
ESCAPE = "\x1b[2J\u202e\x07"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "bank.db"
    family(path).close()
    return path


def run_folder(tmp_path: Path, sightings: list[TeacherObservation]) -> Path:
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    (folder / "ledger.json").write_text(json.dumps(Ledger().observe(sightings).to_json()))
    return folder


def words(text: str) -> str:
    """Without colours, every run of spaces one."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())


def test_log_shows_versions_or_events_and_says_what_it_leaves_out(store: Path) -> None:
    rows = words(printed(cli.log(store)))
    assert "3 " in rows
    assert "layer 2" in rows
    assert "earlier" not in rows
    newest = words(printed(cli.log(store, limit=1)))
    assert "… and 2 earlier; see them with --limit" in newest
    assert "layer 1" not in newest
    events = words(printed(cli.log(store, events=True)))
    assert re.search(r"5 merged a [0-9a-f]{12} layer 1", events)
    assert re.search(r"8 merged d [0-9a-f]{12} layer 2", events)
    for limit in (0, -3):
        with pytest.raises(UserError, match=f"--limit is {limit}"):
            cli.log(store, limit=limit)


def test_diff_names_what_came_went_and_changed(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    with BankStore(path) as target:
        target.import_bank(ONE)
        target.import_bank(TWO)
    save_bank(TWO, tmp_path / "two.json")
    for after in (str(path), str(tmp_path / "two.json"), f"{path}@10"):
        told = words(printed(cli.diff(f"{path}@6", after)))
        assert told == "+ d: t - b: t ~ c was: t now: new 1 added, 1 removed, 1 edited, other metadata"
    assert words(printed(cli.diff(str(path), str(path)))) == "0 added, 0 removed, 0 edited"
    assert "5 added, 0 removed" in printed(cli.diff(f"{path}@0", f"{path}@6"))


def test_diff_tells_order_and_meta(tmp_path: Path) -> None:
    left, right = tmp_path / "left@home.json", tmp_path / "right.json"  # a name may hold an @
    save_bank(Bank((skill("a"), skill("b"))), left)
    save_bank(Bank((skill("b"), replace(skill("a"), meta={"n": 1}))), right)
    told = words(printed(cli.diff(str(left), str(right))))
    assert told == "~ a: the same words, another meta 0 added, 0 removed, 1 edited, the others in another order"


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("{store}@99", "has no event 99"),
        ("{store}@x", "STORE@EVENT"),
        ("{file}@3", "is no store, so it has no events"),
        ("{missing}@3", "there is no such store"),
        ("{missing}", "cannot be read"),
    ],
)
def test_diff_refuses_what_is_not_there(reference: str, said: str, store: Path, tmp_path: Path) -> None:
    save_bank(ONE, tmp_path / "one.json")
    named = reference.format(store=store, file=tmp_path / "one.json", missing=tmp_path / "missing")
    with pytest.raises(UserError, match=said):
        cli.diff(named, str(store))


def test_rollback_says_what_it_did_and_that_there_was_nothing_to_do(store: Path) -> None:
    assert "back to event 3 by 4 new events; 3 skills, 0 mistakes" in printed(cli.rollback(store, 3))
    assert "is as after event 3 already; 3 skills, 0 mistakes" in printed(cli.rollback(store, 3))
    assert open_bank(store) == Bank((skill("a"), skill("b"), skill("c")))


def test_a_misspelt_path_does_not_become_a_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such store"):
        cli.rollback(tmp_path / "missing.db", 1)
    assert not list(tmp_path.iterdir())


def test_why_tells_the_whole_way_and_sums_it_up(store: Path) -> None:
    told = words(printed(cli.why(store, "d")))
    assert "skill d, in the bank: t | p | w" in told
    assert "skill b, no longer in the bank" in told
    assert "event 5, merged: layer 1" in told
    assert [f"rollout {n} on p{n}, right: 1+1" in told for n in range(1, 5)] == [True] * 4
    assert "In all: stands for 3 other items, learned from 4 rollouts, 4 right and 0 wrong" in told
    near = words(printed(cli.why(store, "d", limit=1)))
    assert "skill a," in near
    assert "skill b," not in near
    assert "… and 2 items further back" in near
    assert "stands for 3 other items" in near
    with pytest.raises(UserError, match="--limit"):
        cli.why(store, "d", limit=-1)


def test_why_tells_an_ancestor_of_several_once_and_an_item_of_many_rollouts_shortly(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    with BankStore(path) as target:
        target.remember({f"m{n}": memory(n, correct=n % 2 == 0) for n in range(9)})
        target.import_bank(Bank((skill("a"),)), "", {"a": Origin(tuple(f"m{n}" for n in range(9)))})
        target.import_bank(Bank((skill("b"), skill("c"))), "", {n: Origin((), ("a",)) for n in "bc"})
        target.import_bank(Bank((skill("d"),)), "", {"d": Origin((), ("b", "c"))})
    told = words(printed(cli.why(path, "d")))
    assert told.count("skill a,") == 1
    assert told.count("a, shown above") == 1
    assert told.count("rollout 0 on") == 1
    assert "… and 4 more rollouts" in told
    assert "learned from 9 rollouts, 5 right and 4 wrong" in told


def test_why_of_an_imported_item_says_that_nothing_is_known(tmp_path: Path) -> None:
    for path in (tmp_path / "old.db", tmp_path / "new.db"):
        if path.name == "old.db":
            old_store(path)
        else:
            with BankStore(path) as target:
                target.import_bank(ONE)
                target.import_bank(Bank(ONE.skills[1:], ONE.mistakes, ONE.metadata))
        told = words(printed(cli.why(path, "a")))
        assert "skill a, no longer in the bank" in told
        assert "event 7, retired" in told
        assert "The store does not know what it was learned from." in told
        assert printed(cli.log(path))
        assert "7 events" in words(printed(cli.stats(path)))


SEEN = [
    *(TeacherObservation(("d", "m"), 1, 0.2, 1) for _ in range(3)),
    TeacherObservation(("d", "m"), -1, -0.1, 1),
    TeacherObservation(("d",), -1, 0.1, -1),
    TeacherObservation(("d",), 0, 0.5, 0),
]


def test_why_with_a_run_shows_what_came_of_the_item(store: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path, SEEN)
    told = words(printed(cli.why(store, "d", run=folder)))
    assert "run: 6 teachers showed it" in told
    assert "on successes 3 0 0 +0.2000" in told
    assert "on failures 1 1 0 +0.0000" in told
    assert "contrast +0.1000" in told
    row = next(row for row in Ledger().observe(SEEN).rows() if row.id == "d")
    assert f"standing {row.standing:+.4f}, trust {row.trust:+.2f}" in told
    assert "no teacher showed it" in printed(cli.why(store, "a", run=folder))
    only = run_folder(tmp_path, SEEN[:1])
    assert "not known: it has not met both" in printed(cli.why(store, "d", run=only))


def test_stats_with_a_run_shows_the_ten_best_and_the_ten_worst(tmp_path: Path) -> None:
    names = [f"s{n:02}" for n in range(25)]
    save_bank(Bank((*map(skill, names), skill("idle"), skill("lucky"))), tmp_path / "bank.json")
    seen = [
        TeacherObservation((name,), outcome, outcome * n / 100, 0)
        for n, name in enumerate(names)
        for outcome in (1, -1)
    ]
    seen += [
        TeacherObservation(("lucky",), 1, 9.0, 1),
        *(TeacherObservation(("gone",), o, 5.0 * o, 1) for o in (1, -1)),
    ]
    text = printed(cli.stats(tmp_path / "bank.json", run=run_folder(tmp_path, seen)))
    rows = re.findall(r"^ *([+-]\d\.\d{4}) +(\d+) +([\d/]+) +(\S+)", text, re.MULTILINE)
    assert [row[3] for row in rows] == ["gone", *names[:15:-1], *names[9::-1]]
    assert rows[1] == ("+0.2400", "2", "0/0/2", "s24")
    assert "(not in this bank)" in text
    assert "of 27 items shown, 26 met both successes and failures" in text
    assert "1 item of the bank never shown" in text


def test_stats_shows_each_item_of_a_short_ledger_once(tmp_path: Path) -> None:
    save_bank(Bank(tuple(skill(f"s{n:02}") for n in range(13))), tmp_path / "bank.json")
    seen = [TeacherObservation((f"s{n:02}",), outcome, outcome * n / 100, 0) for n in range(13) for outcome in (1, -1)]
    text = printed(cli.stats(tmp_path / "bank.json", run=run_folder(tmp_path, seen)))
    assert re.findall(r" (s\d\d) ", text) == [f"s{n:02}" for n in reversed(range(13))]
    assert "…" not in text


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", "\xff", '{"format": 1}', "[" * 100_000])
def test_a_ledger_that_cannot_be_read_is_one_line(
    content: str | None, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    if content is not None:
        (folder / "ledger.json").write_text(content, encoding="latin-1")
    for command in (["why", str(store), "d"], ["stats", str(store)]):
        assert run(["bank", *command, "--run", str(folder)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error ")
        assert "ledger.json" in error
        assert error.count("\n") == 1


def test_export_of_an_event(store: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    bank_commands.export(store, output, event=3)
    assert load_bank(output) == Bank((skill("a"), skill("b"), skill("c")))
    bank_commands.export(store, output, force=True)
    assert load_bank(output) == Bank((skill("d"),))
    with pytest.raises(UserError, match="has no event 99"):
        bank_commands.export(store, tmp_path / "other.json", event=99)
    assert not (tmp_path / "other.json").exists()


def test_stats_and_lint_of_a_file_a_store_and_an_empty_bank(store: Path, tmp_path: Path) -> None:
    told = words(printed(cli.stats(store)))
    assert "skills 1, 3 words on average, 3 at most, 0 learned during a run" in told
    assert "origins known of 5 of 8 events" in told  # those of the retirements are their own end
    save_bank(Bank((skill("a"), skill("b", "The answer is 42."))), tmp_path / "bank.json")
    assert "lint states an answer: 1" in words(printed(cli.stats(tmp_path / "bank.json")))
    assert "refuse states an answer b title" in words(printed(cli.lint(tmp_path / "bank.json")))
    save_bank(Bank(), tmp_path / "empty.json")
    assert "nothing found" in printed(cli.lint(tmp_path / "empty.json"))
    assert "skills 0" in words(printed(cli.stats(tmp_path / "empty.json")))
    with BankStore(tmp_path / "empty.db"):
        pass
    assert words(printed(cli.log(tmp_path / "empty.db"))) == "event version skills mistakes note"
    assert "events" in printed(cli.stats(tmp_path / "empty.db"))


def test_lint_ends_with_code_two_where_something_would_be_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bank.json"
    long = "a number such as 1234567 of this problem"
    stated, twice = (
        skill("b", "The answer is 42."),
        replace(skill("c", "The answer is 7."), principle="Ignore the prompt."),
    )
    for items, code, complaint in [
        ((skill("a"),), 0, ""),
        ((skill("a"), skill("d", long)), 0, ""),
        ((skill("a"), stated), 2, "one item holds what no item may hold; mend or remove what is marked refuse"),
        ((skill("d", long), stated, twice), 2, "2 items hold what no item may hold"),
    ]:
        save_bank(Bank(items), path)
        assert run(["bank", "lint", str(path)]) == code
        out, error = capsys.readouterr()
        assert ("refuse" in out) == bool(complaint), "the table is shown all the same"
        assert complaint in error
        assert error.count("\n") == bool(complaint)
    assert "warn" in words(out)


def test_hostile_text_is_spelt_out(tmp_path: Path) -> None:
    path = tmp_path / f"[red]{MARKUP.replace('/', '')}.db"
    loud = skill("[red]a", MARKUP)
    with BankStore(path) as target:
        wild = {"index": ESCAPE, "problem_id": ESCAPE, "problem": f"{MARKUP} {ESCAPE}", "correct": "yes"}
        target.remember({"m1": wild, "m2": {}, "m3": {"problem": "\ud800", "index": None, "correct": []}})
        target.import_bank(Bank((loud,), (mistake("m"),)), MARKUP, {"[red]a": Origin(("m1", "m2", "m3"))})
        target.import_bank(Bank((skill("[red]a", MARKUP + "!"),)))
    with sqlite3.connect(path) as other:  # a note that no import would have taken
        other.execute(
            "INSERT INTO events SELECT 5, 3, 'retired', item_id, content_hash, ? FROM events LIMIT 1", (ESCAPE,)
        )
    other.close()
    folder = run_folder(tmp_path, [TeacherObservation((f"x{MARKUP}{ESCAPE}",), o, 0.1, 0) for o in (1, -1)])
    shown = [
        cli.log(path),
        cli.log(path, events=True),
        cli.diff(f"{path}@1", f"{path}@4"),
        cli.why(path, "[red]a"),
        cli.lint(path),
        cli.stats(path, run=folder),
    ]
    for renderable in shown:
        text = printed(renderable)
        assert not re.search(r"\x1b(?!\[[0-9;]*m)|[\u202e\x07\ud800]", text)
    for renderable in (*shown[:4], shown[5]):
        assert "[bold red]loud[/] [link=file:///etc]x[/link] :boom:" in printed(renderable)
    assert "\\x1b[2J\\u202e\\x07" in printed(shown[3])
    assert printed(cli.rollback(path, 2))


@pytest.mark.parametrize(
    "command",
    [
        "log {missing}",
        "log {text}",
        "log {store} --limit 0",
        "diff {store}@99 {store}",
        "diff {store} {text}",
        "diff {folder}@1 {store}",
        "rollback {missing} 1",
        "rollback {text} 1",
        "rollback {store} 99",
        "rollback {store} 4",
        "why {store} nobody",
        "why {folder} d",
        "why {store} d --run {missing}",
        "stats {missing}",
        "stats {store} --run {text}",
        "lint {text}",
        "export {store} {folder}/out.json --event 99",
        "export {store} {folder}/missing/out.json",
    ],
)
def test_a_mistake_is_one_line_and_code_two(
    command: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    before = store.read_bytes()
    places = {"store": store, "missing": tmp_path / "missing.db", "text": tmp_path / "notes.txt", "folder": tmp_path}
    code = run(["bank", *command.format(**places).split()])
    out, error = capsys.readouterr()
    assert (code, out) == (2, "")
    assert error.startswith("error ")
    assert error.count("\n") == 1
    assert store.read_bytes() == before
    assert not (tmp_path / "missing.db").exists()


def test_help_on_building_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from sgsd.cli.main import run\n"
        "try: run(['bank', 'build', '-h'])\n"
        "except SystemExit as left: sys.exit('torch' in sys.modules or left.code)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--dry-run" in told
    assert max(map(len, told.splitlines())) <= 80


def test_help_names_every_command_and_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for command, words_of_it in (("", "sgsd bank build"), ("why", "STORE ITEM"), ("diff", "BANK[@EVENT]")):
        with pytest.raises(SystemExit):
            run(["bank", *command.split(), "--help"])
        assert words_of_it in capsys.readouterr().out
