"""A user's own verifier: how it is asked, what its answers mean, and what is done when it fails.

    f(completion, answer, **columns) -> bool | float | str | Verdict | None       one completion a call
    f(completions, **columns)        -> a list of the same                        TRL's reward functions
    grader.grade(completions, answers) -> a list of the same                      a class or an object

Each may be `async`. `columns` are those of the problem's row: a function gets the ones it names, or all with `**`.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Literal

from sgsd.notices import warn
from sgsd.types import Problem, Status, UserError, Verdict
from sgsd.verify.alarm import TimeUp, alarm
from sgsd.verify.protocol import check_lengths

EXCERPT = 80  # characters of a completion in a message
CERTAIN = 1e-6  # a reward this near to 0 or 1 is 0 or 1
MIDDLE = "a reward between 0 and 1 has a verdict only with verifier.threshold: set it, or return 0 and 1"


@dataclass(frozen=True)
class Contract:
    """How a verifier of one's own is asked, and what its answers mean.

    Args:
        threshold: rewards from here on are correct, those below incorrect; None: only 0 and 1 have a verdict.
        timeout: seconds that one call may take before its completions are asked about one by one, and then given up.
        on_error: "stop" ends the run where a call raises; "unknown" goes on without a verdict on that completion.
        completions: what a function of several is handed: "text", or "messages" as in TRL's conversational data.
    """

    threshold: float | None = None
    timeout: float = 60.0
    on_error: Literal["stop", "unknown"] = "stop"
    completions: Literal["text", "messages"] = "text"


@dataclass(frozen=True)
class Question:
    """What a verifier is asked about."""

    completion: Any
    answer: Any = None  # the reference, of any JSON type
    prompt: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    row: str = ""  # how messages call it


@dataclass
class Caught(AbstractContextManager["Caught"]):
    """Keeps what a user's code raises, of whatever kind; Ctrl-C passes."""

    error: BaseException | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.error = error
        return not isinstance(error, KeyboardInterrupt)


class FunctionVerifier(AbstractContextManager["FunctionVerifier"]):
    """A user's function or object as a verifier; whatever it raises is reported with its row, never swallowed.

    Args:
        function: one of the forms above.
        name: how messages call it.
        options: handed to a function by name, before columns of the same name.
        contract: how it is asked and what its answers mean.

    Raises:
        UserError: it has required arguments beyond those that options and columns can fill, found at the first call.

    Example:
        >>> verifier = FunctionVerifier(lambda completion, answer: answer in completion, "mine")
        >>> verifier.grade(["it is 4"], ["4"])[0].outcome
        1
    """

    def __init__(
        self,
        function: Any,
        name: str,
        options: Mapping[str, Any] | None = None,
        contract: Contract | None = None,
    ) -> None:
        self.name, self.contract, self.failures = name, contract or Contract(), Counter[str]()
        self._call, self._together = _form(function, name, options or {}, self.contract)
        self._function, self._entered = function, ExitStack()

    def __enter__(self) -> FunctionVerifier:
        if isinstance(self._function, AbstractContextManager):
            self._entered.enter_context(self._function)
        return self

    def __exit__(self, *error: object) -> None:
        self._entered.close()

    def grade(self, completions: Sequence[Any], golds: Sequence[Any]) -> list[Verdict]:
        """Ask about completions and their references.

        Returns:
            One verdict a row, in order; without one (outcome 0) where the function says None, takes too long, or
            raises and may.

        Raises:
            ValueError: the lengths differ.
            UserError: the function raised, or returned what has no verdict; names the function and the row.
        """
        check_lengths(completions, golds)
        return self._ask([Question(c, gold, row=f"row {n}") for n, (c, gold) in enumerate(zip(completions, golds))])

    def grade_problems(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """The same for problems, whose columns the function may ask for."""
        check_lengths(completions, problems)
        return self._ask(
            [
                Question(c, p.gold if p.answer is None else p.answer, p.text, p.columns, f"problem {p.id}")
                for c, p in zip(completions, problems)
            ]
        )

    def _ask(self, questions: Sequence[Question]) -> list[Verdict]:
        if not self._together:
            return [verdict for question in questions for verdict in self._ask_together([question])]
        return self._ask_together(questions) if questions else []

    def _ask_together(self, questions: Sequence[Question]) -> list[Verdict]:
        """One call; where it fails, one for each question, so that the others do not suffer and the row is named."""
        start, caught, answers = time.perf_counter(), Caught(), []
        with caught, alarm(self.contract.timeout):
            answers = self._answers(questions)
        if caught.error is None:
            seconds = (time.perf_counter() - start) / len(questions)
            return [self._verdict(*pair, seconds) for pair in zip(questions, answers, strict=True)]
        if isinstance(caught.error, UserError | SystemExit) or not isinstance(caught.error, Exception | TimeUp):
            self._stop(questions[0], caught.error)
        if len(questions) > 1:
            return [verdict for question in questions for verdict in self._ask_together([question])]
        if isinstance(caught.error, TimeUp):
            self._count("took longer than verifier.timeout", questions[0], f"{self.contract.timeout:g} s")
            return [Verdict(Status.TIMEOUT, seconds=self.contract.timeout)]
        if self.contract.on_error == "stop":
            self._stop(questions[0], caught.error)
        self._count(f"raised {type(caught.error).__name__}", questions[0], _last_lines(caught.error))
        return [Verdict(Status.UNKNOWN)]

    def _answers(self, questions: Sequence[Question]) -> list[Any]:
        answers = self._call(questions)
        if inspect.isawaitable(answers):
            answers = _finished(_awaited(answers))
        if isinstance(answers, str | bytes) or (not isinstance(answers, Sequence) and not hasattr(answers, "__iter__")):
            raise UserError(f"it returned {_shown(answers)} for {len(questions)} completions; return a list, one each")
        answers = list(answers)
        if len(answers) != len(questions):
            raise UserError(f"it returned {len(answers)} answers for {len(questions)} completions; return one for each")
        return answers

    def _verdict(self, question: Question, answer: Any, seconds: float) -> Verdict:
        if isinstance(answer, Verdict):
            return answer
        if answer is None:
            return Verdict(Status.UNKNOWN, seconds=seconds)
        if isinstance(answer, str) and answer in set(Status):
            return Verdict(Status(answer), None, seconds)
        reward = _number(answer)
        if reward is None or not -CERTAIN <= reward <= 1 + CERTAIN:
            raise UserError(
                f"verifier {self.name!r}: it returned {_shown(answer)} on {question.row}: return a bool, a reward from"
                f" 0 to 1, None where it cannot tell, a Verdict or one of {', '.join(Status)}"
            )
        reward, threshold = min(1.0, max(0.0, reward)), self.contract.threshold
        if threshold is None and CERTAIN < reward < 1 - CERTAIN:
            raise UserError(f"verifier {self.name!r}: it returned {reward:g} on {question.row}: {MIDDLE}")
        right = reward >= (1 - CERTAIN if threshold is None else threshold)
        graded = None if threshold is None else reward
        return Verdict(Status.CORRECT if right else Status.INCORRECT, None, seconds, graded)

    def _stop(self, question: Question, error: BaseException) -> None:
        """Raises UserError that names the function, the row and the cause."""
        if isinstance(error, UserError):
            raise UserError(f"verifier {self.name!r}: {error}") from error
        said = "called sys.exit" if isinstance(error, SystemExit) else f"raised {type(error).__name__} ({_line(error)})"
        way_out = "; or go on without a verdict there by verifier.on_error: unknown"
        raise UserError(
            f"verifier {self.name!r}: it {said} on {question.row}, whose completion ends {_end(question.completion)}:"
            f" mend the function{way_out if isinstance(error, Exception) else ''}; last lines: {_last_lines(error)}"
        ) from error

    def _count(self, what: str, question: Question, detail: str) -> None:
        """Warn of the first failure of a kind with all that helps, then of the 10th, the 100th and so on."""
        self.failures[what] += 1
        count = self.failures[what]
        if count == 1:
            warn(
                f"verifier {self.name!r}: it {what} on {question.row}, whose completion ends"
                f" {_end(question.completion)}; no verdict there ({detail})"
            )
        elif str(count).strip("0") == "1":
            warn(f"verifier {self.name!r}: it {what} on {count:,} completions so far; the last: {question.row}")


def grade_problems(verifier: Any, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
    """Ask a verifier about completions of problems; one of a user's own may also ask for columns of their rows."""
    if isinstance(verifier, FunctionVerifier):
        return verifier.grade_problems(completions, problems)
    verdicts: list[Verdict] = verifier.grade(completions, [problem.gold for problem in problems])
    return verdicts


# ── The forms ──────────────────────────────────────────────────────────────────────────────────────────────────────

Call = Callable[[Sequence[Question]], Any]
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _form(function: Any, name: str, options: Mapping[str, Any], contract: Contract) -> tuple[Call, bool]:
    """How to ask it, and whether about several at once."""
    if hasattr(function, "grade"):
        return lambda qs: function.grade([q.completion for q in qs], [q.answer for q in qs]), True
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # a builtin that does not say
        return lambda qs: [function(q.completion, q.answer) for q in qs], False
    if "completions" in parameters:
        return partial(_of_several, function, parameters, options, contract), True
    one = partial(_of_one, function, parameters, options)
    if inspect.iscoroutinefunction(function):
        return lambda qs: _gathered([one(q) for q in qs]), True
    return lambda qs: [one(q) for q in qs], False


def _of_one(
    function: Callable[..., Any], parameters: Mapping[str, inspect.Parameter], options: Mapping[str, Any], q: Question
) -> Any:
    by_place = [key for key, p in parameters.items() if p.kind in POSITIONAL and key not in options][:2]
    named = _asked_for(parameters, {**q.columns, **options}, without=by_place, have=q.columns)
    takes_all = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters.values())
    given = (q.completion, q.answer)
    return function(*(given if takes_all else given[: len(by_place)]), **named)


def _of_several(
    function: Callable[..., Any],
    parameters: Mapping[str, inspect.Parameter],
    options: Mapping[str, Any],
    contract: Contract,
    questions: Sequence[Question],
) -> Any:
    messages = contract.completions == "messages"

    def turn(role: str, text: Any) -> Any:
        return [{"role": role, "content": text}] if messages else text

    names = dict.fromkeys(key for q in questions for key in q.columns)
    columns: dict[str, Any] = {key: [q.columns.get(key) for q in questions] for key in names}
    columns |= {"prompts": [turn("user", q.prompt) for q in questions]}
    columns |= {"completions": [turn("assistant", q.completion) for q in questions]}
    return function(**_asked_for(parameters, {**columns, **options}, have=names))


def _asked_for(
    parameters: Mapping[str, inspect.Parameter],
    values: Mapping[str, Any],
    *,
    without: Sequence[str] = (),
    have: Mapping[str, Any],
) -> dict[str, Any]:
    """Of the values those that a function names, or all where it takes any. Raises UserError for one there is not."""
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        found = {key: value for key, value in values.items() if key not in without}
    else:
        found = {key: values[key] for key in parameters if key in values and key not in without}
    for key, p in parameters.items():
        named = p.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        if named and p.default is p.empty and key not in (*found, *without):
            raise UserError(
                f"it needs the column {key!r}; the data's columns are {', '.join(have) or 'none'}:"
                " name one of these, give it a default, or set it in verifier.options"
            )
    return found


async def _gathered(calls: Sequence[Any]) -> list[Any]:
    return list(await asyncio.gather(*calls))


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns; in a thread of its own where this one has a loop, as a notebook's has."""
    if asyncio._get_running_loop() is None:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


# ── Words ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _number(answer: Any) -> float | None:
    """A bool, a number, or a NumPy or torch scalar as a float; None for anything else and for NaN."""
    if hasattr(answer, "item") and getattr(answer, "ndim", None) == 0:
        answer = answer.item()
    return float(answer) if isinstance(answer, bool | int | float) and not math.isnan(answer) else None


def _shown(value: Any) -> str:
    return repr(value)[:EXCERPT]


def _end(completion: Any) -> str:
    return repr(str(completion)[-EXCERPT:])


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _last_lines(error: BaseException) -> str:
    """Where it was raised, innermost last, and what, on one line."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = [f"{frame.filename}:{frame.lineno} in {frame.name}: {(frame.line or '').strip()}" for frame in frames]
    return " | ".join([*places, f"{type(error).__name__}: {_line(error)}"])
