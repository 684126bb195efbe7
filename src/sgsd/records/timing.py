"""The time of a step's stages, and requests to stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any


@dataclass
class Clock:
    """Seconds of the step's phases."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def throughput(record: dict[str, Any], clock: Clock) -> dict[str, float]:
    tokens = record["length"] * record["rollouts"]
    return {"tokens": tokens, "tokens_per_s": tokens / max(1e-9, sum(clock.seconds.values()))}


@dataclass
class StopRequest:
    """Ctrl-C and SIGTERM ask for a stop, before the step's update or after it; a second Ctrl-C stops at once."""

    asked: bool = False

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:
        if self.asked and signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def listen_for_stop() -> Iterator[StopRequest]:
    request = StopRequest()
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
