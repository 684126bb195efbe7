"""The words behind `sgsd COMMAND`: the config file first, a command's own options, the rest for the config."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from sgsd.cli.formatting import clock_words, count_words
from sgsd.cli.main import COMMANDS
from sgsd.cli.options import as_whole, config_first, take_switch, take_word
from sgsd.types import UserError


@pytest.mark.parametrize(
    ("line", "said", "rest"),
    [
        ("--rollouts 8 --seed 1", "8", "--seed 1"),
        ("--seed 1 --rollouts=8", "8", "--seed 1"),
        ("--rollouts=a=b", "a=b", ""),
        ("--rollouts -1", "-1", ""),
        ("--skills.rollouts 8 --rollouts-more=3", None, "--skills.rollouts 8 --rollouts-more=3"),
        ("", None, ""),
    ],
)
def test_an_option_is_taken_out_however_it_is_joined_to_its_value(line: str, said: str | None, rest: str) -> None:
    words = line.split()
    assert take_word(words, "--rollouts", 256) == said
    assert words == rest.split()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--rollouts", "--rollouts: say what, for instance --rollouts 256"),
        ("--rollouts=", "--rollouts: say what"),
        ("--rollouts --json a", "--rollouts: say what"),
        ("--rollouts 8 --rollouts=9", "--rollouts: it is there twice"),
    ],
)
def test_an_option_that_says_nothing_or_two_things_is_refused(line: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        take_word(line.split(), "--rollouts", 256)


def test_a_switch_is_there_or_not() -> None:
    words = ["--resume", "--seed", "1", "--resume"]
    assert take_switch(words, "--resume")
    assert words == ["--seed", "1"]
    assert not take_switch(words, "--resume")


def test_numbers_are_checked_and_named_by_their_flag() -> None:
    assert as_whole("--steps", "8") == 8
    for word in ("0", "-1", "2.5", "many"):
        with pytest.raises(UserError, match=f"--steps: '{word}' is not a whole number from 1 on"):
            as_whole("--steps", word)


def test_the_config_file_comes_first() -> None:
    console = Console(file=io.StringIO())
    assert config_first(["a.yaml", "--seed", "1"], "plan", "usage", console) == (Path("a.yaml"), ["--seed", "1"])
    for args in ([], ["-h"], ["--help"]):
        with pytest.raises(SystemExit, match="0"):
            config_first(args, "plan", "how to use it", console)
    assert console.file.getvalue() == "how to use it\n" * 3  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="the config file comes before --seed: sgsd plan CONFIG --seed …"):
        config_first(["--seed", "1"], "plan", "usage", console)


def test_figures_are_said_in_words() -> None:
    assert [count_words(n) for n in (12, 3_100, 24_600_000, 1.7e9)] == ["12", "3.1 k", "24.6 M", "1.7 B"]
    assert [clock_words(s) for s in (4.21, 90, 720, 11_100)] == ["4.2 s", "90 s", "12 min", "3 h 5 min"]


def test_the_overview_names_all_that_lab_does() -> None:
    assert all(word in COMMANDS["lab"][1] for word in ("pretrain", "measure", "bank", "config", "table"))
