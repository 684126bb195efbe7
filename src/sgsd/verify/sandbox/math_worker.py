"""A process that asks math-verify, forked from the fork server: it answers until its owner closes the connection.

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

from sgsd.types import Status
from sgsd.verify.sandbox.ipc import Closed, receive, send

_MEMORY_BYTES = 4 << 30
_FLOAT_DIGITS = 12  # decimals reach computer algebra only inside larger expressions; six digits would be lenient

Compare = Callable[[str, str], Status]  # LaTeX of the answer, LaTeX of the gold

# Questions that load what is loaded lazily: the first answer of a worker then takes 5 ms instead of 90.
_WARM_UP = ((r"2^{n+1}", r"2\cdot 2^n"), (r"2\sin x\cos x", r"\sin 2x"))


def serve(connection: socket.socket, compare: Compare) -> None:
    """Answer question after question; returns when the owner is gone."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with contextlib.suppress(ValueError, OSError):
        limit_memory()
    with contextlib.suppress(Closed):
        while True:
            question = receive(connection)
            signal.setitimer(signal.ITIMER_REAL, question["seconds"])
            status = compare(question["answer"], question["gold"])
            signal.setitimer(signal.ITIMER_REAL, 0)
            send(connection, {"status": status})


def limit_memory() -> None:
    """Limit this process to 4 GiB, so that one answer cannot take the machine's memory before its time is up.

    Raises ValueError or OSError if the system refuses.
    """
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

    def compare(answer: str, gold: str) -> Status:
        gold_forms = parsed(gold)
        if not gold_forms:
            return Status.UNPARSED
        equal = verify(gold_forms, parsed(answer), float_rounding=_FLOAT_DIGITS, timeout_seconds=None)
        return Status.CORRECT if equal else Status.INCORRECT

    for answer, gold in _WARM_UP:
        compare(answer, gold)
    return compare
