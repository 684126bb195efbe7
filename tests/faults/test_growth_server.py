"""A server with every fault of its kind: nothing crashes, each fault is counted, and no usable answer is lost."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from chat_server import ITEM, Handler, Script, Server, answer, completion, serving
from sgsd.contexts.prompts import PromptSet, load_prompts
from sgsd.skills import TEMPLATES, AnswerCache, Request, ServerSettings, ServerWriter, WriterClient, WriterError
from sgsd.skills.drafts import ExtractedSkills, schema_of
from sgsd.types import UserError

KEY = "sk-never-to-be-seen-0123456789"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    return load_prompts("growth", required=TEMPLATES)


def writer_for(server: Server, **changes: Any) -> ServerWriter:
    common: dict[str, Any] = {"timeout": 1.5, "retries": 2, "pause": 0.01, "concurrency": 16}
    return ServerWriter(ServerSettings("m", server.url, **(common | changes)))


def ask_for(text: str) -> Request:
    return Request((("user", text),), ExtractedSkills, 64)


def once(fault: Callable[[Handler], None]) -> Script:
    return lambda handler, body, tries: fault(handler) if tries == 1 else handler.say(answer())


def always(fault: Callable[[Handler], None]) -> Script:
    return lambda handler, body, tries: fault(handler)


def broken_first(content: Any) -> Script:
    """Unreadable until the desk asks for a repair."""
    return lambda handler, body, tries: handler.say(content if len(body["messages"]) == 1 else answer())


def said(content: Any) -> Script:
    return always(lambda handler: handler.say(content))


def refuse_schema(handler: Handler, body: dict[str, Any], tries: int) -> None:
    if "response_format" in body:
        handler.send({"error": {"message": "response_format is not supported"}}, 400)
    else:
        handler.say(answer())


@dataclass(frozen=True)
class Fault:
    """What the server does, and what must come of it."""

    script: Script
    items: int = 1  # that must be used
    retried: str | None = None  # what the bill must say of the first try
    repairs: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


def not_a_completion(name: str, body: Any, kind: str = "application/json") -> Fault:
    reason = f"an answer that is no chat completion ({name})"
    return Fault(once(lambda handler: handler.send(body, 200, kind)), retried=reason)


TWO = [ITEM, ITEM | {"title": "u"}]
TORN = json.dumps(completion(answer())).encode()[:90]
USAGE = {"usage": {"prompt_tokens": None, "completion_tokens": "5"}}
FAULTS = {
    "fine": Fault(said(answer(*TWO)), items=2),
    "429": Fault(once(lambda h: h.send({}, 429, headers={"Retry-After": "0.05"})), retried="status 429"),
    "429 html": Fault(once(lambda h: h.send(b"<html>", 429, "text/html")), retried="status 429"),
    "500": Fault(once(lambda h: h.send(b"boom", 500, "text/plain")), retried="status 500"),
    "503": Fault(once(lambda h: h.send({"error": None}, 503)), retried="status 503"),
    "slow": Fault(once(lambda h: time.sleep(2)), retried="no answer within 1.5 s"),
    "cut connection": Fault(once(lambda h: h.break_off()), retried="no connection (RemoteProtocolError)"),
    "cut body": not_a_completion("JSONDecodeError", TORN),
    "html": not_a_completion("JSONDecodeError", b"<html>busy</html>", "text/html"),
    "no choices": not_a_completion("IndexError", {"choices": []}),
    "null choices": not_a_completion("TypeError", {"choices": None}),
    "a list": not_a_completion("TypeError", [1, 2]),
    "another object": not_a_completion("KeyError", {"error": "busy"}),
    "content in parts": not_a_completion("TypeError", completion([{"text": "x"}])),
    "wrong type": Fault(always(lambda h: h.send(completion(answer()), kind="text/plain"))),
    "odd usage": Fault(always(lambda h: h.send(completion(answer()) | USAGE))),
    "no usage": Fault(always(lambda h: h.send(completion(answer()) | {"usage": None}))),
    "cut JSON": Fault(said(answer(*TWO)[:-25]), dropped={"an item cut off": 1}),
    "null list": Fault(said('{"general_skills": null}'), items=0),
    "strings": Fault(said(answer("a", ITEM, "b")), dropped={"an item that is no object": 2}),
    "only strings": Fault(broken_first(answer("a", "b")), repairs=1),
    "latex": Fault(said(r"<think>\frac{1}{2} \boxed{\{3\}} {</think>" + f"```json\n{answer()}\n```")),
    "empty": Fault(broken_first(""), repairs=1),
    "null content": Fault(broken_first(None), repairs=1),
    "prose": Fault(broken_first("I would rather not."), repairs=1),
    "half a character": Fault(broken_first("\ud800"), repairs=1),
    "endless thinking": Fault(broken_first("<think>" + r"\frac{1}{2}" * 500), repairs=1),
}
# Name → what the server does, and why there is no answer in the end.
HOPELESS: dict[str, tuple[Script, str]] = {
    "always 500": (always(lambda h: h.send({}, 500)), "status 500"),
    "away for an hour": (always(lambda h: h.send({}, 429, headers={"Retry-After": "3600"})), "status 429"),
    # Some servers repeat the key in their complaint.
    "always 418": (always(lambda h: h.send({"error": {"message": h.headers["Authorization"]}}, 418)), "status 418"),
    "too long": (always(lambda h: h.send({"error": {"message": "context length"}}, 400)), "status 400"),
    "always prose": (said("no"), "no JSON in it"),
}


def play(handler: Handler, body: dict[str, Any], tries: int) -> None:
    name = body["messages"][0]["content"].partition("#")[0]
    script = FAULTS[name].script if name in FAULTS else HOPELESS[name][0]
    script(handler, body, tries)


def test_every_fault_is_survived_and_counted_and_its_answer_used(prompts: PromptSet, tmp_path: Path) -> None:
    copies = 4
    names = [name for name in FAULTS for _ in range(copies)] + [*HOPELESS]
    requests = [ask_for(f"{name}#{number}") for number, name in enumerate(names)]
    began = time.perf_counter()
    with serving(play) as server, AnswerCache(tmp_path / "answers") as cache, writer_for(server) as writer:
        client = WriterClient(writer, prompts, cache)
        found = client.ask(requests)
        calls = len(server.calls)
        again = WriterClient(writer, prompts, cache).ask(requests[: copies * len(FAULTS)])
    assert time.perf_counter() - began < 60
    usable = used = 0
    for name, reading in zip(names, found):
        if name in FAULTS:
            usable += FAULTS[name].items
            used += len(reading.drafts) if reading is not None else 0
        else:
            assert reading is None
    assert used >= 0.95 * usable
    assert used == usable
    usage = client.usage
    assert usage.answers == copies * len(FAULTS)
    assert usage.repairs == copies * sum(fault.repairs for fault in FAULTS.values()) + 1
    retried = Counter(fault.retried for fault in FAULTS.values() for _ in range(copies) if fault.retried)
    assert usage.retried == retried + Counter({"status 500": 2})
    assert usage.dropped == {"an item that is no object": 2 * copies, "an item cut off": copies}
    assert usage.failures == Counter(reason for _, reason in HOPELESS.values())
    without_usage = 2 * copies + len(HOPELESS) - 1  # all that is hopeless but the prose
    assert usage.prompt_tokens == 7 * (usage.calls - without_usage)
    # Nothing was asked a second time, and no refusal of one request has cost the others their schema.
    assert again == found[: len(again)]
    assert calls == len(server.calls)
    assert writer._without == frozenset()


def test_a_server_without_schemas_is_asked_without_them(prompts: PromptSet) -> None:
    with serving(refuse_schema) as server, writer_for(server, concurrency=1) as writer:
        client = WriterClient(writer, prompts)
        assert all(client.ask([ask_for(str(n)) for n in range(5)]))
        asked = ["response_format" in call.body for call in server.calls]
    assert asked == [True] + [False] * 5
    assert client.usage.failures.total() == 0
    with serving(always(lambda h: h.say(answer()))) as server, writer_for(server, json_schema=False) as writer:
        assert all(WriterClient(writer, prompts).ask([ask_for("q")]))
        assert "response_format" not in server.calls[0].body


def test_settings_that_a_server_refuses_are_left_out(prompts: PromptSet) -> None:
    """As models that only take their own temperature, and count their thinking in max_completion_tokens, do."""

    def strict(handler: Handler, body: dict[str, Any], tries: int) -> None:
        for name in ("max_tokens", "temperature"):
            if name in body:
                handler.send({"error": {"message": f"Unsupported parameter: '{name}'", "param": name}}, 400)
                return
        handler.say(answer())

    with serving(strict) as server, writer_for(server, concurrency=1) as writer:
        assert all(WriterClient(writer, prompts).ask([ask_for(str(n)) for n in range(3)]))
        last = server.calls[-1].body
    assert len(server.calls) == 5
    assert last["max_completion_tokens"] == 64
    assert "max_tokens" not in last
    assert "response_format" in last


def test_what_a_server_is_asked(prompts: PromptSet) -> None:
    with serving(always(lambda h: h.say(answer()))) as server, writer_for(server, temperature=0.3) as writer:
        WriterClient(writer, prompts).ask([ask_for("a \ud800 question")])
        (call,) = server.calls
    assert call.path == "/v1/chat/completions"
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert call.body == {
        "model": "m",
        "messages": [{"role": "user", "content": "a ? question"}],
        "temperature": 0.3,
        "max_tokens": 64,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "ExtractedSkills", "schema": schema_of(ExtractedSkills), "strict": True},
        },
    }


def test_azure_has_a_path_and_a_header_of_its_own(prompts: PromptSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("AZURE_KEY", KEY)
    settings: dict[str, Any] = {"key_variable": "AZURE_KEY", "azure_version": "2024-10-21"}
    with serving(always(lambda h: h.say(answer()))) as server:
        azure = ServerSettings("my-deployment", server.url.removesuffix("/v1"), **settings)
        with ServerWriter(azure) as writer:
            assert all(WriterClient(writer, prompts).ask([ask_for("q")]))
    (call,) = server.calls
    assert call.path == "/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21"
    assert call.headers["api-key"] == KEY
    assert "authorization" not in call.headers
    with pytest.raises(UserError, match=r"writer\.base_url"):
        ServerWriter(ServerSettings("m", None, **settings))


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_is_said_at_once(prompts: PromptSet, status: int) -> None:
    with (
        serving(always(lambda h: h.send({"error": KEY}, status))) as server,
        writer_for(server, concurrency=2) as writer,
    ):
        with pytest.raises(UserError, match=f"status {status}; look at writer.model .*OPENAI_API_KEY") as caught:
            WriterClient(writer, prompts).ask([ask_for(str(n)) for n in range(100)])
        assert KEY not in "".join(traceback.format_exception(caught.value))
    assert len(server.calls) <= 6


def test_a_dead_server_is_left_early_and_without_waiting(prompts: PromptSet) -> None:
    many = [ask_for(str(n)) for n in range(256)]
    with (
        serving(always(lambda h: time.sleep(5))) as server,
        writer_for(server, concurrency=4, retries=1, timeout=0.5) as writer,
    ):
        began = time.perf_counter()
        with pytest.raises(WriterError, match=r"no answer within 0.5 s"):
            WriterClient(writer, prompts).ask(many)
        assert time.perf_counter() - began < 20  # all of them would take 64 s
    assert len(server.calls) <= 16
    nobody = ServerSettings("m", server.url, pause=0.01, retries=1)  # the server above is gone
    with ServerWriter(nobody) as writer, pytest.raises(WriterError, match=r"no connection \(ConnectError\)"):
        WriterClient(writer, prompts).ask(many)


def test_nobody_goes_on_asking_after_the_end(prompts: PromptSet) -> None:
    def mixed(handler: Handler, body: dict[str, Any], tries: int) -> None:
        handler.send({}, 418 if int(body["messages"][0]["content"]) < 10 else 500)

    with serving(mixed) as server, writer_for(server, retries=50, pause=0.1, concurrency=20) as writer:
        with pytest.raises(WriterError, match="failed 5 of 20 requests"):
            WriterClient(writer, prompts).ask([ask_for(str(n)) for n in range(20)])
        deadline = time.monotonic() + 60
        while any(thread.name.startswith("writer") for thread in threading.enumerate()):
            assert time.monotonic() < deadline, "what was under way never came to its end"
            time.sleep(0.01)
        calls = len(server.calls)
        time.sleep(0.5)
        assert len(server.calls) == calls


def test_no_more_is_asked_before_an_answer_was_kept() -> None:
    """So a kill loses what is under way, and nothing beyond it."""
    with serving(always(lambda h: h.say(answer()))) as server, writer_for(server, concurrency=2) as writer:
        answers = writer.write([ask_for(str(n)) for n in range(20)])
        for kept in range(5):
            next(answers)
            time.sleep(0.1)
            assert len(server.calls) <= kept + 2
        assert len(list(answers)) == 15
        assert len(server.calls) == 20


def test_calls_are_as_many_at_a_time_as_was_said(prompts: PromptSet) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def count(handler: Handler, body: dict[str, Any], tries: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        handler.say(answer())

    with serving(count) as server, writer_for(server, concurrency=3, timeout=10) as writer:
        assert all(WriterClient(writer, prompts).ask([ask_for(str(n)) for n in range(24)]))
    assert 2 <= most <= 3


def test_a_pause_that_the_server_asks_for_is_kept(prompts: PromptSet) -> None:
    with serving(once(lambda h: h.send({}, 429, headers={"Retry-After": "1"}))) as server, writer_for(server) as writer:
        began = time.perf_counter()
        assert all(WriterClient(writer, prompts).ask([ask_for("q")]))
        assert 1.0 <= time.perf_counter() - began < 3


@pytest.mark.parametrize("around", ["{}", "{}\n", " {}\r\n"])
def test_the_key_is_seen_by_nobody_but_the_server(
    around: str, prompts: PromptSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Log records with their arguments and tracebacks, the bill, the cache, the errors, the settings, the writer."""
    monkeypatch.setenv("OPENAI_API_KEY", around.format(KEY))
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        caplog.set_level(logging.DEBUG, logger=name)
    chosen = ["fine", "429", "500", "cut connection", "html", "always 418", "always 500", "too long"]
    requests = [ask_for(f"{name}#0") for name in chosen]
    seen: list[str] = []
    with serving(play) as server, AnswerCache(tmp_path / "answers") as cache, writer_for(server) as writer:
        client = WriterClient(writer, prompts, cache, failure_budget=1.0)
        client.ask(requests)
        seen += [json.dumps(client.usage.to_dict()), repr(client), repr(writer), repr(vars(writer)), writer.name]
        with pytest.raises(WriterError) as caught:
            WriterClient(writer, prompts, failure_budget=0.0).ask([ask_for(f"always 418#{n}") for n in range(4)])
        seen += ["".join(traceback.format_exception(caught.value))]
    assert {call.headers["authorization"] for call in server.calls} == {f"Bearer {KEY}"}
    formatter = logging.Formatter()
    for record in caplog.records:
        seen += [formatter.format(record), repr(record.args), repr(record.msg)]
    assert caplog.records
    seen += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in seen if KEY in text]


@pytest.mark.parametrize(
    ("settings", "environment", "says"),
    [
        ({"base_url": None}, "", "has no OPENAI_API_KEY; put the server's key there"),
        ({"base_url": "http://x", "azure_version": "1"}, "  ", "has no OPENAI_API_KEY"),
        ({"base_url": None}, "sk-né", "has a character that no key has"),
        ({"base_url": None}, "sk one", "has a character that no key has"),
        ({"base_url": "localhost:8000/v1"}, "", "must begin with http"),
        ({"base_url": "ftp://localhost"}, "", "must begin with http"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    settings: dict[str, Any], environment: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", environment)
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        ServerWriter(ServerSettings("m", **settings))
    assert not environment.strip() or environment not in str(caught.value)


def test_a_server_of_ones_own_needs_no_key(prompts: PromptSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with serving(always(lambda h: h.say(answer()))) as server, writer_for(server) as writer:
        assert all(WriterClient(writer, prompts).ask([ask_for("q")]))
