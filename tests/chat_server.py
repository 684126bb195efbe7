"""A server on this machine that speaks the chat-completions protocol, well or badly, as a test's function says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ITEM = {"title": "t", "principle": "p", "when_to_apply": "w"}


def answer(*items: Any) -> str:
    return json.dumps({"general_skills": list(items or [ITEM])})


def completion(content: Any) -> dict[str, Any]:
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
    }


class Handler(BaseHTTPRequestHandler):
    """Hands every call to the test's function, which answers through `send`, or does something worse."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][0]["content"]
        with self.server.lock:
            self.server.calls.append(
                Call(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            )
            tries = self.server.tries[text] = self.server.tries.get(text, 0) + 1
        self.server.script(self, body, tries)

    def send(
        self, body: Any, status: int = 200, kind: str = "application/json", headers: dict[str, str] | None = None
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def say(self, content: Any) -> None:
        self.send(completion(content))

    def break_off(self) -> None:
        """Promise a whole body and hang up in its middle."""
        data = json.dumps(completion(answer())).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Call:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


Script = Callable[[Handler, dict[str, Any], int], None]


@dataclass
class Server(ThreadingHTTPServer):
    script: Script
    calls: list[Call] = field(default_factory=list)
    tries: dict[str, int] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock)
    request_queue_size = 128  # of callers at once; one that is not queued asks again a second later

    def __post_init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_: object) -> None:
        """A client that has hung up is part of the game."""

    __hash__ = ThreadingHTTPServer.__hash__


@contextmanager
def serving(script: Script) -> Iterator[Server]:
    server = Server(script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
