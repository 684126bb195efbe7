"""Two gloo processes on this machine, started with the settings that `accelerate launch` takes from our own files."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LAUNCHES = Path(__file__).parents[1] / "configs" / "accelerate"
WORKER = Path(__file__).parent / "e2e" / "process_worker.py"


def arguments(name: str) -> argparse.Namespace:
    """What Accelerate's own launcher makes of one of our files."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    asked = ["--config_file", str(LAUNCHES / f"{name}.yaml"), "--num_processes", "2", "train.py"]
    given = _validate_launch_command(launch_command_parser().parse_args(asked))[0]
    given.deepspeed_fields_from_accelerate_config = ""  # set between the two by the launcher
    return given


def environment(name: str) -> dict[str, str]:
    """The variables by which Accelerate's launcher tells its processes what was asked for."""
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    given = arguments(name)
    told = prepare_deepspeed_cmd_env(given)[1] if given.use_deepspeed else prepare_multi_gpu_env(given)
    # With DeepSpeed the library itself finds that there is no GPU.
    kind = {"DS_ACCELERATOR": "cpu"} if given.use_deepspeed else {"ACCELERATE_USE_CPU": "true"}
    return {**told, **kind, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def run_tasks(name: str, tasks: list[dict[str, Any]], folder: Path, timeout: float = 300) -> str:
    """All tasks one after the other in two processes of one launch; a start costs more than a small run."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps(tasks))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(WORKER), str(file)], env=environment(name), capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr
