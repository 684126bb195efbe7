"""The maths verifier: take out the final answer, compare it exactly, and ask math-verify only what is left."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from decimal import Decimal
from fractions import Fraction
from types import TracebackType
from typing import Any

from sgsd.types import Status, UserError, Verdict
from sgsd.verify.final_answer import extract_answer, has_box, last_box
from sgsd.verify.math.equivalence import Question, compare, is_readable
from sgsd.verify.protocol import check_lengths
from sgsd.verify.sandbox.pool import WorkerPool

_MAX_BITS = 200_000  # of an integer gold: about 60,000 digits, which take 0.1 s to write out


class MathVerifier(AbstractContextManager["MathVerifier"]):
    r"""Grades boxed mathematical answers (see `Verifier` for the statuses).

    Args:
        timeout: seconds that math-verify may spend on one answer before its process is killed.
        workers: questions that math-verify may work on at a time. Its processes (one a question, and one from which
            these are forked) start only when an answer needs them: a task of integers never pays for them.

    Raises:
        UserError: the time-out is not positive and finite, or there is no worker.

    Example:
        >>> with MathVerifier(timeout=2.0) as verifier:
        ...     verdicts = verifier.grade([r"\boxed{\frac12}", r"\boxed{2}", "no box"], ["0.5", "3", "3"])
        >>> [verdict.status.value for verdict in verdicts]
        ['correct', 'incorrect', 'incorrect']
    """

    def __init__(self, timeout: float = 2.0, workers: int = 1) -> None:
        if not (0 < timeout < math.inf):
            raise UserError(f"MathVerifier: timeout is {timeout!r}: give a positive number of seconds")
        if workers < 1:
            raise UserError(f"MathVerifier: workers is {workers!r}: give 1 or more")
        self._workers = workers
        self._pool = WorkerPool(timeout, workers)

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
        """Grade each completion against its gold.

        Args:
            completions: any Python values; what is not a text has no answer.
            golds: as many texts (their last box or what follows their last ####, if they have one) or numbers.

        Returns:
            One verdict a row, in order. Its seconds are the row's own: reading it and, if math-verify was asked, from
            when its turn came to its answer, without the queue and without math-verify's import, once per verifier.

        Raises:
            ValueError: the lengths differ.
            UserError: math-verify cannot be started.
            RuntimeError: the verifier is closed and an answer needs math-verify.
        """
        check_lengths(completions, golds)
        rows = [_decide(completion, gold) for completion, gold in zip(completions, golds)]
        questions = dict.fromkeys(decision for _, decision, _ in rows if isinstance(decision, Question))  # many repeat
        settled: dict[Status | Question, tuple[Status, float]] = {status: (status, 0.0) for status in Status}
        settled.update(zip(questions, self._ask_all(list(questions))))
        return [
            Verdict(settled[decision][0], answer, seconds + settled[decision][1]) for answer, decision, seconds in rows
        ]

    def _ask_all(self, questions: Sequence[Question]) -> list[tuple[Status, float]]:
        if self._workers == 1 or len(questions) < 2:
            return [self._ask(question) for question in questions]
        with ThreadPoolExecutor(min(self._workers, len(questions))) as threads:
            return list(threads.map(self._ask, questions))

    def _ask(self, question: Question) -> tuple[Status, float]:
        return self._pool.ask(question.answer, question.gold)


def _decide(completion: Any, gold: Any) -> tuple[str | None, Status | Question, float]:
    """The answer, the decision of exact arithmetic, and the seconds they took."""
    start = time.perf_counter()
    answer, reference = extract_answer(completion), gold_text(gold)
    decision: Status | Question = Status.UNPARSED
    if reference is not None and answer is not None:
        decision = compare(answer, reference)
    elif reference is not None and is_readable(reference):
        decision = Status.INCORRECT
    return answer, decision, time.perf_counter() - start


def gold_text(gold: Any) -> str | None:
    r"""Write a reference answer as text.

    Args:
        gold: a text (its last box or what follows its last ####, if it has one) or a number, NumPy's included.

    Returns:
        The text to compare with; None if the gold is neither, is empty, is not finite or has too many digits.

    Example:
        >>> gold_text("because 2 + 2 = 4 #### 4"), gold_text(0.5), gold_text([4])
        ('4', '0.5', None)

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


def is_readable_gold(gold: Any) -> bool:
    """True for a reference that a different answer can be compared with, as far as exact reading can tell."""
    text = gold_text(gold)
    return text is not None and is_readable(text)


def _without_numpy(gold: Any) -> Any:
    """A NumPy scalar as Python's; any other value as it is, and every value if NumPy was never imported."""
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
    answer = text.rpartition("####")[2].strip()
    return answer if answer.lower() not in {"", "nan"} else None  # "nan" is a missing number, written out


def _digits(number: int) -> str | None:
    """A whole number as text; through Decimal, because Python refuses to write 4,300 digits and more."""
    return str(Decimal(number)) if number.bit_length() <= _MAX_BITS else None
