"""One grading process: `python -m sgsd.verify.worker`. Questions arrive on stdin, answers leave on stdout.

It exits when its stdin closes, so it never outlives its owner; a question that runs past its time even though the
owner is gone is ended by an alarm that the kernel delivers whatever the interpreter is busy with.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import IO, Any

from sgsd.verify.frames import HEADER, decode, encode

_MEMORY_BYTES = 4 << 30
_FLOAT_DIGITS = 12  # decimals reach computer algebra only inside larger expressions; six digits would be lenient

Compare = Callable[[str, str], dict[str, Any]]


def main() -> int:
    """Serve until stdin closes; the first frame says whether math-verify could be loaded."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a library prints must not enter the frames
    _settle_signals()
    _limit_memory()
    try:
        compare = _load()
    except ImportError as error:
        answers.write(encode({"failed": str(error)}))
        return 1
    answers.write(encode({"ready": True}))
    while (question := _read(sys.stdin.buffer)) is not None:
        _alarm(question["seconds"])
        answer = compare(question["answer"], question["gold"])
        _alarm(0)
        answers.write(encode(answer))
    return 0


def _settle_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner, who closes us
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _alarm(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _limit_memory() -> None:
    """A bomb must not take the machine's memory before its time is up."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = _MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(_MEMORY_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _read(stream: IO[bytes]) -> dict[str, Any] | None:
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (length,) = HEADER.unpack(header)
    body = stream.read(length)
    return decode(body) if len(body) == length else None


def _load() -> Compare:
    """Import math-verify (a second or two) and warm it, so that no question pays for either."""
    logging.disable(logging.CRITICAL)
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

    compare(r"\frac{x+1}{2}", r"\sqrt{8}")
    return compare


if __name__ == "__main__":
    sys.exit(main())
