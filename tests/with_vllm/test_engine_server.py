"""Training from a vLLM server that is killed in the middle of a step: once it comes back, once it does not."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from on_cpu import PolicyServer

from resumable import lines, steps_done
from runs import run_small
from sgsd.checkpoint.saving import checkpoints
from sgsd.lab.tiny_policy import POLICY_FOLDER
from sgsd.rollout import EngineError, ServerEngine

pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")

RANK = {"rank": 8, "alpha": 16}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PolicyServer]:
    policy_server = PolicyServer(POLICY_FOLDER, tmp_path / "server.txt", rank=RANK["rank"])
    yield policy_server
    policy_server.kill()


class KillAt:
    """Kills the server as a certain rollout is asked for, with others under way."""

    def __init__(self, server: PolicyServer, request: int, back: bool) -> None:
        self.server, self.left, self.back = server, request, back
        self.plain = ServerEngine._complete

    async def __call__(
        self, engine: ServerEngine, url: str, prompt: Any, sampling: Any, seed: int, seconds: float
    ) -> Any:
        if sampling.max_tokens > 4:  # no canary
            self.left -= 1
            if self.left == 0:
                self.server.kill()
                if self.back:
                    threading.Thread(target=self.server.start).start()
        return await self.plain(engine, url, prompt, sampling, seed, seconds)


def test_a_killed_server(server: PolicyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {
        "lora": RANK,
        "steps": 3,
        "optimizer": {"lr": 1e-2, "max_grad_norm": 1.0},
        "rollout": {"engine": "server", "base_url": server.url, "dtype": "float32", "start_timeout": 240.0},
    }
    folder = tmp_path / "run"

    def kill_at(request: int, *, back: bool) -> None:
        killer = KillAt(server, request, back)
        monkeypatch.setattr(ServerEngine, "_complete", lambda *arguments: killer(*arguments))

    threading.Thread(target=server.start).start()  # the run waits for it
    kill_at(8 + 4, back=True)
    run_small(folder, **settings)
    assert steps_done(folder) == [1, 2, 3]
    assert server.starts == 2
    assert all(record["sampler_mismatch"] < 1e-5 for record in lines(folder, "metrics"))
    first, *_, last = lines(folder, "metrics")
    assert last["rollouts"] == first["rollouts"] == 8

    other = {**settings, "rollout": {**settings["rollout"], "start_timeout": 2.0}}
    kill_at(2 * 8 + 3, back=False)
    with pytest.raises(EngineError, match=r"has not come back in 2 s, \d+ s into the call; start the server, or set"):
        run_small(tmp_path / "other", **other)
    assert [path.name for path in checkpoints(tmp_path / "other" / "checkpoints")] == ["step-000002"]
    assert steps_done(tmp_path / "other") == [1, 2]
    server.start()
    run_small(tmp_path / "other", resume=True, **other)
    assert steps_done(tmp_path / "other") == [1, 2, 3]
    assert all(record["sampler_mismatch"] < 1e-5 for record in lines(tmp_path / "other", "metrics"))
    gc.collect()
    assert not list((tmp_path / "other").glob("engine/*"))
