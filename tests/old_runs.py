"""What the tests of old run folders share with the script that made them; of the package only the command line."""

from __future__ import annotations

import hashlib
import html
import re
import tarfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sgsd.cli.main import run

FIXTURES = Path(__file__).parent / "fixtures" / "v247fda0"
STORES = ("bank.sqlite", "runs/sgsd/bank.sqlite", "runs/injected/bank.sqlite")


def sgsd(*argv: str) -> None:
    """The command line, in this process; it must succeed."""
    assert run(argv) == 0, f"sgsd {' '.join(argv)}"


def unpack(name: str, folder: Path) -> Path:
    with tarfile.open(FIXTURES / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def machine() -> dict[str, str]:
    """What bits depend on, besides our code.

    The instructions that torch uses are not enough: two processors that both have AVX512 were seen to round differently
    with the same version of everything, for the libraries below choose by the processor's maker and model as well.
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    kind = " ".join(f"{key} {told.get(key, '?')}" for key in ("vendor_id", "cpu family", "model", "stepping"))
    return {
        "torch": torch.__version__.split("+")[0],
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor": kind,
    }


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def adapter(run_folder: Path) -> dict[str, torch.Tensor]:
    """What came of training, in the layout that other tools read."""
    return load_file(run_folder / "adapter" / "adapter_model.safetensors")


def last_checkpoint(run_folder: Path) -> Path:
    return max((run_folder / "checkpoints").glob("step-*"))


def weights_hashes(run_folder: Path) -> dict[str, Any]:
    """Of a checkpoint by content and not by name: what the student's and a teacher's weights are called is our own."""
    kept = load_file(last_checkpoint(run_folder) / "weights.safetensors")
    return {
        "adapter_sha256": digest(adapter(run_folder)),
        "checkpoint_sha256": sorted(digest({"": tensor}) for tensor in kept.values()),
    }


def page_facts(page: Path) -> dict[str, Any]:
    """The headline of a report and all numbers it names before it comes to the configuration, pictures left out."""
    text = re.sub(r"(?s)<(style|script|svg).*?</\1>", " ", page.read_text(encoding="utf-8"))
    told = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split()).partition("Resolved config")[0]
    headline = re.search(r'(?s)class="headline"[^>]*>(.*?)</p>', text)
    assert headline is not None
    said = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", headline[1])).split())
    return {"headline": said, "numbers": sorted(re.findall(r"\d+(?:[.,]\d+)*", told))}
