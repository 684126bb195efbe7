"""A writer behind an OpenAI-compatible server: vLLM, SGLang, a hosted model, or Azure."""

from __future__ import annotations

import os
import random
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from sgsd.skills.drafts import schema_of
from sgsd.skills.writers.base import Request, Writer, WriterFailure, WriterReply
from sgsd.types import UserError

LONGEST_PAUSE = 120.0  # seconds; a server that asks for a longer one is as good as away
# What an older or a stricter server may refuse, by the word it refuses it with: the rest is asked without it.
OPTIONAL = ("temperature", "max_tokens", "response_format")


@dataclass(frozen=True)
class ServerSettings:
    """The server's address and how it is asked.

    The key is read from the environment by the client and never stored: give the name of its variable, not the key.
    """

    model: str
    base_url: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    azure_version: str | None = None  # set for Azure: its API version
    temperature: float = 0.0
    concurrency: int = 8
    timeout: float = 120.0  # seconds a call
    retries: int = 5  # on 408, 409, 429, 5xx, time-outs, lost connections and bodies that are no completion
    pause: float = 0.5  # seconds before the first retry, doubled for each further one, unless the server names its own
    json_schema: bool = True  # ask the server to decode by schema; dropped for the session where it refuses


@dataclass(frozen=True)
class _Fault:
    """A try that failed: why, whether another may fare better, and the pause the server asks for."""

    reason: str
    passing: bool = False
    pause: float | None = None


class ServerWriter(Writer):
    """Asks a server, several requests at a time.

    Raises:
        UserError: the client is not installed, the address or the key's variable is no good, or, while writing, the
            server knows neither key nor model.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.name = f"server:{settings.model}@{settings.temperature}"
        self._client = _client(settings)
        self._without = frozenset[str]() if settings.json_schema else frozenset(["response_format"])

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[int, WriterReply | WriterFailure]]:
        pool = ThreadPoolExecutor(self.settings.concurrency, thread_name_prefix="writer")
        stop = threading.Event()
        waiting = iter(enumerate(requests))
        under_way: dict[Future[WriterReply | WriterFailure], int] = {}

        def ask(amount: int) -> None:
            for position, request in islice(waiting, amount):
                under_way[pool.submit(self._ask, request, stop)] = position

        try:
            ask(self.settings.concurrency)
            while under_way:
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    yield under_way.pop(future), future.result()
                    ask(1)  # not before the answer was kept: a kill loses what is under way, and nothing beyond it
        finally:  # also where the reader of these answers has had enough: calls under way are not waited for
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        self._client.close()

    def _ask(self, request: Request, stop: threading.Event) -> WriterReply | WriterFailure:
        """One request with its retries: ours and not the client's, so that they are counted and can be ended."""
        faults: list[str] = []
        while True:
            outcome = self._try(request)
            if isinstance(outcome, WriterReply):
                return replace(outcome, faults=tuple(faults))
            growing = min(self.settings.pause * 2 ** min(len(faults), 10), LONGEST_PAUSE) * random.uniform(0.75, 1.0)
            last = not outcome.passing or len(faults) == self.settings.retries
            if last or stop.wait(growing if outcome.pause is None else outcome.pause):
                return WriterFailure(outcome.reason, tuple(faults), dead=outcome.passing)
            faults.append(outcome.reason)

    def _try(self, request: Request) -> WriterReply | _Fault:
        import openai

        try:
            return self._call(request)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise UserError(
                f"writer: the server answers with status {error.status_code}; look at writer.model"
                f" ({self.settings.model}), writer.base_url and the key in {self.settings.key_variable}"
            ) from None
        except openai.APIStatusError as error:
            pause = _asked_pause(error.response.headers)
            passing = error.status_code in (408, 409, 429) or error.status_code >= 500
            return _Fault(f"status {error.status_code}", passing and (pause or 0) <= LONGEST_PAUSE, pause)
        except openai.APITimeoutError:
            return _Fault(f"no answer within {self.settings.timeout:g} s", passing=True)
        except openai.APIConnectionError as error:
            return _Fault(f"no connection ({type(error.__cause__).__name__})", passing=True)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            return _Fault(f"an answer that is no chat completion ({type(error).__name__})", passing=True)

    def _call(self, request: Request) -> WriterReply:
        """The answer; where the server refuses a setting, the answer without it, and it is left out from then on."""
        import openai

        without = self._without
        while True:
            try:
                written = self._create(request, without)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                left = [name for name in OPTIONAL if name not in without]
                blamed = [name for name in left if name in str(error.body) or name == "response_format"]
                if not blamed:
                    raise
                without |= {blamed[0]}
            else:
                self._without |= without
                return written

    def _create(self, request: Request, without: frozenset[str]) -> WriterReply:
        form: dict[str, Any] = {"temperature": self.settings.temperature, "max_tokens": request.max_tokens}
        if request.answer is not None:
            schema = {"name": request.answer.__name__, "schema": schema_of(request.answer), "strict": True}
            form["response_format"] = {"type": "json_schema", "json_schema": schema}
        chosen: dict[str, Any] = {name: value for name, value in form.items() if name not in without}
        if "max_tokens" in without:
            chosen["max_completion_tokens"] = request.max_tokens
        done = self._client.chat.completions.with_raw_response.create(
            model=self.settings.model, messages=request.chat(), **chosen
        )
        return _written(done.http_response.json())


def _written(body: Any) -> WriterReply:
    """The text of a chat completion. Raises TypeError or LookupError where the body is none."""
    content = body["choices"][0]["message"]["content"]
    if not isinstance(content, str | None):
        raise TypeError
    usage = body.get("usage")
    spent = [usage.get(f"{side}_tokens") if isinstance(usage, dict) else None for side in ("prompt", "completion")]
    prompt, completion = (number if isinstance(number, int) else 0 for number in spent)
    return WriterReply(content or "", prompt, completion)


def _asked_pause(headers: Mapping[str, str]) -> float | None:
    """The seconds a busy server asks for, if it says so in figures."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value := headers.get(name, "")):
            return float(value) * unit
    return None


def _client(settings: ServerSettings) -> Any:
    try:
        import openai
    except ImportError:
        raise UserError("writer: a server needs the openai client: pip install 'sgsd[writer]'") from None
    if settings.base_url is not None and not re.match(r"https?://[^/\s]", settings.base_url):
        raise UserError("writer.base_url: must begin with http:// or https:// and a host")
    key = os.environ.get(settings.key_variable, "").strip()
    if not re.fullmatch(r"[!-~]*", key):  # a client that cannot send it would say so with the key in its message
        raise UserError(f"writer.api_key_env: the key in {settings.key_variable} has a character that no key has")
    if not key and (settings.base_url is None or settings.azure_version):
        raise UserError(
            f"writer.api_key_env: the environment has no {settings.key_variable}; put the server's key there"
        )
    common: dict[str, Any] = {
        "api_key": key or "none",  # servers of one's own ask for no key, but the client insists on a word
        "timeout": settings.timeout,
        "max_retries": 0,
    }
    if settings.azure_version:
        if settings.base_url is None:
            raise UserError("writer.base_url: Azure needs the address of its resource")
        return openai.AzureOpenAI(azure_endpoint=settings.base_url, api_version=settings.azure_version, **common)
    return openai.OpenAI(base_url=settings.base_url, **common)
