"""No prompt changes by a token unless it is meant to: the student's, the teachers', the critic's and the writer's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from record_prompts import FILE, text

SNAPSHOTS: dict[str, list[Any]] = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found() -> str:
    return text()


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_a_prompt_is_what_it_was(name: str, found: str) -> None:
    assert json.loads(found)[name] == SNAPSHOTS[name]


def test_the_file_of_snapshots_is_what_is_rendered_now_to_the_byte(found: str) -> None:
    assert list(json.loads(found)) == list(SNAPSHOTS)
    assert found == FILE.read_text(encoding="utf-8")
