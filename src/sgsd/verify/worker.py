"""One grading process, forked from the zygote: it answers questions until its owner closes the connection.

A question that runs past its time even though nobody is left to kill the process is ended by an alarm, which the
kernel delivers whatever the interpreter is busy with.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
from collections.abc import Callable
from typing import Any

from sgsd.verify.frames import Closed, receive, send

_MEMORY_BYTES = 4 << 30
_FLOAT_DIGITS = 12  # decimals reach computer algebra only inside larger expressions; six digits would be lenient

Compare = Callable[[str, str], dict[str, Any]]

# Questions that load what is loaded lazily: the first answer of a worker then takes 5 ms instead of 90.
_WARM_UP = ((r"2^{n+1}", r"2\cdot 2^n"), (r"2\sin x\cos x", r"\sin 2x"))


def serve(connection: socket.socket, compare: Compare) -> None:
    """Answer question after question; returns when the owner is gone."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _limit_memory()
    with contextlib.suppress(Closed):
        while True:
            question = receive(connection)
            signal.setitimer(signal.ITIMER_REAL, question["seconds"])
            answer = compare(question["answer"], question["gold"])
            signal.setitimer(signal.ITIMER_REAL, 0)
            send(connection, answer)


def _limit_memory() -> None:
    """A bomb must not take the machine's memory before its time is up."""
    with contextlib.suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = _MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(_MEMORY_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def load_compare() -> Compare:
    """Import math-verify (about a second) and warm it, so that no question pays for either."""
    from math_verify import LatexExtractionConfig, parse, verify

    reading = [LatexExtractionConfig(boxed_match_priority=0)]  # LaTeX only: its plain-expression path evaluates text

    def parsed(latex: str) -> list[Any]:
        # Its own time-outs need the main thread and a signal; ours is the owner's kill.
        return parse(f"${latex}$", reading, fallback_mode="no_fallback", parsing_timeout=None)

    def compare(answer: str, gold: str) -> dict[str, Any]:
        gold_forms = parsed(gold)
        if not gold_forms:
            return {"gold": False, "equal": False}
        equal = verify(gold_forms, parsed(answer), float_rounding=_FLOAT_DIGITS, timeout_seconds=None)
        return {"gold": True, "equal": bool(equal)}

    for answer, gold in _WARM_UP:
        compare(answer, gold)
    return compare
