"""A chat-completions server on this machine that answers by rule: the same request always gets the same answer."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SKILL_FIELDS = ("title", "principle", "when_to_apply")
MISTAKE_FIELDS = ("description", "why_it_happens", "how_to_avoid")
KINDS = ("sum with a product", "bracket", "addition", "remainder", "square", "double minus")


def scripted_answer(prompt: str) -> str:
    """Items about the kind of problem in the prompt; merged items are those of one headline put together."""
    skills = "general_skills" in prompt
    key, fields = ("general_skills", SKILL_FIELDS) if skills else ("common_mistakes", MISTAKE_FIELDS)
    numbered = [json.loads(line) for line in prompt.splitlines() if line.startswith('{"number"')]
    return json.dumps({key: merged_items(numbered, fields) if numbered else extracted_items(prompt, fields)})


def extracted_items(prompt: str, fields: tuple[str, ...]) -> list[dict[str, str]]:
    problem = re.search(r"Problem:\n(.*?)\n", prompt)
    told = (problem.group(1) if problem else prompt).lower()
    kind = next((name for name in KINDS if told.startswith(name)), "sum")
    way = int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 3
    head = f"Mind the {kind}" if fields is SKILL_FIELDS else f"A slip with the {kind}"
    values = (head, f"Work out the {kind} in the {('first', 'right', 'usual')[way]} order.", f"Where a {kind} appears.")
    return [dict(zip(fields, values))]


def merged_items(items: list[dict[str, Any]], fields: tuple[str, ...]) -> list[dict[str, Any]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        groups.setdefault(item[fields[0]], []).append(item)
    return [{**{f: same[0][f] for f in fields}, "sources": [i["number"] for i in same]} for same in groups.values()]


@contextmanager
def scripted_server(
    answer: Callable[[str], str] = scripted_answer, delay: float = 0.0
) -> Iterator[tuple[str, list[str]]]:
    """Serve on a free port; yields the base address and the list of prompts it has answered."""
    prompts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if self.path != "/v1/chat/completions":
                self.send_error(404)
                return
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = asked["messages"][-1]["content"]
            time.sleep(delay)
            prompts.append(prompt)
            message = {"role": "assistant", "content": answer(prompt)}
            body = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": asked["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": len(prompt) // 3, "completion_tokens": 50, "total_tokens": 50},
            }
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # of callers at once; one that is not queued asks again a second later

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", prompts
    finally:
        server.shutdown()
        server.server_close()
