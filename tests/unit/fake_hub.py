"""A hub on 127.0.0.1 that keeps what is uploaded to it: just enough of the protocol for one commit."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml


class Hub:
    """Repositories, and every request that was made."""

    def __init__(self) -> None:
        self.address = ""
        self.shut_down: Callable[[], None] = lambda: None
        self.private: dict[str, bool] = {}
        self.branches: list[str] = []
        self.files: dict[str, bytes] = {}  # of the one commit
        self.blobs: dict[str, bytes] = {}  # large files by sha256
        self.commits: list[str] = []
        self.tokens: set[str | None] = set()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        parts = path.split("?")[0].strip("/").split("/")
        if method == "PUT":
            self.blobs[parts[-1]] = body
            return 200, {}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
            if name in self.private:
                return 409, {"error": "You already created this model repo", "url": f"{self.address}/{name}"}
            self.private[name] = asked.get("visibility") == "private"
            return 200, {"url": f"{self.address}/{name}"}
        if path == "/api/validate-yaml":
            yaml.safe_load(json.loads(body)["content"].split("---")[1])
            return 200, {"errors": [], "warnings": []}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.address}/blob/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if parts[:2] != ["api", "models"] or "/".join(parts[2:4]) not in self.private:
            return 404, {"error": "Repository not found"}
        return self._in_repository("/".join(parts[2:4]), method, parts[4:], body)

    def _in_repository(self, repo: str, method: str, rest: list[str], body: bytes) -> tuple[int, dict[str, Any]]:
        if method == "GET":
            return 200, {"id": repo, "modelId": repo, "private": self.private[repo], "tags": [], "siblings": []}
        if rest[0] == "branch":
            self.branches.append(rest[1])
            return 200, {}
        if rest[0] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            mode = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            return 200, {"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in mode.items()]}
        self.commits.append(rest[1])
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                self.files[value["path"]] = self.blobs[value["oid"]]
        return 200, {"commitOid": "c" * 40, "commitUrl": f"{self.address}/{repo}/commit/{'c' * 40}", "hookOutput": ""}


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.command != "PUT":
                hub.tokens.add(self.headers.get("Authorization"))
            status, answer = hub.answer(self.command, self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = handle_any

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # of callers at once; one that is not queued asks again a second later

    server = Server(("127.0.0.1", 0), Handler)

    def shut_down() -> None:
        server.shutdown()
        thread.join()
        server.server_close()

    hub.shut_down = shut_down
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        if thread.is_alive():
            shut_down()
