"""Engines of vLLM on this machine's processor: how they are started, in this process or as a server."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sgsd.skills.writers.vllm_writer import STRICT_FORM

START_SECONDS = 240.0
SERVED_AS = "tiny-writer"
CONTEXT = 4096
#: What an engine in this process is started with; what it is compared with is float32.
ENGINE = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 8}


@contextmanager
def in_this_process() -> Iterator[None]:
    """Around an engine that runs in the process of the tests: there in seconds, where three processes need a minute."""
    # On a processor vLLM looks for its kernels in all that is imported, and stumbles over this part of numba.
    hidden = sys.modules.pop("llvmlite.binding.ffi", None)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    try:
        yield
    finally:
        del os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"]
        if hidden is not None:
            sys.modules["llvmlite.binding.ffi"] = hidden
        gc.collect()
        from vllm.distributed import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()  # or no second engine could start in this process


class PolicyServer:
    """A server of a policy with adapters, which can be killed and started again at the same address."""

    def __init__(self, model: Path, log: Path, rank: int) -> None:
        self.model, self.log, self.rank, self.starts = model, log, rank, 0
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Until it answers."""
        told = {
            "--port": str(self.port),
            "--max-model-len": "640",
            "--max-num-batched-tokens": "640",
            "--max-lora-rank": str(self.rank),
        }
        self.starts += 1
        self._process = _launch(
            self.model, {**PLAIN, **told}, ["--enable-lora", "--no-enable-chunked-prefill"], self.log
        )
        _wait_for(self._process, f"http://127.0.0.1:{self.port}", self.log)

    def kill(self) -> None:
        """With all that belongs to it, at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


PLAIN = {"--host": "127.0.0.1", "--dtype": "float32", "--max-num-seqs": "8"}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _launch(model: Path, told: dict[str, str], switches: list[str], log: Path) -> subprocess.Popen[bytes]:
    # Not `vllm serve`: in the package for processors, which has another name, it does not find its own version.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--enforce-eager"]
    command += [*switches, *(part for pair in told.items() for part in pair)]
    with log.open("ab") as stream:
        return subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"},
        )


@contextmanager
def served(model: Path, log: Path) -> Iterator[str]:
    """The address of a server that has answered its canary; afterwards nothing of it is left."""
    port = _free_port()
    told = {
        **PLAIN,
        "--port": str(port),
        "--served-model-name": SERVED_AS,
        "--max-model-len": str(CONTEXT),
        "--structured-outputs-config": json.dumps(STRICT_FORM),
    }
    process = _launch(model, told, [], log)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(process, url, log)
        _ask_canary(url, log)
        yield f"{url}/v1"
        if process.poll() is not None:
            pytest.fail(f"the server answered its canary and died later, with {process.returncode}:\n{_tail(log)}")
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        time.sleep(0.5)
    how = "took too long" if process.poll() is None else f"ended with {process.returncode}"
    pytest.fail(f"vLLM's server {how}; nothing of sgsd was asked:\n{_tail(log)}")


def _ask_canary(url: str, log: Path) -> None:
    """One request of a usual length: prompts of a few tokens have killed vLLM's worker where this one did not."""
    text = "Write down a few words about sums, products and remainders, and about what is worth a thought. " * 3
    body = {"model": SERVED_AS, "messages": [{"role": "user", "content": text}], "max_tokens": 16, "temperature": 0}
    headers = {"Content-Type": "application/json"}
    try:
        asked = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(asked, timeout=120) as reply:
            used = json.loads(reply.read())["usage"]
    except OSError as error:
        pytest.fail(f"vLLM cannot answer a canary here ({error}); nothing of sgsd was asked:\n{_tail(log)}")
    assert used["prompt_tokens"] > 40
    assert used["completion_tokens"] > 0


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-40:])
