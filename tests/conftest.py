"""Shared by all tests: quiet libraries, one thread, no network, and one tiny policy a session."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TQDM_DISABLE"] = "1"

from typing import Any

import pytest
import torch

torch.set_num_threads(1)

try:
    from hypothesis import settings
except ImportError:  # the environment for vLLM has no need of it
    pass
else:
    settings.register_profile("steady", deadline=None)  # an example is slow where the machine is busy
    settings.load_profile("steady")


@pytest.fixture(scope="session")
def lab_tokenizer() -> Any:
    from sgsd.config.sections import ModelConfig
    from sgsd.train.models import load_tokenizer

    return load_tokenizer(ModelConfig(path="lab"))


@pytest.fixture
def lab_model() -> Any:
    from sgsd.config.sections import ModelConfig
    from sgsd.train.models import load_model

    return load_model(ModelConfig(path="lab", dtype="float32"))
