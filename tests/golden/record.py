"""Golden losses: the numbers of three steps of each method on the lab, one thread, kept as a file.

`python tests/golden/record.py` records them for the processor it runs on, beside those of other processors; do
that only from a commit whose numbers are trusted, or for a change that should move them, and say by how much. Bits are
promised on one model of processor and one version of torch: two models with AVX-512 already differ in the last digit.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from runs import LORA, run_small
from sgsd.records.run_files import Records

FILE = Path(__file__).with_name("losses.json")
RUNS: dict[str, dict[str, Any]] = {
    "sgsd": {},
    "sgsd-lora-ema": {"lora": LORA, "method": {"name": "sgsd", "k": 2, "confidence": 0.01, "teacher": "ema"}},
    "sgsd-contrast": {"method": {"name": "sgsd", "k": 2, "confidence": 0.02, "stance": "contrast"}},
    "sgsd-ratio": {"method": {"name": "sgsd", "k": 2, "confidence": 0.02, "stance": "ratio"}},
    "grpo": {"method": {"name": "grpo", "group": 4}},
    "opsd-lora": {"lora": LORA, "method": {"name": "opsd"}},
    "sgsd_calibrated": {"method": {"name": "sgsd_calibrated", "k": 2}},
    "sgsd_distribution": {"method": {"name": "sgsd_distribution", "k": 2, "confidence": 0.01}},
    "trusted": {"method": {"name": "trusted", "k": 2}},
    "reinforce": {"method": {"name": "reinforce"}},
    **{name: {"method": {"name": name, "group": 4}} for name in ("dasd", "rlsd", "rlrt", "sdpo", "sdpg", "grpo_skill")},
    "rlcsd": {"method": {"name": "rlcsd", "wrong": 2, "group": 8}},
    **{name: {"method": {"name": name}} for name in ("sdft", "op2sd", "rcsd", "opsd_skill")},
    "critique": {"method": {"name": "critique"}, "writer": {"critique_tokens": 16}},
    "sgsd-mixed": {"method": {"name": "sgsd", "k": 2, "confidence": 0.01, "others": ["sibling", "null"], "group": 4}},
}
KEYS = ("loss", "grad_norm", "entropy", "accuracy", "length")


def machine() -> dict[str, str]:
    """Everything that decides which kernels run, and so the last bit."""
    return {
        "torch": torch.__version__.split("+")[0],
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor": processor(),
    }


def processor() -> str:
    """Vendor, family, model and stepping, as Linux says them; elsewhere what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    first = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    if "vendor_id" not in first:
        return platform.processor() or platform.machine()
    return f"{first['vendor_id']} {first['cpu family']}/{first['model']}/{first['stepping']}"


def measure(name: str, folder: Path) -> list[dict[str, float]]:
    metrics = Records(run_small(folder / name, **RUNS[name])).read("metrics")
    return [{key: record[key] for key in KEYS} for record in metrics]


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: measure(name, Path(folder)) for name in RUNS}
    kept = [recorded for recorded in json.loads(FILE.read_text()) if recorded["machine"] != machine()]
    FILE.write_text(json.dumps([*kept, {"machine": machine(), "runs": runs}], indent=1) + "\n")


if __name__ == "__main__":
    main()
