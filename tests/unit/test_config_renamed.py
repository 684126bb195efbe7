"""Configurations of before: old names of keys are read, named and rewritten; keys of what was shed are passed over."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from runs import SMALL, merged
from sgsd.cli.main import run
from sgsd.config import RunConfig, load_config, make_config, migrate, migrate_text, parse_yaml, read_saved
from sgsd.config.renamed import FORMAT, RENAMED, SHED
from sgsd.config.schema import keys, parts
from sgsd.types import UserError

ROOT = Path(__file__).parents[2]
SHIPPED = [
    *sorted((ROOT / "configs").glob("*.yaml")),
    *sorted((ROOT / "configs" / "zoo").glob("*.yaml")),
    ROOT / "src" / "sgsd" / "lab" / "demo.yaml",
]
PLAIN = {key: value for key, value in SMALL.items() if key != "optimizer"}
OLD: dict[str, Any] = {
    "lora": {"rank": 4, "targets": ["q_proj"]},
    "optimizer": {"grad_clip": 0.5},
    "rollout": {
        **{"engine": "vllm", "overlap": True, "gap_alarm": 0.1, "context": 9000, "memory": 0.5},
        "key_variable": "VLLM_API_KEY",
    },
    "writer": {"key_variable": "MY_KEY", "context": 4096},
    "growth": {"every": 5},
}
OLD_TEXT = """# a head
name: old   # of a run
lora: {rank: 4, targets: [q_proj]}
optimizer:
  # how far
  grad_clip: 0.5   # per step
growth:
  every: 5
  quarantine: true   # takes out
  add: 2
"""


def test_the_table_names_keys_that_are_there_and_keeps_their_sections() -> None:
    known = {*keys(), *parts()}
    for entry in RENAMED:
        assert entry.old.rpartition(".")[0] == entry.new.rpartition(".")[0]
        assert entry.new in known or entry.new.startswith("method.")
        assert entry.old not in known
    assert all(entry.key.rpartition(".")[0] in parts() for entry in SHED)
    assert RunConfig().format == FORMAT


def test_old_names_are_read_with_one_line_that_names_the_new(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sgsd"):
        found = make_config(merged(PLAIN, OLD), "old.yaml")
    assert (found.skills.every, found.optimizer.max_grad_norm, found.writer.api_key_env) == (5, 0.5, "MY_KEY")
    assert (found.rollout.prefetch, found.rollout.max_model_len, found.writer.max_model_len) == (True, 9000, 4096)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("WARNING old.yaml: old names of keys, read until sgsd 0.4.0: growth → skills, ")
    assert "lora.targets → lora.target_modules" in line
    assert line.endswith("`sgsd migrate old.yaml` rewrites them")
    assert found == make_config(merged(PLAIN, migrate(OLD)[0]))


@pytest.mark.parametrize(("value", "noted"), [(True, True), (False, False)])
def test_a_key_of_what_was_shed_is_passed_over(value: bool, noted: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sgsd"):
        make_config(merged(SMALL, {"skills": {"quarantine": value}}))
    lines = [record.getMessage() for record in caplog.records]
    assert [line.startswith("WARNING config: skills.quarantine is ignored: ") for line in lines] == [True] * noted


def test_both_names_at_once_are_refused() -> None:
    with pytest.raises(UserError, match=r"optimizer.grad_clip and optimizer.max_grad_norm are the same key"):
        make_config({"optimizer": {"grad_clip": 1.0, "max_grad_norm": 1.0}})


@pytest.mark.parametrize("section", ["method", "optimizer"])
def test_a_section_that_is_no_mapping_is_left_to_the_types(section: str) -> None:
    with pytest.raises(UserError, match=rf"config: {section}: input should be a valid dictionary"):
        make_config({section: 3})


@pytest.mark.parametrize(
    ("given", "says"),
    [(FORMAT + 1, "is newer than this version of sgsd"), (0, "0 is no format"), ("two", "'two' is no format")],
)
def test_formats_that_are_not_known(given: Any, says: str) -> None:
    with pytest.raises(UserError, match=f"config: format: .*{says}"):
        make_config({"format": given})


def test_both_formats_that_are_known() -> None:
    assert make_config({**SMALL, "format": 1}) == make_config({**SMALL, "format": 2}) == make_config(SMALL)


def test_flags_of_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    flags = ["--growth.every", "5", "--optimizer.grad-clip", "0.25", "--lora.targets", "q_proj", "v_proj"]
    assert run(["train", str(path), "--print-config", *flags]) == 0
    shown = capsys.readouterr()
    printed = yaml.safe_load(shown.out)
    assert (printed["skills"]["every"], printed["optimizer"]["max_grad_norm"]) == (5, 0.25)
    assert printed["lora"]["target_modules"] == ["q_proj", "v_proj"]


def test_a_saved_configuration_is_read_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(merged(PLAIN, {**OLD, "growth": {"every": 5, "quarantine": False}})))
    with caplog.at_level(logging.WARNING, "sgsd"):
        saved = read_saved(path)
    assert not caplog.records
    assert saved["skills"] == {"every": 5}
    assert "growth" not in saved


# ── Files ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_is_rewritten_with_its_comments() -> None:
    assert (
        migrate_text(OLD_TEXT, "old.yaml")
        == """# a head
