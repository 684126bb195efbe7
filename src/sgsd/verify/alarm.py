"""A time limit on code in this thread, for what may hang: a loop, a regular expression, a wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TimeUp(BaseException):
    """The time is up; no `except Exception` of the code that hangs takes it for its own."""


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the code inside once it has run for so many seconds.

    By a signal, which reaches the main thread alone, and there whatever runs Python's own code; a call into a library
    that never comes back is not reached, and outside of the main thread there is no limit.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
