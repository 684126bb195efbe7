"""Writes the snapshots of all prompts anew; do that only for a change that should move one, and say which.

python tests/golden/record_prompts.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from prompt_cases import rendered

FILE = Path(__file__).with_name("prompts.json")


def text() -> str:
    return json.dumps(rendered(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
