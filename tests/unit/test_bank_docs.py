"""The bank that docs/bank.md prints loads and comes back whole, and the Python of the bank's pages runs with it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sgsd.bank import dump_bank, open_bank

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def bank_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (text,) = blocks("bank.md", "json")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bank.json").write_text(text, encoding="utf-8")
    return tmp_path / "bank.json"


def test_the_bank_of_the_page_loads_and_comes_back_whole(bank_file: Path) -> None:
    bank = open_bank(bank_file)
    assert [item.id for item in bank.items] == ["gen_001", "err_001"]
    assert json.loads(dump_bank(bank)) == json.loads(bank_file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", ["bank.md", "retrieval.md"])
def test_the_python_of_the_page_runs(page: str, bank_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = blocks(page, "python")
    assert found
    for block in found:
        exec(block, {})  # noqa: S102 - our own pages
    assert page != "bank.md" or "gen_001 err_001" in capsys.readouterr().out


def test_a_search_gives_the_pairs_that_the_retriever_gives(bank_file: Path) -> None:
    (pair,) = open_bank(bank_file).search("How many zeros end 100 factorial?", k=3)
    assert (pair.item_ids, pair.weight) == (("gen_001", "err_001"), 1.0)
    assert pair.skill is not None
    assert pair.skill.title.startswith("Count prime factors")
