"""`sgsd doctor`: shows what this machine has, and what is missing for which purpose."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

CORE = ("torch", "transformers", "accelerate", "peft", "datasets", "math-verify", "bm25s", "pydantic", "tyro")
EXTRAS = {
    "vllm": ("vllm", "fast rollouts on GPUs"),
    "embed": ("sentence_transformers", "retrieval by embeddings"),
    "writer": ("openai", "skill writing by a language model behind an API"),
    "tasks": ("reasoning_gym", "more tasks"),
    "track": ("trackio", "experiment trackers"),
}


def doctor(args: list[str], console: Console) -> None:
    """Print a table of this machine; nothing is changed and nothing is downloaded."""
    table = Table(title="sgsd doctor", title_justify="left", show_header=False)
    table.add_row("Python", platform.python_version())
    table.add_row("system", platform.platform())
    table.add_row(
        "CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    )
    table.add_row("memory", _memory())
    table.add_row("disk free here", f"{shutil.disk_usage('.').free / 2**30:.0f} GiB")
    table.add_row("accelerator", _accelerator())
    for package in CORE:
        table.add_row(package, _version(package))
    for extra, (module, purpose) in EXTRAS.items():
        found = importlib.util.find_spec(module) is not None
        missing = Text(f"not installed: pip install 'sgsd[{extra}]' for {purpose}")  # markup would eat the brackets
        table.add_row(f"extra {extra}", "installed" if found else missing)
    console.print(table)
    console.print("The demo needs none of the extras and no accelerator: sgsd demo")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing: install sgsd again"


def _memory() -> str:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not every system tells
        return "unknown"
    return f"{pages * size / 2**30:.0f} GiB"


def _accelerator() -> str:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return ", ".join(f"{p.name} {p.total_memory / 2**30:.0f} GiB" for p in names)
    return "Apple GPU" if torch.backends.mps.is_available() else "none: everything runs on the CPU"
