"""A server on this machine that speaks as much of vLLM's HTTP as rollouts need, well or badly, as a test wants it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

END = 99
Script = Callable[["Handler", str, dict[str, Any]], bool]  # whether it has dealt with the call


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeVllm

    def do_GET(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        self._serve(json.loads(self.rfile.read(size)) if size else {})

    def _serve(self, body: dict[str, Any]) -> None:
        server = self.server
        with server.lock:
            server.calls.append((self.path, body))
        if server.script is None or not server.script(self, self.path, body):
            self.send(*server.answer(self.path, body))

    def send(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def break_off(self) -> None:
        """Promise a whole body and hang up in its middle."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices": [')
        self.close_connection = True

    def trickle(self, stop: threading.Event) -> None:
        """A byte now and then, for ever: no wait of a socket is long."""
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        while not stop.wait(0.05):
            try:
                self.wfile.write(b" ")
            except OSError:
                return

    def log_message(self, *_: object) -> None:
        pass


class FakeVllm(ThreadingHTTPServer):
    """Knows adapters by name and weights by version, and forgets both when it is started anew."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int = 0, script: Script | None = None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.script, self.lock = script, threading.Lock()
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.adapters: dict[str, str] = {}
        self.weights = ("", "default")  # text of the file, version
        self.room = 64

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def asked(self, path: str) -> list[dict[str, Any]]:
        return [body for where, body in self.calls if where == path]

    def handle_error(self, *_: object) -> None:
        """A client that has hung up is part of the game."""

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/health":
            return 200, {}
        if path == "/v1/models":
            adapters = [{"id": name, "parent": "base"} for name in self.adapters]
            return 200, {"data": [{"id": "base", "max_model_len": self.room, "parent": None}, *adapters]}
        if path == "/v1/load_lora_adapter":
            return self._load_adapter(body["lora_name"], Path(body["lora_path"]))
        if path == "/v1/unload_lora_adapter":
            return (200, "ok") if self.adapters.pop(body["lora_name"], None) else (404, error("no such adapter"))
        if path == "/collective_rpc":
            self.weights = (Path(body["kwargs"]["folder"], "weights").read_text(), "default")
            return 200, {"results": [None]}
        if path == "/reset_prefix_cache":
            return 200, {"success": True}
        if path == "/update_weight_version":
            self.weights = (self.weights[0], body["new_version"])
            return 200, {"success": True}
        if path == "/weight_info":
            return 200, {"weight_version": self.weights[1]}
        if path == "/v1/completions":
            return self._complete(body)
        return 404, {"detail": "Not Found"}

    def _load_adapter(self, name: str, folder: Path) -> tuple[int, Any]:
        if name in self.adapters:
            return 400, error(f"{name} has already been loaded")
        if not (folder / "weights").is_file():
            return 404, error(f"No adapter found for '{folder}'")
        self.adapters[name] = (folder / "weights").read_text()
        return 200, "Success"

    def _complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body["model"] != "base" and body["model"] not in self.adapters:
            return 404, error(f"The model `{body['model']}` does not exist.")
        state = self.weights[0] if body["model"] == "base" else self.adapters[body["model"]]
        ids = [len(body["prompt"]), body["seed"] % 97, int(state or 0), *body["stop_token_ids"]]
        return 200, {"choices": [choice(ids)]}


def choice(ids: list[int]) -> dict[str, Any]:
    return {"finish_reason": "stop", "token_ids": ids, "logprobs": {"token_logprobs": [-0.25] * len(ids)}}


def error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "code": 404}}


@contextmanager
def fake_vllm(script: Script | None = None, port: int = 0) -> Iterator[FakeVllm]:
    server = FakeVllm(port, script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
