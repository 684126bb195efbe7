"""docs/configuration.md is what the schema says, and reading a configuration is light."""

from __future__ import annotations

import inspect
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sgsd.config import make_config, parse_yaml
from sgsd.config.schema import keys, parts
from sgsd.methods import RECIPES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "configuration.md"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "build_configuration.py"))


def test_the_page_is_the_schemas(script: dict[str, Any]) -> None:
    assert PAGE.read_text(encoding="utf-8") == script["page"](), "run python docs/build_configuration.py"


def test_every_key_and_section_has_a_meaning_in_a_sentence() -> None:
    told = {**{key.name: key.meaning for key in keys().values()}, **{p.name: p.meaning for p in parts().values()}}
    for name, meaning in told.items():
        assert meaning.endswith("."), name
        assert not re.match(r"(Of|What|Whether|From|Where|Who|As|By) ", meaning), name


def test_every_option_of_a_method_has_a_meaning_and_no_meaning_is_left_over(script: dict[str, Any]) -> None:
    used = set()
    for name, recipe in RECIPES.items():
        for option in inspect.signature(recipe).parameters:
            own = f"{name}.{option}"
            assert own in script["OPTIONS"] or option in script["OPTIONS"], own
            used.add(own if own in script["OPTIONS"] else option)
    assert set(script["OPTIONS"]) == used


def test_the_example_of_the_page_is_a_configuration() -> None:
    example = re.search(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert example is not None
    assert make_config(parse_yaml(example[1], "example")).skills.every == 0


def test_reading_a_configuration_loads_no_torch() -> None:
    code = (
        "import sys; from sgsd.config import load_config; load_config('configs/qwen3-1.7b-sgsd.yaml');"
        "print([heavy for heavy in ('torch', 'transformers', 'peft', 'accelerate') if heavy in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
