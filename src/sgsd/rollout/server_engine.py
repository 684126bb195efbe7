"""Rollouts from vLLM servers that somebody else has started, on this machine or on others.

The policy goes there through a folder that both sides see: a LoRA adapter by /v1/load_lora_adapter, all weights by the
engine's own reloading behind /collective_rpc.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sgsd.rollout.canary import CANARY, known_vllm_problem
from sgsd.rollout.engine import EngineError, completion, request_seed, vllm_options
from sgsd.rollout.http_calls import Reply, TooLate, Unreachable, call, run
from sgsd.rollout.snapshots import Snapshot, Snapshots, Untrained
from sgsd.types import Completion, Sampling, UserError

_GLANCE_SECONDS = 10.0  # for questions that a server answers without thinking
_PAUSE_SECONDS = 1.0  # between two looks whether a server is back
_LOAD_SECONDS = 600.0

START_WITH = {
    "adapter": "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, --enable-lora and --max-lora-rank",
    "weights": "VLLM_SERVER_DEV_MODE=1 and --worker-extension-cls sgsd.rollout.vllm_extension.PolicyLoader",
}


@dataclass(frozen=True)
class ServerSettings:
    """Addresses of the servers and limits of their calls, in seconds.

    Args:
        urls: base addresses, with or without /v1; rollouts are dealt out by their index.
        key: sent as a bearer token; empty: none.
        dtype: what the servers compute in, which they do not say.
        context: tokens that a prompt and its completion must have room for.
        concurrency: requests under way at a time, over all servers.
        start: how long to wait for a server that is not there yet, or not there any more.
        timeout: of one request.
        retries: further tries of a call after a fault.
    """

    urls: tuple[str, ...]
    key: str = ""
    dtype: str = "bfloat16"
    context: int = 0
    concurrency: int = 256
    start: float = 600.0
    timeout: float = 1800.0
    retries: int = 2


class _Fault(Exception):
    """A try that failed and may go better the next time."""


class _Refusal(Exception):
    """A failure that no further try will change, and what to do about it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.remedy = remedy


