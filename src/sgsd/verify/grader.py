"""The mathematics verifier: extract, decide exactly, and ask math-verify only what is left."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from types import TracebackType
from typing import Any, Self

from sgsd.types import Status, UserError, Verdict
from sgsd.verify.extract import extract_answer, has_box, last_box
from sgsd.verify.maths import Ask, Ruling, judge, readable
from sgsd.verify.pool import Reply, WorkerPool
from sgsd.verify.protocol import check_lengths

_MAX_BITS = 200_000  # of an integer gold: about 60,000 digits, which take 0.1 s to write out
_RULINGS = {
    Ruling.EQUAL: Status.CORRECT,
    Ruling.DIFFERENT: Status.INCORRECT,
    Ruling.GOLD_UNREADABLE: Status.UNPARSED,
}
_REPLIES = {
    Reply.EQUAL: Status.CORRECT,
    Reply.DIFFERENT: Status.INCORRECT,
    Reply.GOLD_UNREADABLE: Status.UNPARSED,
    Reply.STOPPED: Status.TIMEOUT,
}


@dataclass(frozen=True, slots=True)
class _Pending:
    """A row that math-verify must decide."""

    answer: str
    ask: Ask
    seconds: float


class MathVerifier:
    """Grades boxed mathematical answers (see `Verifier` for what the statuses mean).

    Args:
        timeout: seconds that math-verify may spend on one answer before its process is killed.
        workers: questions that math-verify may work on at a time. Its processes (one a question, and one from which
            these are forked) start only when an answer needs them: a task of integers never pays for them.

    Raises UserError for a time-out that is not positive and finite, or fewer than one worker.
    """

    def __init__(self, timeout: float = 2.0, workers: int = 1) -> None:
        if not (0 < timeout < math.inf):
            raise UserError(f"MathVerifier: timeout is {timeout!r}: give a positive number of seconds")
        if workers < 1:
            raise UserError(f"MathVerifier: workers is {workers!r}: give 1 or more")
        self._workers = workers
        self._pool = WorkerPool(timeout, workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes; an answer that needs one is refused afterwards (RuntimeError)."""
        self._pool.close()

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers and of the process they are forked from; empty until an answer needed one."""
        return self._pool.pids

    def grade(self, completions: Sequence[Any], golds: Sequence[Any]) -> list[Verdict]:
        """One verdict a row, in order.

        The seconds of a row are its own: reading it and, where math-verify was asked, from when its turn came to its
        answer. They leave out the queue behind other rows and math-verify's import, once per verifier.
        """
        check_lengths(completions, golds)
        rows = [_first_look(completion, gold) for completion, gold in zip(completions, golds)]
        asks = list(dict.fromkeys(row.ask for row in rows if isinstance(row, _Pending)))  # rollouts repeat answers
        replies = dict(zip(asks, self._ask_all(asks)))
        return [_finished(row, replies) for row in rows]

    def _ask_all(self, asks: Sequence[Ask]) -> list[tuple[Status, float]]:
        if self._workers == 1 or len(asks) < 2:
            return [self._ask(ask) for ask in asks]
        with ThreadPoolExecutor(min(self._workers, len(asks))) as threads:
            return list(threads.map(self._ask, asks))

    def _ask(self, ask: Ask) -> tuple[Status, float]:
        reply, seconds = self._pool.ask(ask.answer, ask.gold)
        return _REPLIES[reply], seconds


def _finished(row: Verdict | _Pending, replies: dict[Ask, tuple[Status, float]]) -> Verdict:
    if isinstance(row, Verdict):
        return row
    status, seconds = replies[row.ask]
    return Verdict(status, row.answer, row.seconds + seconds)


def _first_look(completion: Any, gold: Any) -> Verdict | _Pending:
    start = time.perf_counter()
    row = _decide(completion, gold)
    return replace(row, seconds=time.perf_counter() - start)


def _decide(completion: Any, gold: Any) -> Verdict | _Pending:
    answer, reference = extract_answer(completion), gold_text(gold)
    if reference is None:
        return Verdict(Status.UNPARSED, answer)
    if answer is None:
        return Verdict(Status.INCORRECT if readable(reference) else Status.UNPARSED)
    ruling = judge(answer, reference)
    return _Pending(answer, ruling, 0.0) if isinstance(ruling, Ask) else Verdict(_RULINGS[ruling], answer)


def gold_text(gold: Any) -> str | None:
    """The text of a reference answer: a text (its last box or what follows its last ####) or a number.

    Types are asked by `type`, never by `isinstance`, which calls into the object and may raise.
    """
    gold = _without_numpy(gold)
    kind = type(gold)
    if issubclass(kind, str):
        return _reference(str.__str__(gold))
    if kind is bool:
        return str(gold)
    if issubclass(kind, int):
        return _digits(int.__int__(gold))
    if issubclass(kind, float):
        return repr(float.__float__(gold)) if math.isfinite(gold) else None
    if kind is Fraction:
        top, bottom = _digits(gold.numerator), _digits(gold.denominator)
        return f"{top}/{bottom}" if top and bottom else None
    if kind is Decimal:
        return format(gold, "f") if gold.is_finite() and abs(gold.adjusted()) < _MAX_BITS else None
    return None


def _without_numpy(gold: Any) -> Any:
    """A NumPy scalar as Python's; anything else as it is, and where NumPy was never imported, everything."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return gold
    if issubclass(type(gold), numpy.generic):
        return numpy.generic.item(gold)
    if type(gold) is numpy.ndarray and gold.ndim == 0 and not gold.dtype.hasobject:
        return gold.item()
    return gold


def _reference(text: str) -> str | None:
    if has_box(text):
        return last_box(text)
    return text.rpartition("####")[2].strip() or None


def _digits(number: int) -> str | None:
    """A whole number as text; through Decimal, because Python refuses to write 4,300 digits and more."""
    return str(Decimal(number)) if number.bit_length() <= _MAX_BITS else None
