"""A user's own verifier: how it is asked, what its answers mean, and what is done when it fails.

    f(completion, answer, **columns) -> bool | float | str | Verdict | None       one completion a call
    f(completions, **columns)        -> a list of the same                        TRL's reward functions
    grader.grade(completions, answers, **columns) -> a list of the same           a class or an object

Each may be `async`. `columns` are those of the problem's row: a function gets the ones it names, or all with `**`.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from sgsd.lookup import Caught, did, last_lines, worded
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
    """One completion and all that a verifier may be handed with it."""

    completion: Any
    answer: Any = None  # the reference, of any JSON type
    prompt: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    row: str = ""  # how messages call it
    token_ids: Sequence[int] | None = None  # of the completion, where they are known


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

    def grade_problems(
        self,
        completions: Sequence[str],
        problems: Sequence[Problem],
        token_ids: Sequence[Sequence[int]] | None = None,
    ) -> list[Verdict]:
        """The same for problems, whose columns the function may ask for, and for the completions' tokens."""
        check_lengths(completions, problems)
        ids: Sequence[Sequence[int] | None] = token_ids or [None] * len(problems)
        return self._ask(
            [
                Question(c, p.gold if p.answer is None else p.answer, p.text, p.columns, f"problem {p.id}", tokens)
                for c, p, tokens in zip(completions, problems, ids, strict=True)
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
            return self._ask_one_by_one(questions, caught.error)
        if isinstance(caught.error, TimeUp):
            self._count(
                "took longer than verifier.timeout", questions[0], f"no verdict there ({self.contract.timeout:g} s)"
            )
            return [Verdict(Status.TIMEOUT, seconds=self.contract.timeout)]
        if self.contract.on_error == "stop":
            self._stop(questions[0], caught.error)
        self._count(
            f"raised {type(caught.error).__name__}",
            questions[0],
            f"no verdict there ({_trace(caught.error)})",
        )
        return [Verdict(Status.UNKNOWN)]

    def _ask_one_by_one(self, questions: Sequence[Question], error: BaseException) -> list[Verdict]:
        """After a call that failed; where none fails now, that is said all the same."""
        failures = self.failures.total()
        verdicts = [verdict for question in questions for verdict in self._ask_together([question])]
        if self.failures.total() == failures:
            first = replace(questions[0], row=f"{questions[0].row} and {len(questions) - 1} more")
            late = f"took longer than verifier.timeout ({self.contract.timeout:g} s; raise it)"
            what = late if isinstance(error, TimeUp) else f"raised {type(error).__name__}"
            self._count(f"{what}, asked about several at once,", first, f"each alone has an answer ({_trace(error)})")
        return verdicts

    def _answers(self, questions: Sequence[Question]) -> list[Any]:
        answers = self._call(questions)
        if inspect.isawaitable(answers):
            answers = _finished(_awaited(answers))
        unordered = isinstance(answers, str | bytes | Mapping | Set)
        if unordered or (not isinstance(answers, Sequence) and not hasattr(answers, "__iter__")):
            raise UserError(f"it returned {_shown(answers)} for {len(questions)} completions; return a list, one each")
        answers = list(answers)
        if len(answers) != len(questions):
            raise UserError(f"it returned {len(answers)} answers for {len(questions)} completions; return one for each")
        return _finished(_awaited(answers)) if any(map(inspect.isawaitable, answers)) else answers

    def _verdict(self, question: Question, answer: Any, seconds: float) -> Verdict:
        if isinstance(answer, Verdict):
            return self._checked(question, answer)
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

    def _checked(self, question: Question, verdict: Verdict) -> Verdict:
        """A verdict that the function made itself. Raises UserError for a status or a reward that there is not."""
        reward = None if verdict.reward is None else _number(verdict.reward)
        fits = verdict.reward is None or (reward is not None and 0 <= reward <= 1)
        if verdict.status not in set(Status) or not fits:
            raise UserError(
                f"verifier {self.name!r}: it returned {_shown(verdict)} on {question.row}: a Verdict has one of"
                f" {', '.join(Status)} and a reward from 0 to 1, or None"
            )
        return replace(verdict, status=Status(verdict.status), reward=reward)

    def _stop(self, question: Question, error: BaseException) -> None:
        """Raises UserError that names the function, the row and the cause."""
        if isinstance(error, UserError):
            raise UserError(f"verifier {self.name!r}: {error}") from error
        way_out = "; or go on without a verdict there by verifier.on_error: unknown" * isinstance(error, Exception)
        raise UserError(
            f"verifier {self.name!r}: it {did(error)} on {question.row}, whose completion ends"
            f" {_end(question.completion)}: mend the function{way_out};"
            f" last lines: {last_lines(error)}"
        ) from error

    def _count(self, what: str, question: Question, detail: str) -> None:
        """Warn of the first failure of a kind with all that helps, then of the 10th, the 100th and so on."""
        self.failures[what] += 1
        count = self.failures[what]
        if count == 1:
            warn(
                f"verifier {self.name!r}: it {what} on {question.row}, whose completion ends"
                f" {_end(question.completion)}; {detail}"
            )
        elif str(count).strip("0") == "1":
            warn(f"verifier {self.name!r}: it {what} on {count:,} completions so far; the last: {question.row}")


def grade_problems(
    verifier: Any,
    completions: Sequence[str],
    problems: Sequence[Problem],
    token_ids: Sequence[Sequence[int]] | None = None,
) -> list[Verdict]:
    """Ask a verifier about completions of problems; one of a user's own may also ask for columns and tokens."""
    if isinstance(verifier, FunctionVerifier):
        return verifier.grade_problems(completions, problems, token_ids)
    verdicts: list[Verdict] = verifier.grade(completions, [problem.gold for problem in problems])
    return verdicts


# ── The forms ──────────────────────────────────────────────────────────────────────────────────────────────────────

Call = Callable[[Sequence[Question]], Any]
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
SEVERAL = {"completions", "completion_ids"}  # a function that names one of these is asked about several at once


def _form(function: Any, name: str, options: Mapping[str, Any], contract: Contract) -> tuple[Call, bool]:
    """How to ask it, and whether about several at once."""
    grades = hasattr(function, "grade")
    try:
        parameters = inspect.signature(function.grade if grades else function).parameters
    except ValueError:  # a builtin that does not say
        return lambda qs: [function(q.completion, q.answer) for q in qs], False
    if grades:
        return partial(_of_object, function, parameters), True
    if SEVERAL & parameters.keys():
        return partial(_of_several, function, parameters, options, contract), True
    one = partial(_of_one, function, parameters, options)
    waits = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
    return lambda qs: [one(q) for q in qs], waits


def _of_one(
    function: Callable[..., Any], parameters: Mapping[str, inspect.Parameter], options: Mapping[str, Any], q: Question
) -> Any:
    columns = {"answer": q.answer, **q.columns}
    by_place = [key for key, p in parameters.items() if p.kind in POSITIONAL and key not in options][:2]
    named = _asked_for(parameters, {**columns, "completion": q.completion, **options}, without=by_place, have=q.columns)
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters.values()):
        return function(q.completion, q.answer, **named)
    given = [q.completion, q.answer]
    if by_place[1:] == ["completion"]:
        given.reverse()
    elif by_place[1:] and by_place[1] != "answer" and by_place[1] in columns:
        given[1] = columns[by_place[1]]
    return function(*given[: len(by_place)], **named)


def _table(questions: Sequence[Question]) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """The values of each column, the reference as "answer" where there is none of that name, and the columns' names."""
    names = dict.fromkeys(key for q in questions for key in q.columns)
    return {"answer": [q.answer for q in questions]} | {k: [q.columns.get(k) for q in questions] for k in names}, names


def _of_object(grader: Any, parameters: Mapping[str, inspect.Parameter], questions: Sequence[Question]) -> Any:
    columns, names = _table(questions)
    by_place = [key for key, p in parameters.items() if p.kind in POSITIONAL][:2]
    more = _asked_for(parameters, columns, without=by_place, have=names)
    return grader.grade([q.completion for q in questions], [q.answer for q in questions], **more)


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

    columns, names = _table(questions)
    columns |= {"prompts": [turn("user", q.prompt) for q in questions]}
    columns |= {"completions": [turn("assistant", q.completion) for q in questions]}
    if all(q.token_ids is not None for q in questions):
        columns |= {"completion_ids": [list(q.token_ids or ()) for q in questions]}
    return function(**_asked_for(parameters, {**columns, **options}, have=names))


def _asked_for(
    parameters: Mapping[str, inspect.Parameter],
    values: Mapping[str, Any],
    *,
    without: Sequence[str] = (),
    have: Mapping[str, Any],
) -> dict[str, Any]:
    """The values that a function names, or all where it takes any. Raises UserError for one there is not."""
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


async def _awaited(answers: Any) -> Any:
    """The answers, those awaited that must be: all of them, or each."""
    if inspect.isawaitable(answers):
        return await answers
    waiting = [place for place, answer in enumerate(answers) if inspect.isawaitable(answer)]
    for place, answer in zip(waiting, await asyncio.gather(*(answers[place] for place in waiting))):
        answers[place] = answer
    return answers


def _finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine; in a thread of its own where this one has a loop, as a notebook's has."""
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
    return worded(value, repr, EXCERPT)


def _end(completion: Any) -> str:
    return repr(str(completion)[-EXCERPT:])


def _trace(error: BaseException) -> str:
    return f"{last_lines(error)} {did(error)}"
