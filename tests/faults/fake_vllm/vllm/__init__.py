"""Stands in for vLLM in its own process: says what a rule says, and dies, hangs or falls short where a test wants it.

What goes wrong is in the environment as FAKE_VLLM, a word and the number of the sampling call (from 1, the canary
being the first) at which it happens, in the first process only unless the word ends with an exclamation mark.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FIRST = Path(os.environ.get("FAKE_VLLM_MARK", "/nonexistent/mark"))
trouble, _, at = os.environ.get("FAKE_VLLM", "").partition(" ")
ALWAYS = trouble.endswith("!")
TROUBLE = trouble.rstrip("!") if ALWAYS or not FIRST.exists() else ""
if FIRST.parent.is_dir():
    FIRST.touch()


def note(what: str, **told: Any) -> None:
    if "FAKE_VLLM_NOTES" in os.environ:
        with Path(os.environ["FAKE_VLLM_NOTES"]).open("a") as file:
            file.write(json.dumps({"what": what, "pid": os.getpid(), **told}) + "\n")


class SamplingParams(SimpleNamespace):
    pass


class LLM:
    def __init__(self, **settings: Any) -> None:
        note("start", settings=settings)
        if TROUBLE == "refuse":
            raise ValueError("1 error\n  Value error, head_dim=16 is not to my taste [type=value_error]")
        if TROUBLE == "sleepless":
            time.sleep(60)
        self.llm_engine = Inner(self)
        self.calls = 0
        self.counter = itertools.count()
        self.waiting: list[Any] = []

    def enqueue(self, prompts: list[Any], draws: list[SamplingParams], lora_request: Any, use_tqdm: bool) -> list[str]:
        self.calls += 1
        note("sample", count=len(prompts), seeds=[draw.seed for draw in draws], draw=vars(draws[0]))
        if self.calls == int(at or 0):
            if TROUBLE == "die":
                self.waiting = ["die"]
            if TROUBLE == "hang":
                time.sleep(60)
            if TROUBLE == "fail":
                raise RuntimeError("out of memory, or so")
            if TROUBLE == "offset":
                raise RuntimeError("CPU Generator does not use offset")
        numbers = [str(next(self.counter)) for _ in prompts]
        answers = [answer(n, p["prompt_token_ids"], d, lora_request) for n, p, d in zip(numbers, prompts, draws)]
        if self.calls == int(at or 0) and TROUBLE == "less":
            answers = answers[:-1]
        self.waiting = [*answers[:1], *self.waiting, *reversed(answers[1:])]
        return [f"{number}-abc" for number in numbers]

    def reset_prefix_cache(self) -> bool:
        return TROUBLE != "remember"

    def collective_rpc(self, method: str, args: tuple[str, ...]) -> None:
        note(method, folder=args[0], files=sorted(path.name for path in Path(args[0]).iterdir()))

    def sleep(self, level: int) -> None:
        note("sleep", level=level)

    def wake_up(self) -> None:
        note("wake")


class Inner:
    def __init__(self, llm: LLM) -> None:
        self.llm = llm
        self.model_config = SimpleNamespace(dtype="torch.float32", max_model_len=64)

    def has_unfinished_requests(self) -> bool:
        return bool(self.llm.waiting)

    def step(self) -> list[Any]:
        first = self.llm.waiting.pop(0)
        if first == "die":
            print("the last words of vLLM", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return [first]

    def add_lora(self, request: Any) -> bool:
        files = sorted(path.name for path in Path(request.lora_path).iterdir())
        note("add", number=request.lora_int_id, name=request.lora_name, folder=request.lora_path, files=files)
        return True

    def remove_lora(self, number: int) -> bool:
        note("remove", number=number)
        return True


def answer(number: str, prompt: list[int], draw: SamplingParams, adapter: Any) -> Any:
    """The prompt's length, the seed, the adapter's number, and an end token."""
    ids = [len(prompt), draw.seed % 97, adapter.lora_int_id if adapter else 0, draw.stop_token_ids[0]]
    logprobs = [{token: SimpleNamespace(logprob=-0.5)} for token in ids]
    output = SimpleNamespace(token_ids=ids, logprobs=logprobs, finish_reason="stop")
    return SimpleNamespace(finished=True, request_id=number, outputs=[output])
