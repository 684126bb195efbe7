"""Folders that an older version left behind are gone on with, opened and told of as that version would have done.

What is in them and how they were made says tests/fixtures/v247fda0/make.py. All goes through the command line.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from old_runs import FIXTURES, STORES, adapter, last_checkpoint, machine, page_facts, sgsd, unpack, weights_hashes
from sgsd.records.glossary import METRIC_FILES, with_current_keys

FIGURES = json.loads((FIXTURES / "figures.json").read_text(encoding="utf-8"))
TO_THE_BIT = machine() == FIGURES["machine"]
RECORDS = ("metrics", "evaluations", "rollouts", "sightings", "memories", "bank")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished runs as they were left; not to be changed."""
    return unpack("finished", tmp_path_factory.mktemp("recorded"))


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(unpack("finished", tmp_path))
    return tmp_path


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(unpack("stopped", tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # no table is cut


def lines(run: Path, name: str) -> list[dict[str, Any]]:
    path = run / f"{name}.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from leaves(part)
    else:
        yield value


# ── Gone on with ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kept", ["rollouts", "step"])
@pytest.mark.parametrize("name", ["sgsd", "injected"])
def test_an_old_run_goes_on_as_if_it_had_never_been_stopped(
    name: str, kept: str, stopped: Path, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the rollouts that the stop has left of the next step, and from the last whole step."""
    if name == "sgsd":
        pytest.importorskip("openai", reason="its writer is a server, whose client is an extra")
    run, whole = Path("runs", name), recorded / "runs" / name
    pending = last_checkpoint(run)
    assert pending.name.endswith("-pending")
    if kept == "step":
        shutil.rmtree(pending)
    given = f"{name}.yaml" if kept == "step" else str(run / "config.yaml")
    sgsd("train", given, "--resume")
    said = " ".join(capsys.readouterr().out.split())
    first = {"sgsd": 4, "injected": 2}[name]
    assert f"Resuming after step {first}" in said
    assert (f"with the rollouts of step {first + 1}" in said) == (kept == "rollouts")
    assert_same_run(run, whole, first)


def assert_same_run(run: Path, whole: Path, first: int) -> None:
    """Whatever the old records say, the new ones say too; they may say more."""
    for name in RECORDS:
        found, expected = lines(run, name), lines(whole, name)
        if name in METRIC_FILES:  # lines from before the stop keep the old keys, later ones have today's
            found, expected = ([with_current_keys(line) for line in read] for read in (found, expected))
        assert [line["step"] for line in found] == [line["step"] for line in expected], name
        for line, old in zip(found, expected, strict=True):
            same = {key: line[key] for key in old}
            if TO_THE_BIT or line["step"] <= first:
                assert same == old, name
            elif name == "metrics":
                # Another processor rounds differently, and a count in bins may jump at an edge.
                for key in (key for key, value in old.items() if not isinstance(value, list)):
                    assert list(leaves(line[key])) == pytest.approx(list(leaves(old[key])), rel=1e-5, abs=1e-5), key
    if TO_THE_BIT:
        assert weights_hashes(run) == FIGURES["runs"][whole.name]
    else:
        old, new = adapter(whole), adapter(run)
        assert new.keys() == old.keys()
        assert all(torch.allclose(new[key], old[key], rtol=1e-5, atol=1e-5) for key in old)


@pytest.mark.parametrize("name", ["sgsd", "injected"])
def test_a_finished_run_keeps_its_result(name: str, finished: Path, recorded: Path) -> None:
    run, whole = Path("runs", name), recorded / "runs" / name
    sgsd("train", str(run / "config.yaml"), "--resume")
    was, now = (json.loads((folder / "summary.json").read_text()) for folder in (whole, run))
    for key in ("before", "after", "steps", "rollouts", "problems", "method", "model_sha256", "bank_version"):
        assert now[key] == was[key], key
    assert weights_hashes(run) == FIGURES["runs"][name]
    for record in RECORDS:
        found, expected = lines(run, record), lines(whole, record)
        if record in METRIC_FILES:  # the last evaluation is made again, and has today's keys
            found, expected = ([with_current_keys(line) for line in read] for read in (found, expected))
        assert found == expected


# ── Told of ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["sgsd", "injected"])
def test_the_report_of_an_old_run_says_what_it_said(name: str, finished: Path) -> None:
    sgsd("report", f"runs/{name}")
    found, told = page_facts(Path("runs", name, "report.html")), FIGURES["pages"][name]
    assert found["headline"] == told["headline"]
    assert not Counter(told["numbers"]) - Counter(found["numbers"])


@pytest.mark.parametrize("name", ["sgsd", "injected"])
def test_an_old_run_that_was_stopped_has_a_report(name: str, stopped: Path) -> None:
    sgsd("report", f"runs/{name}", "--output", "page.html")
    assert f"{name}" in Path("page.html").read_text(encoding="utf-8")


# ── Banks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("store", STORES)
def test_an_old_store_has_its_whole_history(store: str, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = FIGURES["stores"][store]
    sgsd("bank", "log", store, "--events", "--limit", "1000")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    for number, kind, item, content, note in told["events"]:
        (row,) = [row for row in rows if row[:1] == [str(number)]]
        assert row[1:2] == [kind]
        assert {item or row[2], content[:12] or row[2], *note.split()} <= set(row)
    for event in told["versions"]:
        exported = Path("exports", store.replace("/", "_") + f"@{event}.json")
        sgsd("bank", "export", store, "again.json", "--event", str(event), "--force")
        assert Path("again.json").read_bytes() == exported.read_bytes()


def test_an_old_store_still_changes_and_says_where_an_item_is_from(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *_, last = FIGURES["stores"]["bank.sqlite"]["versions"]
    sgsd("bank", "rollback", "bank.sqlite", str(first))
    sgsd("bank", "export", "bank.sqlite", "back.json")
    assert Path("back.json").read_bytes() == Path(f"exports/bank.sqlite@{first}.json").read_bytes()
    sgsd("bank", "import", f"exports/bank.sqlite@{last}.json", "bank.sqlite")
    capsys.readouterr()
    sgsd("bank", "diff", f"bank.sqlite@{last}", "bank.sqlite")
    assert "0 added, 0 removed, 0 edited" in capsys.readouterr().out
    learned = [name for line in lines(Path("runs/sgsd"), "bank") for name in line["added"]]
    assert learned
    for item in learned:
        sgsd("bank", "why", "runs/sgsd/bank.sqlite", item, "--run", "runs/sgsd")
        said = capsys.readouterr().out
        assert "upkeep after step 4" in said
        assert "learned from" in said
        assert "rollout " in said


def test_an_old_bank_file_is_still_one(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for bank in ("bank.json", *STORES):
        sgsd("bank", "validate", bank)
        sgsd("bank", "stats", bank)
    sgsd("bank", "stats", "runs/sgsd/bank.sqlite", "--run", "runs/sgsd")
    sgsd("bank", "import", "bank.json", "new.sqlite")
    sgsd("bank", "export", "new.sqlite", "new.json")
    capsys.readouterr()
    sgsd("bank", "diff", "bank.json", "new.json")
    assert "0 added, 0 removed, 0 edited" in capsys.readouterr().out


# ── Configurations ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["every_key.yaml", "runs/sgsd/config.yaml", "runs/injected/config.yaml"])
def test_an_old_configuration_is_read_and_nothing_of_it_is_lost(
    name: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keys may have moved since: what must be there is their values."""
    old = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    sgsd("train", name, "--print-config")
    printed = capsys.readouterr().out
    found = Counter(map(str, leaves(yaml.safe_load(printed))))
    telling = Counter(str(leaf) for leaf in leaves(old) if not isinstance(leaf, bool) and leaf is not None)
    assert telling
    assert not telling - found if name == "every_key.yaml" else not set(telling) - set(found)
    Path("printed.yaml").write_text(printed, encoding="utf-8")
    sgsd("train", "printed.yaml", "--print-config")
    assert capsys.readouterr().out == printed
