"""Servers that die, hang, lie, or come back without the policy: all rollouts come, from the right weights, or none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_server_engine import expected, make, sample
from vllm_server import FakeVllm, Handler, choice, fake_vllm

from sgsd.rollout import EngineError


def is_rollout(path: str, body: dict[str, Any]) -> bool:
    return path == "/v1/completions" and body["max_tokens"] == 8  # the canary asks for less


class Once:
    """Does something to the first rollout that is asked for, or to the first few."""

    def __init__(self, act: Callable[[Handler], None], times: int = 1) -> None:
        self.act, self.left, self.lock = act, times, threading.Lock()

    def __call__(self, handler: Handler, path: str, body: dict[str, Any]) -> bool:
        if not is_rollout(path, body):
            return False
        with self.lock:
            self.left -= 1
            if self.left < 0:
                return False
        self.act(handler)
        return True


def empty(handler: Handler) -> None:
    handler.send(200, {"choices": []})


def no_tokens(handler: Handler) -> None:
    handler.send(200, {"choices": [choice([]) | {"finish_reason": "abort"}]})


def fewer_logps(handler: Handler) -> None:
    handler.send(200, {"choices": [choice([1, 2]) | {"logprobs": {"token_logprobs": [-1.0]}}]})


FAULTS: dict[str, tuple[Callable[[Handler], None], str]] = {
    "500": (
        lambda handler: handler.send(500, {"error": {"message": "it died"}}),
        "status 500: it died",
    ),
    "cut": (lambda handler: handler.break_off(), "is not reachable"),
    "empty": (empty, "without token ids and log-probs (ValueError)"),
    "none": (no_tokens, "that is not whole (abort, 0 tokens)"),
    "fewer": (fewer_logps, "that is not whole (stop, 2 tokens)"),
    "text": (lambda handler: handler.send(200, "hello"), "without token ids and log-probs (TypeError)"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["adapter", "weights"])
def test_a_fault_is_tried_again_under_a_new_name(fault: str, kind: str, tmp_path: Path) -> None:
    with fake_vllm(Once(FAULTS[fault][0])) as server:
        engine = make(tmp_path, server.url, kind=kind)
        assert sample(engine) == expected(1)
        assert engine.recoveries == 1
        engine.sync()
        assert sample(engine) == expected(2)
        assert len(server.adapters) == (kind == "adapter")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_is_named(fault: str, tmp_path: Path) -> None:
    act, said = FAULTS[fault]
    with fake_vllm(Once(act, times=1000)) as server:
        engine = make(tmp_path, server.url, retries=1)
        with pytest.raises(EngineError) as caught:
            sample(engine)
    message = str(caught.value)
    assert message.startswith("rollout.engine server: while sampling 4 rollouts, a server ")
    assert said in message
    assert "(2 tries), " in message
    assert " s into the call; none of the troubles known" in message
    assert message.endswith("go on by --resume")


def test_no_wait_is_longer_than_the_time_out_whatever_trickles_in(tmp_path: Path) -> None:
    stop = threading.Event()
    with fake_vllm(Once(lambda handler: handler.trickle(stop), times=1000)) as server:
        begun = time.monotonic()
        with pytest.raises(EngineError, match=r"gave no answer within 0.5 s"):
            sample(make(tmp_path, server.url, timeout=0.5, retries=1))
        stop.set()
    assert time.monotonic() - begun < 4


def test_a_server_that_is_not_there_is_waited_for_and_no_longer_than_said(tmp_path: Path) -> None:
    with fake_vllm() as server:
        url = server.url
    begun = time.monotonic()
    with pytest.raises(EngineError) as caught:
        make(tmp_path, url, start=1.0).sync()
    assert 1 < time.monotonic() - begun < 5
    assert "has not come back in 1 s" in str(caught.value)
    assert "start the server, or set rollout.base_url" in str(caught.value)


@pytest.mark.parametrize("kind", ["adapter", "weights"])
def test_a_server_that_is_killed_and_comes_back_has_the_policy_before_it_is_asked(kind: str, tmp_path: Path) -> None:
    fell, gone = threading.Event(), threading.Event()

    def fall(handler: Handler) -> None:
        fell.set()
        gone.wait(60)  # a call that fails before the server is gone would be tried again at once
        handler.break_off()

    with fake_vllm(Once(fall, times=1000)) as first:
        engine = make(tmp_path, first.url, kind=kind, start=60.0, timeout=120.0)
        done: list[Any] = []
        thread = threading.Thread(target=lambda: done.append(sample(engine)))
        thread.start()
        assert fell.wait(60)
        port = first.server_port
    gone.set()
    with fake_vllm(port=port) as second:
        thread.join(120)
        assert done == [expected(1)]
        asked = second.asked("/v1/load_lora_adapter") + second.asked("/collective_rpc")
        assert len(asked) == 1


def test_a_server_that_was_started_anew_unnoticed_is_found_out(tmp_path: Path) -> None:
    """All weights are gone with it, and every rollout looks as good as any."""

    def forget(server: FakeVllm) -> Callable[[Handler, str, dict[str, Any]], bool]:
        def script(handler: Handler, path: str, body: dict[str, Any]) -> bool:
            if is_rollout(path, body) and not forgotten:
                forgotten.append(server.weights)
                server.weights = ("77", "default")
            return False

        return script

    forgotten: list[Any] = []
    with fake_vllm() as server:
        engine = make(tmp_path, server.url, kind="weights")
        engine.sync()
        server.script = forget(server)
        assert sample(engine) == expected(1)
        assert forgotten
        assert engine.recoveries == 1
