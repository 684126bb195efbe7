"""vLLM in a process of its own, started by `vllm_process`: carries out commands until the connection ends.

Started as a file and importing nothing of ours: the process is vLLM's, with its own torch and threads.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

Message = dict[str, Any]


class Worker:
    """Carries out commands; each method yields the messages that answer one."""

    def __init__(self) -> None:
        self.llm: Any = None
        self.adapter: Any = None

    def start(self, settings: Mapping[str, Any]) -> Iterator[Message]:
        import vllm

        self.llm = vllm.LLM(**settings)
        config = self.llm.llm_engine.model_config
        yield {"dtype": str(config.dtype).removeprefix("torch."), "context": config.max_model_len}

    def adapt(self, number: int, name: str, folder: str) -> Iterator[Message]:
        """Take a LoRA adapter in, under an id that is new: under a known one vLLM goes on with the old weights."""
        from vllm.lora.request import LoRARequest

        engine = self.llm.llm_engine
        if self.adapter is not None:
            engine.remove_lora(self.adapter.lora_int_id)
        self.adapter = LoRARequest(name, number, folder)
        if not engine.add_lora(self.adapter):
            raise RuntimeError(f"vLLM did not load {folder}")
        yield {"forgot": self.llm.reset_prefix_cache()}

    def load(self, folder: str) -> Iterator[Message]:
        """Take all weights in."""
        self.llm.collective_rpc("sgsd_load_policy", args=(folder,))
        yield {"forgot": self.llm.reset_prefix_cache()}

    def sample(self, prompts: list[list[int]], seeds: list[int], sampling: Mapping[str, Any]) -> Iterator[Message]:
        """One message for each completion as it ends, in any order: silence means that nothing gets on."""
        from vllm import SamplingParams

        draws = [
            SamplingParams(
                **sampling,
                seed=seed,
                ignore_eos=True,  # the end tokens are the trainer's, named in stop_token_ids, and no others
                logprobs=0,  # of the sampled token alone: raw ones, at temperature 1
                detokenize=False,
            )
            for seed in seeds
        ]
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        ids = self.llm.enqueue(asked, draws, lora_request=self.adapter, use_tqdm=False)
        places = {request.partition("-")[0]: place for place, request in enumerate(ids)}
        while self.llm.llm_engine.has_unfinished_requests():
            for output in self.llm.llm_engine.step():
                if output.finished and output.outputs[0].finish_reason in ("stop", "length"):
                    yield {"place": places[output.request_id], **_token_record(output.outputs[0])}
        yield {"done": len(prompts)}

    def sleep(self, level: int) -> Iterator[Message]:
        self.llm.sleep(level=level)
        yield {"asleep": level}

    def wake(self) -> Iterator[Message]:
        self.llm.wake_up()
        yield {"asleep": 0}


def _token_record(output: Any) -> Message:
    ids = list(output.token_ids)
    return {"ids": ids, "logps": [entry[token].logprob for token, entry in zip(ids, output.logprobs, strict=True)]}


def _read_commands(stream: BinaryIO, queued: queue.Queue[Message]) -> None:
    for line in stream:
        queued.put(json.loads(line))
    os.killpg(os.getpgid(0), signal.SIGKILL)  # the trainer is gone; vLLM's own processes are of this group


def main(descriptor: int) -> None:
    connection = socket.socket(fileno=descriptor)
    queued: queue.Queue[Message] = queue.Queue()
    threading.Thread(target=_read_commands, args=(connection.makefile("rb"), queued), daemon=True).start()
    worker = Worker()
    commands: dict[str, Callable[..., Iterator[Message]]] = {
        name: getattr(worker, name) for name in ("start", "adapt", "load", "sample", "sleep", "wake")
    }
    while True:
        command = queued.get()
        try:
            for message in commands[command.pop("do")](**command):
                connection.sendall(json.dumps(message).encode() + b"\n")
        except Exception as error:  # noqa: BLE001 - whatever vLLM raises is told to the trainer, which judges it
            import traceback

            traceback.print_exc()
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            connection.sendall(json.dumps({"failed": reason}).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
