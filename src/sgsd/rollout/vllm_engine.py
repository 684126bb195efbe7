"""Rollouts from vLLM beside the trainer, on the same machine and, if there is one, the same GPU."""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sgsd.rollout.canary import CANARY, known_vllm_problem
from sgsd.rollout.engine import EngineError, completion, request_seed, vllm_options
from sgsd.rollout.snapshots import Snapshot, Snapshots, Untrained
from sgsd.rollout.vllm_extension import EXTENSION
from sgsd.rollout.vllm_process import ProcessLost, ProcessRefused, VllmProcess
from sgsd.types import Completion, Sampling, UserError

_LOAD_SECONDS = 600.0  # for an adapter or all weights, for going to sleep and for waking up


@dataclass(frozen=True)
class VllmSettings:
    """How vLLM is started, and limits of its calls in seconds.

    Args:
        model: folder or hub name of what the policy started from.
        options: handed to `vllm.LLM` as they are, after what the engine itself asks for.
        max_rank: of the adapters, one of vLLM's sizes; None where all weights train.
        sleep: level at which memory is given back between samplings; None: never.
        start: until the engine is there and has answered its canary.
        silence: between two completed rollouts of one call.
        retries: further tries of a call, each with a new process, after one that died, hung or answered with less.
        environment: of the process, over what this one has.
    """

    model: str
    log: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    max_rank: int | None = None
    sleep: int | None = None
    start: float = 600.0
    silence: float = 1800.0
    retries: int = 2
    environment: Mapping[str, str] = field(default_factory=dict)

    def llm_arguments(self) -> dict[str, Any]:
        lora = {"enable_lora": True, "max_loras": 1, "max_lora_rank": self.max_rank} if self.max_rank else {}
        whole = {} if self.max_rank else {"worker_extension_cls": EXTENSION}
        sleeping = {"enable_sleep_mode": True} if self.sleep else {}
        # What generation_config.json says of sampling is not what the run's configuration says.
        return {"model": self.model, "generation_config": "vllm", **lora, **whole, **sleeping, **self.options}