class ServerEngine:
    """Samples from vLLM servers that others have started, with the policy's current weights.

    Args:
        first: carries out something on one process for all of them and returns what it gave; each sync is one.

    Raises:
        UserError: an address that is none.
        EngineError: a server stayed away, or answered wrongly, as often as it may be tried; or it refuses.
    """

    def __init__(
        self,
        settings: ServerSettings,
        snapshots: Snapshots | Untrained,
        decode: Callable[[Sequence[int]], str],
        end_ids: frozenset[int],
        first: Callable[[Callable[[], Any]], Any] = lambda find: find(),
    ) -> None:
        for url in settings.urls:
            if not re.match(r"https?://[^/\s]", url):
                raise UserError(f"rollout.base_url: {url} must begin with http:// or https:// and a host")
        self.settings, self.snapshots, self.decode, self.end_ids = settings, snapshots, decode, end_ids
        self.first = first
        self.urls = [url.rstrip("/").removesuffix("/v1") for url in settings.urls]
        self.dtype = settings.dtype
        self.recoveries = 0
        self._base: dict[str, str] = {}  # the name under which each server knows the model it started with
        self._policy: Snapshot | None = None
        self._name = ""  # under which all servers know the policy's current weights
        self._loads = itertools.count(1)
        self._closed = False
        self._given: list[str] = []  # names that this process has given to adapters on the servers

    def sync(self) -> None:
        self._closed = False
        before = self._policy

        def publish() -> tuple[Snapshot, str]:
            self._policy = self.snapshots.take()
            try:
                self._retrying("taking over the weights", self._load_new)
            finally:
                self.snapshots.drop(before)
            return self._policy, self._name

        self._policy, self._name = self.first(publish)
        self._retrying("looking at its models", self._read_all_models)
        run(self._unload([name for name in self._given if name != self._name]))
        self._given = [name for name in self._given if name == self._name]

    def sample(
        self, prompts: Sequence[Sequence[int]], indices: Sequence[int], sampling: Sampling, *, seed: int
    ) -> list[Completion]:
        if len(prompts) != len(indices):
            raise ValueError(f"{len(prompts)} prompts but {len(indices)} indices")
        if self._policy is None:
            self.sync()
        done: dict[int, Completion] = {}

        def attempt() -> None:
            places = [place for place in range(len(prompts)) if place not in done]
            fresh: dict[int, Completion] = {}
            try:
                run(self._complete_all(places, prompts, indices, sampling, seed, fresh))
            finally:
                if run(self._all_current()):  # completions of a restarted server are not the policy's
                    done.update(fresh)
            if len(done) < len(prompts):
                raise _Fault("has lost the policy's weights, as one that was started anew")

        self._retrying(f"sampling {len(prompts)} rollouts", attempt, min(map(len, prompts), default=0))
        return [done[place] for place in range(len(prompts))]

    def close(self) -> None:
        """Unload the policy from the servers and end a call in another thread; the next sync loads it again."""
        self._closed = True
        self._given, given = [], self._given
        run(self._unload(given))
        self.snapshots.close()
        self._policy = None

    # ── Trying again ───────────────────────────────────────────────────────────────────────────────────────────────

    def _retrying(self, activity: str, action: Callable[[], None], shortest: int = 0) -> None:
        """Do the action, after a fault again once all servers are back with the current weights. Raises EngineError."""
        begun, faults = time.monotonic(), 0
        while True:
            try:
                if faults:
                    self._load_new()
                action()
                return
            except _Refusal as error:
                raise self._error(f"while {activity}, {error}", begun, error.remedy) from error
            except _Fault as error:
                faults += 1
                self.recoveries += 1
                if faults > self.settings.retries or self._closed:
                    problem = known_vllm_problem(str(error), shortest, self.dtype)
                    raise self._error(
                        f"while {activity}, a server {error} ({faults} tries)",
                        begun,
                        f"{problem}; look at the server's own log, start it again, and go on by --resume",
                    ) from error

    def _error(self, what: str, begun: float, remedy: str) -> EngineError:
        return EngineError("server", what, time.monotonic() - begun, remedy)

    # ── Weights ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _load_new(self) -> None:
        """Load the current weights into all servers, once they are there.

        An adapter gets a name that no server has heard of. All weights are known by one name to all processes, so that
        after a fault the first that is there again gives them to a server and the others find them.
        """
        assert self._policy is not None, "a snapshot comes first"
        adapter = self.snapshots.kind == "adapter"
        name = f"{self._policy.name}-{next(self._loads)}" if adapter else self._policy.name
        self._given += [name]
        for url in self.urls:
            self._wait_until_up(url)
            if adapter or (self.snapshots.kind == "weights" and not run(self._holds(url, name))):
                run(self._load(url, name, self._policy))
        self._name = name
        run(self._canary())

    def _read_all_models(self) -> None:
        for url in self.urls:
            if url not in self._base:
                self._wait_until_up(url)

    def _wait_until_up(self, url: str) -> None:
        deadline = time.monotonic() + self.settings.start
        while True:
            try:
                if run(self._call(url, "GET", "/health", None, _GLANCE_SECONDS)).status == 200:
                    break
                problem = "is not healthy"
            except _Fault as error:
                problem = str(error)
            if time.monotonic() > deadline:
                raise _Refusal(
                    f"{url} {problem} and has not come back in {self.settings.start:g} s",
                    "start the server, or set rollout.base_url to where it is, and go on by --resume",
                )
            time.sleep(_PAUSE_SECONDS)
        self._read_models(url)

    def _read_models(self, url: str) -> None:
        reply = run(self._call(url, "GET", "/v1/models", None, _GLANCE_SECONDS))
        _require_ok(reply, "rollout.api_key_env: the variable it names must hold the server's key")
        models = [model for model in reply.body["data"] if not model.get("parent")]
        self._base[url] = models[0]["id"]
        room = models[0].get("max_model_len") or self.settings.context
        if room < self.settings.context:
            raise _Refusal(
                f"{url} has room for {room} tokens",
                f"start it with --max-model-len {self.settings.context}, or lower prompts.max_tokens",
            )

    async def _load(self, url: str, name: str, policy: Snapshot) -> None:
        seconds, folder, kind = min(_LOAD_SECONDS, self.settings.timeout), str(policy.folder), self.snapshots.kind
        steps: list[tuple[str, dict[str, Any] | None]] = [
            ("/collective_rpc", {"method": "sgsd_load_policy", "kwargs": {"folder": folder}, "timeout": seconds}),
            ("/reset_prefix_cache", None),
            ("/update_weight_version", {"new_version": name}),
        ]
        if kind == "adapter":
            steps = [("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})]
        for path, body in steps:
            reply = await self._call(url, "POST", path, body, seconds + (_GLANCE_SECONDS if kind == "weights" else 0))
            remedy = f"start the server with {START_WITH[kind]}, and set rollout.folder to one that both sides see"
            _require_ok(reply, remedy)
            if isinstance(reply.body, dict) and reply.body.get("success") is False:
                raise _Fault("kept keys and values of the old weights")

    async def _unload(self, names: Sequence[str]) -> None:
        """Make room. A server that has never heard of a name was started anew, which is as good."""
        if self.snapshots.kind == "adapter":
            for url, name in itertools.product(self.urls, names):
                with contextlib.suppress(_Fault):
                    await self._call(url, "POST", "/v1/unload_lora_adapter", {"lora_name": name}, _GLANCE_SECONDS)

    async def _all_current(self) -> bool:
        """True if every server still holds the weights it was last given; an adapter's name says so by itself."""
        if self.snapshots.kind != "weights":
            return True
        return all([await self._holds(url, self._name) for url in self.urls])

    async def _holds(self, url: str, name: str) -> bool:
        """True if a server says that its weights are of this version."""
        try:
            reply = await self._call(url, "GET", "/weight_info", None, _GLANCE_SECONDS)
        except _Fault:
            return False
        return reply.status == 200 and reply.body.get("weight_version") == name

    # ── Requests ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _canary(self) -> None:
        for url in self.urls:
            await self._complete(
                url, CANARY, Sampling(max_tokens=4), 0, min(self.settings.start, self.settings.timeout)
            )

    async def _complete_all(
        self,
        places: Iterable[int],
        prompts: Sequence[Sequence[int]],
        indices: Sequence[int],
        sampling: Sampling,
        seed: int,
        done: dict[int, Completion],
    ) -> None:
        """Fill `done`. The first fault ends the round: whoever asks next must know that all servers are well."""
        room = asyncio.Semaphore(self.settings.concurrency)

        async def one(place: int) -> None:
            index = indices[place]
            url = self.urls[index % len(self.urls)]
            async with room:
                ids, logps = await self._complete(
                    url, prompts[place], sampling, request_seed(seed, index), self.settings.timeout
                )
            done[place] = completion(index, ids, self.decode, self.end_ids, logps)

        try:
            async with asyncio.TaskGroup() as group:
                for place in places:
                    group.create_task(one(place))
        except ExceptionGroup as failed:
            # What no further try will change comes first.
            raise min(failed.exceptions, key=lambda error: isinstance(error, _Fault)) from None

    async def _complete(
        self, url: str, prompt: Sequence[int], sampling: Sampling, seed: int, seconds: float
    ) -> tuple[list[int], list[float]]:
        """Ask for one completion; returns its token ids and log-probs."""
        body = {
            "model": self._name if self.snapshots.kind == "adapter" else self._base[url],
            "prompt": list(prompt),
            "seed": seed,
            **vllm_options(sampling, self.end_ids),
            "ignore_eos": True,  # the end tokens are the trainer's, and no others
            "logprobs": 0,
            "return_token_ids": True,
            "cache_salt": self._name,  # keys and values of other weights are never found
        }
        reply = await self._call(url, "POST", "/v1/completions", body, seconds)
        if reply.status == 404:
            raise _Fault(f"does not know {body['model']} any more")
        _require_ok(reply, "mend the request it speaks of, and go on by --resume")
        try:
            (choice,) = reply.body["choices"]
            ids, logps = list(choice["token_ids"]), list(choice["logprobs"]["token_logprobs"])
        except (KeyError, TypeError, ValueError) as error:
            raise _Fault(f"sent a completion without token ids and log-probs ({type(error).__name__})") from error
        if not ids or len(ids) != len(logps) or choice.get("finish_reason") not in ("stop", "length"):
            raise _Fault(f"sent a completion that is not whole ({choice.get('finish_reason')}, {len(ids)} tokens)")
        return ids, logps

    async def _call(self, url: str, method: str, path: str, body: dict[str, Any] | None, seconds: float) -> Reply:
        headers = {"Authorization": f"Bearer {self.settings.key}"} if self.settings.key else {}
        try:
            reply = await call(method, url + path, body, seconds, headers)
        except Unreachable as error:
            raise _Fault(f"is not reachable at {url}: {error}") from error
        except TooLate as error:
            raise _Fault(f"gave {error} at {url}") from error
        if reply.status >= 500 or reply.status in (408, 409, 429):
            raise _Fault(f"answered with {reply.reason}")
        return reply


def key_from(variable: str) -> str:
    """Read the server's key from the environment. Raises UserError for one that cannot be sent."""
    key = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise UserError(f"rollout.api_key_env: the key in {variable} has a character that no key has")
    return key


def _require_ok(reply: Reply, remedy: str) -> None:
    """Raises _Refusal for a request that the server will not have."""
    if reply.status != 200:
        raise _Refusal(f"a server answered with {reply.reason}", remedy)
