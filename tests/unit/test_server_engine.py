"""What the server engine says to servers that do as they are told."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from vllm_server import END, fake_vllm

from sgsd.rollout import BackgroundEngine, EngineError, Sampling, ServerEngine, ServerSettings, Snapshots, Untrained
from sgsd.rollout.engine import request_seed
from sgsd.rollout.server_engine import key_from
from sgsd.types import UserError

PROMPTS = [(1,) * n for n in (9, 10, 11, 12)]
INDICES = [7, 8, 9, 10]


def make(folder: Path, *urls: str, kind: Any = "adapter", **changes: Any) -> ServerEngine:
    """An engine whose weights are the number of the snapshot."""
    numbers = itertools.count(1)

    def save(new: Path) -> None:
        (new / "weights").write_text(str(next(numbers)))

    snapshots = Snapshots(folder / "engine", kind, save)
    settings = ServerSettings(urls, **{"start": 2.0, "timeout": 5.0, **changes})
    return ServerEngine(settings, snapshots, str, frozenset([END]))


def sample(engine: ServerEngine) -> list[tuple[int, ...]]:
    done = engine.sample(PROMPTS, INDICES, Sampling(max_tokens=8, top_k=3), seed=5)
    assert [c.index for c in done] == INDICES
    assert all(c.logps == (-0.25,) * len(c.token_ids) for c in done)
    return [c.token_ids for c in done]


def expected(state: int) -> list[tuple[int, ...]]:
    return [(len(p), request_seed(5, i) % 97, state, END) for p, i in zip(PROMPTS, INDICES)]


@pytest.mark.parametrize("kind", ["adapter", "weights"])
def test_rollouts_come_from_the_weights_of_the_last_sync(kind: str, tmp_path: Path) -> None:
    with fake_vllm() as server:
        engine = make(tmp_path, server.url, kind=kind)
        for state in (1, 2, 3):
            engine.sync()
            assert sample(engine) == expected(state)
            assert len(list((tmp_path / "engine").iterdir())) == 1
        assert len(server.adapters) == (kind == "adapter")
        names = [body["lora_name"] for body in server.asked("/v1/load_lora_adapter")]
        assert len(set(names)) == len(names) == (3 if kind == "adapter" else 0)
        assert len(server.asked("/reset_prefix_cache")) == (0 if kind == "adapter" else 3)


def test_a_request_says_all_that_decides_a_rollout(tmp_path: Path) -> None:
    with fake_vllm() as server:
        sample(make(tmp_path, server.url))
        asked = [body for body in server.asked("/v1/completions") if body["max_tokens"] == 8]
    assert sorted(body["seed"] for body in asked) == sorted(request_seed(5, i) for i in INDICES)
    (model,) = {body["model"] for body in asked}
    assert asked[0] | {"seed": 0, "prompt": []} == {
        "model": model,
        "prompt": [],
        "seed": 0,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 3,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "max_tokens": 8,
        "stop_token_ids": [END],
        "ignore_eos": True,
        "logprobs": 0,
        "return_token_ids": True,
        "cache_salt": model,
    }


def test_several_servers_share_the_rollouts_and_all_follow_the_policy(tmp_path: Path) -> None:
    with fake_vllm() as one, fake_vllm() as two:
        engine = make(tmp_path, one.url, two.url)
        assert sample(engine) == expected(1)
        engine.sync()
        assert sample(engine) == expected(2)
        for server in (one, two):
            assert len([body for body in server.asked("/v1/completions") if body["max_tokens"] == 8]) == 4
            assert len(server.adapters) == 1


def test_it_works_where_a_loop_runs_already(tmp_path: Path) -> None:
    async def notebook() -> list[tuple[int, ...]]:
        return sample(engine)

    with fake_vllm() as server:
        engine = make(tmp_path, server.url)
        assert asyncio.run(notebook()) == expected(1)


def test_another_process_of_the_run_asks_under_the_name_the_first_has_given(tmp_path: Path) -> None:
    with fake_vllm() as server:
        told: list[Any] = []
        first = make(tmp_path, server.url, kind="weights")
        first.first = lambda find: told.append(find()) or told[-1]  # type: ignore[func-returns-value]
        first.sync()
        other = make(tmp_path, server.url, kind="weights")
        other.first = lambda find: told[-1]
        other.sync()
        assert sample(other) == sample(first) == expected(1)


def test_processes_that_recover_do_not_take_the_weights_from_one_another(tmp_path: Path) -> None:
    """A server was started anew. Whoever finds out first gives it the policy; the others find that it has it."""
    with fake_vllm() as server:
        told: list[Any] = []
        first, other = (make(tmp_path, server.url, kind="weights") for _ in range(2))
        first.first = lambda find: told.append(find()) or told[-1]  # type: ignore[func-returns-value]
        other.first = lambda find: told[-1]
        first.sync()
        other.sync()
        server.weights = ("77", "default")
        assert sample(first) == sample(other) == sample(first) == expected(1)
        assert (first.recoveries, other.recoveries) == (1, 0)
        assert len(server.asked("/collective_rpc")) == 2


def test_it_samples_in_the_background_from_the_weights_of_its_sync(tmp_path: Path) -> None:
    """While a server answers, the trainer makes new weights; they wait until the answers are there."""
    slow, answered = threading.Event(), []

    def wait(handler: Any, path: str, body: dict[str, Any]) -> bool:
        if path == "/v1/completions" and body["max_tokens"] > 4:
            answered.append(slow.wait(5))
        return False

    with fake_vllm() as server:
        engine = make(tmp_path, server.url)
        background = BackgroundEngine(engine)
        background.sync()
        server.script = wait
        background.begin(PROMPTS, INDICES, Sampling(max_tokens=8, top_k=3), seed=5)
        assert not answered  # nobody has waited for it
        slow.set()
        background.sync()
        assert len(answered) == len(PROMPTS)
        assert sample(background) == expected(1)  # type: ignore[arg-type]
        assert sample(engine) == expected(2)
        background.close()


def test_closing_ends_what_is_asked_in_the_background(tmp_path: Path) -> None:
    asked, closed = threading.Event(), threading.Event()

    def fail(handler: Any, path: str, body: dict[str, Any]) -> bool:
        if path == "/v1/completions" and body["max_tokens"] > 4:
            asked.set()
            closed.wait(60)
            handler.break_off()
            return True
        return False

    with fake_vllm() as server:
        engine = make(tmp_path, server.url, timeout=120.0)
        background = BackgroundEngine(engine)
        background.sync()
        server.script = fail
        background.begin(PROMPTS, INDICES, Sampling(max_tokens=8, top_k=3), seed=5)
        assert asked.wait(60)
        background.close()
        loads = len(server.asked("/v1/load_lora_adapter"))
        closed.set()
        deadline = time.monotonic() + 60
        while not engine.recoveries and time.monotonic() < deadline:
            time.sleep(0.01)
        assert engine.recoveries == 1
        assert len(server.asked("/v1/load_lora_adapter")) == loads  # nothing is given to a server any more
        assert not server.adapters


def test_an_untrained_policy_is_what_the_server_was_started_with(tmp_path: Path) -> None:
    with fake_vllm() as server:
        settings = ServerSettings((server.url,), start=2.0, timeout=5.0)
        engine = ServerEngine(settings, Untrained(), str, frozenset([END]))
        engine.sync()
        assert [c.token_ids[2] for c in engine.sample(PROMPTS, INDICES, Sampling(max_tokens=8), seed=5)] == [0] * 4
        engine.close()
        paths = {path for path, _ in server.calls}
        assert paths == {"/health", "/v1/models", "/v1/completions"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"room": 8}, "has room for 8 tokens, 0 s into the call; start it with --max-model-len 16"),
        ({"path": "/v1/load_lora_adapter"}, "start the server with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"),
        ({"path": "/collective_rpc"}, "start the server with VLLM_SERVER_DEV_MODE=1 and --worker-extension-cls"),
    ],
)
def test_what_a_server_cannot_do_is_said_at_the_first_sync(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    def lacks(handler: Any, path: str, body: dict[str, Any]) -> bool:
        if path == change.get("path"):
            handler.send(404, {"detail": "Not Found"})
            return True
        return False

    with fake_vllm(lacks) as server:
        server.room = change.get("room", 64)
        kind = "weights" if change.get("path") == "/collective_rpc" else "adapter"
        with pytest.raises(EngineError) as caught:
            make(tmp_path, server.url, kind=kind, context=16).sync()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_the_server_does_not_see_is_said(tmp_path: Path) -> None:
    with fake_vllm() as server:
        engine = make(tmp_path, server.url)
        engine.snapshots.save = lambda new: None
        with pytest.raises(EngineError, match=r"No adapter found for .*set rollout.folder to one that both sides see"):
            engine.sync()


def test_the_key_is_sent_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def listen(handler: Any, path: str, body: dict[str, Any]) -> bool:
        seen.append(handler.headers["Authorization"])
        if path == "/v1/models":
            handler.send(401, {"error": "Unauthorized"})
            return True
        return False

    monkeypatch.setenv("SOME_KEY", "secret-key")
    with fake_vllm(listen) as server, pytest.raises(EngineError) as caught:
        make(tmp_path, server.url, key=key_from("SOME_KEY")).sync()
    assert set(seen) == {"Bearer secret-key"}
    assert "rollout.api_key_env" in str(caught.value)
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("SOME_KEY", "two words")
    with pytest.raises(UserError, match=r"rollout.api_key_env: the key in SOME_KEY has a character"):
        key_from("SOME_KEY")


def test_an_address_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rollout.base_url: localhost:8000 must begin with http"):
        make(tmp_path, "localhost:8000")