format: 2
name: old   # of a run
lora: {rank: 4, target_modules: [q_proj]}
optimizer:
  # how far
  max_grad_norm: 0.5   # per step
skills:
  every: 5
  add: 2
"""
    )


@pytest.mark.parametrize(
    ("text", "rewritten"),
    [
        ("growth: {quarantine: true}\n", "format: 2\nskills: {}\n"),
        ("growth: {every: 1, quarantine: true}\n", "format: 2\nskills: {every: 1}\n"),
        ("growth: {quarantine: true, every: 1}\n", "format: 2\nskills: {every: 1}\n"),
        ("growth:\n  quarantine: true\nseed: 1\n", "format: 2\nskills: {}\nseed: 1\n"),
        ("growth:\n  every: 1\n  quarantine: true", "format: 2\nskills:\n  every: 1\n"),
        ("format: 1\nseed: 1\n", "format: 2\nseed: 1\n"),
        ("'growth':\n  every: 1\n", "format: 2\nskills:\n  every: 1\n"),
        ("{growth: {every: 1}, seed: 2}\n", "{format: 2, skills: {every: 1}, seed: 2}\n"),
        ("growth: {quarantine: &q true}\nwriter: {thinking: *q}\n", None),
        ("rollout: &a {context: 5}\nwriter: *a\n", "format: 2\nrollout: &a {max_model_len: 5}\nwriter: *a\n"),
    ],
)
def test_layouts_of_yaml(text: str, rewritten: str | None) -> None:
    if rewritten is None:
        with pytest.raises(UserError, match="cannot be rewritten in place"):
            migrate_text(text, "c.yaml")
    else:
        assert migrate_text(text, "c.yaml") == rewritten


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_are_of_today_and_would_be_found_from_yesterday(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert parse_yaml(text, str(path))["format"] == FORMAT
    assert migrate_text(text, str(path)) == text
    old = text.replace(f"format: {FORMAT}\n", "")
    for entry in RENAMED:
        section, before, after = (*entry.old.rpartition(".")[::2], entry.new.rpartition(".")[2])
        old = re.sub(rf"^({'  ' if section else ''}){after}:", rf"\1{before}:", old, flags=re.M)
    assert migrate_text(old, str(path)) == text
    assert make_config(parse_yaml(old, str(path))) == load_config(path)


def test_the_command_prints_or_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(OLD_TEXT)
    assert run(["migrate", str(path)]) == 0
    printed = capsys.readouterr().out
    assert path.read_text() == OLD_TEXT
    assert run(["migrate", str(path), "--write"]) == 0
    said = capsys.readouterr().out
    assert path.read_text() == printed
    assert "growth → skills" in said
    assert "skills.quarantine is ignored" in said
    assert run(["migrate", str(path), "--write"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert run(["migrate", str(path), "--force"]) == 2
    assert run(["migrate", str(tmp_path / "no.yaml")]) == 2