class VllmEngine:
    """Samples from a vLLM of its own, which is started by the first `sync` and given the policy by each.

    Raises:
        UserError: vLLM is not installed or refuses the model or an option.
        EngineError: it died, hung or answered with less than it was asked for, as often as it may be tried.
    """

    def __init__(
        self,
        settings: VllmSettings,
        snapshots: Snapshots | Untrained,
        decode: Callable[[Sequence[int]], str],
        end_ids: frozenset[int],
    ) -> None:
        self.settings, self.snapshots, self.decode, self.end_ids = settings, snapshots, decode, end_ids
        self.dtype = str(settings.options.get("dtype", "bfloat16"))  # until vLLM says
        self.context = 0  # tokens of a prompt and its completion together; until vLLM says
        self.restarts = 0
        self._process: VllmProcess | None = None
        self._policy: Snapshot | None = None
        self._asleep = False
        self._closed = False
        self._kill: Callable[[], object] = lambda: None

    def sync(self) -> None:
        self._closed = False
        before, self._policy = self._policy, self.snapshots.take()
        try:
            self._retrying("taking over the weights", lambda: self._load() if self._ensure_started() else None)
        finally:
            self.snapshots.drop(before)

    def sample(
        self, prompts: Sequence[Sequence[int]], indices: Sequence[int], sampling: Sampling, *, seed: int
    ) -> list[Completion]:
        if len(prompts) != len(indices):
            raise ValueError(f"{len(prompts)} prompts but {len(indices)} indices")
        if self._policy is None:
            self.sync()
        done: dict[int, Completion] = {}

        def attempt() -> None:
            self._ensure_started()
            self._check_lengths(prompts)
            self._wake()
            places = [place for place in range(len(prompts)) if place not in done]
            seeds = [request_seed(seed, indices[place]) for place in places]
            for place, ids, logps in self._generate([prompts[place] for place in places], seeds, sampling):
                at = places[place]
                done[at] = completion(indices[at], ids, self.decode, self.end_ids, logps)
            if len(done) < len(prompts):
                raise ProcessLost(f"answered {len(done)} of {len(prompts)} prompts")
            self._sleep()

        self._retrying(f"sampling {len(prompts)} rollouts", attempt, min(map(len, prompts), default=0))
        return [done[place] for place in range(len(prompts))]

    def close(self) -> None:
        """End vLLM's process and give back what it holds, a call in another thread included; a sync starts another."""
        self._closed = True
        self._kill()
        self._process = None
        self.snapshots.close()
        self._policy = None

    @property
    def pid(self) -> int | None:
        """The id of vLLM's process, while there is one."""
        return None if self._process is None else self._process.pid

    # ── The process ────────────────────────────────────────────────────────────────────────────────────────────────

    def _retrying(self, activity: str, action: Callable[[], object], shortest: int = 0) -> None:
        """Do the action, with a new process after one was lost. Raises EngineError, UserError."""
        begun = time.monotonic()
        for left in range(self.settings.retries, -1, -1):
            try:
                action()
                return
            except (ProcessLost, ProcessRefused) as error:
                process, what = self._process, f"while {activity} it {_failure(error)}"
                words = process.log_tail() if process is not None else ""
                self._kill()
                self._process = None
                self.restarts += 1
                if left == 0 or self._closed:
                    problem = known_vllm_problem(f"{error} {words}", shortest, self.dtype)
                    tries = f"{self.settings.retries + 1} tries" if self.settings.retries else "one try"
                    raise EngineError(
                        "vllm",
                        f"{what} ({tries})",
                        time.monotonic() - begun,
                        f"{problem}; see {self.settings.log}, mend it, and go on by --resume",
                    ) from error

    def _ensure_started(self) -> bool:
        """Start the process where there is none, with its canary; returns whether it was there already."""
        if self._process is not None:
            return True
        process = self._process = VllmProcess(self.settings.log, self.settings.environment)
        self._kill = weakref.finalize(self, process.kill)
        self._asleep = False
        deadline = time.monotonic() + self.settings.start
        try:
            process.send({"do": "start", "settings": self.settings.llm_arguments()}, self.settings.start)
            reply = process.receive(self.settings.start)
        except ProcessRefused as error:
            self._kill()
            self._process = None
            raise _refusal(str(error), self.settings, process) from error
        self.dtype, self.context = reply["dtype"], reply["context"]
        list(self._generate([CANARY], [0], Sampling(max_tokens=4), max(1.0, deadline - time.monotonic())))
        self._load()
        return False

    def _load(self) -> None:
        """Give vLLM the policy's current weights."""
        assert self._policy is not None, "a sync comes first"
        if self.snapshots.kind == "none":
            return
        self._wake()
        folder = str(self._policy.folder)
        if self.snapshots.kind == "adapter":
            self._command({"do": "adapt", "number": self._policy.number, "name": self._policy.name, "folder": folder})
        else:
            self._command({"do": "load", "folder": folder})

    def _generate(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling, silence: float | None = None
    ) -> Any:
        """Yield (place, token ids, log-probs) of each completion as it ends."""
        process, silence = self._process, silence or self.settings.silence
        assert process is not None
        command = {"do": "sample", "prompts": [list(prompt) for prompt in prompts], "seeds": list(seeds)}
        process.send({**command, "sampling": vllm_options(sampling, self.end_ids)}, silence)
        while "done" not in (reply := process.receive(silence)):
            yield reply["place"], reply["ids"], reply["logps"]

    def _wake(self) -> None:
        if not self._asleep:
            return
        torch.cuda.empty_cache()  # what the trainer holds without use is what vLLM will need
        self._command({"do": "wake"})
        self._asleep = False
        if self.settings.sleep == 2:  # it has forgotten the weights
            self._load()

    def _sleep(self) -> None:
        if self.settings.sleep is not None:
            self._command({"do": "sleep", "level": self.settings.sleep})
            self._asleep = True

    def _command(self, command: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process is not None
        seconds = min(_LOAD_SECONDS, self.settings.silence)
        self._process.send(command, seconds)
        reply = self._process.receive(seconds)
        if reply.get("forgot") is False:
            raise ProcessLost("kept keys and values of the old weights")
        return reply

    def _check_lengths(self, prompts: Sequence[Sequence[int]]) -> None:
        longest = max(map(len, prompts), default=0)
        if longest >= self.context:
            raise UserError(
                f"rollout.max_model_len: a prompt of {longest} tokens leaves no room in {self.context}; set it higher,"
                " or prompts.max_tokens lower"
            )


def _failure(error: ProcessLost | ProcessRefused) -> str:
    return str(error) if isinstance(error, ProcessLost) else f"failed with {str(error)[:240]}"


def _refusal(message: str, settings: VllmSettings, process: VllmProcess) -> UserError:
    """The error for a vLLM that refused to start, which another try would not change."""
    if message.startswith("ModuleNotFoundError: No module named 'vllm'"):
        return UserError("rollout.engine: vLLM is not installed: pip install 'sgsd[vllm]'")
    found = re.search(r"Value error, (.*?)(?:\[type=|\Z)", message)
    reason = (found[1] if found else message).strip()[:240]
    problem = known_vllm_problem(f"{message} {process.log_tail()}", 0, str(settings.options.get("dtype")))
    return UserError(f"rollout.engine: vLLM refuses {settings.model}: {reason}; {problem}; see {settings.log}")
