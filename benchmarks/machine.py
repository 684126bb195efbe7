"""What a benchmark says of where it ran."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def commit() -> str:
    """The commit the repository stands at, with a mark where files differ from it; empty outside git."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=REPOSITORY, capture_output=True, text=True
    )
    return found.stdout.strip()


def processor() -> str:
    """The processor's name and how many cores there are."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()
