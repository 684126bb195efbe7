"""One model that writes and one server for all tests of `make test-vllm`."""

from __future__ import annotations

import os

# One thread each: two threads that share two cores with another process wait for one another: about ten times slower.
os.environ.update(
    OMP_NUM_THREADS="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_CPU_KVCACHE_SPACE="1",  # GiB
    VLLM_LOGGING_LEVEL="WARNING",
    VLLM_NO_USAGE_STATS="1",
)

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from on_cpu import served
from tiny_writer import save_tiny_writer


@pytest.fixture(scope="session")
def writer_folder(tmp_path_factory: pytest.TempPathFactory, lab_tokenizer: Any) -> Path:
    return save_tiny_writer(tmp_path_factory.mktemp("writer") / "model", lab_tokenizer)


@pytest.fixture(scope="session")
def server(writer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(writer_folder, tmp_path_factory.mktemp("server") / "log.txt") as url:
        yield url
