"""One real server and engines of vLLM on this machine's processor; run by `make test-vllm`."""

from __future__ import annotations

import os

# One thread each: two of them that share two cores with a second process wait for one another, fifty times slower.
os.environ.update(
    OMP_NUM_THREADS="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_CPU_KVCACHE_SPACE="1",  # GiB
    VLLM_LOGGING_LEVEL="WARNING",
    VLLM_NO_USAGE_STATS="1",
)

import contextlib
import gc
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tiny_writer import save_tiny_writer

START_SECONDS = 240.0
SERVED_AS = "tiny-writer"
#: What both kinds of engine are started with; the reference log-probs of the tests are float32.
ENGINE = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 8}


@pytest.fixture(scope="session")
def writer_folder(tmp_path_factory: pytest.TempPathFactory, lab_tokenizer: Any) -> Path:
    return save_tiny_writer(tmp_path_factory.mktemp("writer") / "model", lab_tokenizer)


@pytest.fixture(scope="session")
def server(writer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that has answered its canary; afterwards nothing of it is left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    form = {"backend": "xgrammar", "disable_any_whitespace": True}
    told = {"--dtype": "float32", "--max-model-len": 4096, "--max-num-seqs": 8, "--served-model-name": SERVED_AS}
    options = [str(part) for pair in told.items() for part in pair]
    place = ["--host", "127.0.0.1", "--port", str(port), "--structured-outputs-config", json.dumps(form)]
    command = [str(Path(sys.executable).with_name("vllm")), "serve", str(writer_folder), "--enforce-eager"]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, *options, *place], stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(process, url, log)
        _canary(url, log)
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
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        time.sleep(0.5)
    pytest.fail(f"vLLM's server did not come up here ({process.poll()}); nothing of sgsd was asked:\n{_tail(log)}")


def _canary(url: str, log: Path) -> None:
    """One request of a usual length: prompts of a few tokens have killed vLLM's worker where this one did not."""
    text = "Write down a few words about sums, products and remainders, and about what is worth a thought. " * 3
    body = {"model": SERVED_AS, "messages": [{"role": "user", "content": text}], "max_tokens": 16, "temperature": 0}
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(asked, timeout=120) as reply:
            assert json.loads(reply.read())["usage"]["prompt_tokens"] > 40
    except OSError as error:
        pytest.fail(f"vLLM cannot answer a canary here ({error}); nothing of sgsd was asked:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-40:])


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """Around an engine that runs in the process of the tests, which starts in seconds where three processes need a
    minute."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

    @contextmanager
    def around() -> Iterator[None]:
        # On a processor vLLM looks for its kernels in all that is imported, and stumbles over this of numba's parts.
        hidden = sys.modules.pop("llvmlite.binding.ffi", None)
        try:
            yield
        finally:
            if hidden is not None:
                sys.modules["llvmlite.binding.ffi"] = hidden
            gc.collect()
            from vllm.distributed import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()  # or no second engine could start in this process

    return around
