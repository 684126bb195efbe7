"""What every benchmark needs: where it ran, how long work took, and how much memory it held."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

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


@dataclass(frozen=True, slots=True)
class Elapsed:
    wall: float
    processor: float  # of all threads


def timed(work: Callable[[], Any]) -> tuple[Elapsed, Any]:
    """The seconds of some work, a GPU's share of it included, and what it returned."""
    _settle()
    wall, processor = time.perf_counter(), time.process_time()
    found = work()
    _settle()
    return Elapsed(time.perf_counter() - wall, time.process_time() - processor), found


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_extra_bytes(work: Callable[[], Any]) -> int:
    """What some work held at its worst moment beyond what was held before: a GPU's allocations, or resident memory.

    Meaningful in a fresh process only: memory that was given back but not returned to the system hides what is taken.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to what is resident
        before = _resident_bytes("VmRSS")
        work()
        return _resident_bytes("VmHWM") - before
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit


def _resident_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (high-water mark) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {field}")
