"""Hostile answers, killed workers, forks and dead parents: the grader answers in time and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sgsd.types import Status
from sgsd.verify import MathVerifier

_TIMEOUT = 1.0
_MARGIN = 1.0
_EASY = (r"2^{n+1}", r"2\cdot 2^n")  # only computer algebra can decide it, and it does so at once
_BOMB = (r"\int_0^{\infty} e^{-x^{x}}\sin(x^{3})\,dx", r"\log 3")  # passes the guards and would run for minutes
_OTHER_BOMB = (r"\int_0^{\infty} e^{-x^{x}}\cos(x^{5})\,dx", r"\log 5")


def _box(answer: str) -> str:
    return rf"\boxed{{{answer}}}"


def _alive(pid: int) -> bool:
    """True for a process that runs; one that is dead but not yet reaped by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    with MathVerifier(timeout=_TIMEOUT) as made:
        made.grade([_box(_EASY[0])], [_EASY[1]])  # pays for the imports
        yield made
        pids = made.worker_pids
        assert pids
    assert _wait_until(lambda: not any(map(_alive, pids)))


class _Rude:
    """An object that raises whatever is asked of it."""

    def _refuse(self, *_: object) -> Any:
        raise RuntimeError("asked a hostile object")

    __str__ = __repr__ = __eq__ = __len__ = __iter__ = __bool__ = __float__ = __int__ = _refuse
    __hash__ = None  # type: ignore[assignment]

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("asked a hostile object for its class")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"asked a hostile object for {name}")


class _RudeText(str):
    def __str__(self) -> str:
        raise RuntimeError("asked a hostile text")

    def __len__(self) -> int:
        raise RuntimeError("asked a hostile text")


_HOSTILE = [
    "9^{9^{9^{9}}}", "9^9^9^9", "9**9**9**9", "2^{2^{2^{2^{2^{2}}}}}", "10^{10^{100}}", "x^{9^{9^9}}", "(9^9)^{9^9}",
    "99999^{99999}", "1.0000001^{999999999}", "((((9!)!)!)!)!", "9!!!!!!!!", "100000!", "(10^9)!", "(2^{30})!",
    r"\binom{1000000}{500000}", r"\sum_{k=1}^{99999999} \frac{1}{k}", r"\prod_{k=1}^{999999} k", r"\sqrt[999999999]{2}",
    r"\Gamma(99999999)", r"\frac{1}{0}", r"0^{0}", r"\tan(\frac{\pi}{2})", "9" * 1_000_000, "9" * 1_000_000 + "x",
    "-" * 100_000 + "1", "{" * 100_000, "}" * 100_000, "{" * 100_000 + "}" * 100_000, "(" * 100_000 + ")" * 100_000,
    "(" * 900 + "x" + ")" * 900, r"\sqrt{" * 300 + "x" + "}" * 300, r"\frac{1}{" * 150 + "x" + "}" * 150,
    "__import__('os').system('touch X')", "exec(\"open('X','w')\")", "open('X','w').write('1')", "eval('1+1')",
    "lambda: open('X', 'w')", "().__class__.__bases__[0].__subclasses__()", "$(touch X)", "`touch X`; touch X",
    r"\input{/etc/passwd}", r"\immediate\write18{touch X}", r"\def\x{\x\x}\x", r"\begin{verbatim}touch X\end{verbatim}",
    "\x00\x01\x02", "\ud800", "\u202e34", "a" * 100_000, " " * 100_000 + "x", "1," * 50_000, "x=" * 50_000,
    "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}" * 10_000, "NaN", "inf", "True", "None", "%s%s%n", "{{7*7}}",
    "<script>alert(1)</script>", "'; DROP TABLE answers; --", r"\pm" * 200 + "1",
    "(x+y+z+w)^{500}" + r"+\sin x", r"\sin(" * 30 + "x" + ")" * 30,
]  # fmt: skip
_VALUES: list[Any] = [
    None, True, False, 0, 34, -1, 3.4, float("nan"), float("inf"), 1j, b"34", b"\\boxed{34}", bytearray(b"x"),
    [], [34], (34,), {34}, {"a": 34}, object(), object, len, range(3), _Rude(), _RudeText(_box("34")), 10**6000,
    sys, NotImplemented, ..., memoryview(b"x"), iter([1]), Exception("x"),
]  # fmt: skip


def test_hostile_texts_are_answered_in_time_and_never_executed(
    verifier: MathVerifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(_HOSTILE) >= 40
    for text in _HOSTILE:
        for completion, gold in ((_box(text), "34"), (_box("34"), text)):
            start = time.perf_counter()
            (verdict,) = verifier.grade([completion], [gold])
            taken = time.perf_counter() - start
            assert taken < _TIMEOUT + _MARGIN, (text[:60], taken)
            assert verdict.status is not Status.CORRECT, text[:60]
    assert list(tmp_path.iterdir()) == []


def test_hostile_texts_against_themselves_never_raise(verifier: MathVerifier) -> None:
    completions = [_box(text) for text in _HOSTILE]
    assert len(verifier.grade(completions, _HOSTILE)) == len(_HOSTILE)


def test_every_type_is_answered_without_raising(verifier: MathVerifier) -> None:
    as_completions = verifier.grade(_VALUES, ["34"] * len(_VALUES))
    wanted = [Status.CORRECT if type(value) is _RudeText else Status.INCORRECT for value in _VALUES]
    assert [verdict.status for verdict in as_completions] == wanted
    as_golds = verifier.grade([_box("34")] * len(_VALUES), _VALUES)
    known = {id(value) for value in _VALUES if type(value) in {int, float, bool, _RudeText}}
    for value, verdict in zip(_VALUES, as_golds):
        if id(value) not in known:
            assert verdict.status is Status.UNPARSED


def test_a_time_out_is_unknown_and_a_new_worker_is_there_at_once(verifier: MathVerifier) -> None:
    before = set(verifier.worker_pids)
    start = time.perf_counter()
    rows = [_BOMB, _OTHER_BOMB, _EASY]  # the second bomb finds no spare that had time to start
    verdicts = verifier.grade([_box(answer) for answer, _ in rows], [gold for _, gold in rows])
    taken = time.perf_counter() - start
    assert [verdict.status for verdict in verdicts] == [Status.TIMEOUT, Status.TIMEOUT, Status.CORRECT]
    assert verdicts[0].outcome == 0
    assert all(_TIMEOUT <= verdict.seconds < _TIMEOUT + _MARGIN for verdict in verdicts[:2])
    assert taken < 2 * _TIMEOUT + _MARGIN  # no import was waited for
    gone = before - set(verifier.worker_pids)
    assert _wait_until(lambda: not any(map(_alive, gone)))


def _forkserver(verifier: MathVerifier) -> int:
    (forkserver,) = verifier._pool._forkservers
    return forkserver.pid


def test_a_worker_that_died_while_idle_is_replaced(verifier: MathVerifier) -> None:
    verifier.grade([_box(_EASY[0])], [_EASY[1]])
    os.kill(verifier._pool._idle[0].pid, signal.SIGKILL)
    assert verifier.grade([_box(_EASY[0])], [_EASY[1]])[0].status is Status.CORRECT


def test_a_worker_that_dies_over_its_question_is_replaced_in_the_time_that_is_left(verifier: MathVerifier) -> None:
    verifier.grade([_box(_EASY[0])], [_EASY[1]])
    busy = verifier._pool._idle[0].pid
    killing = threading.Timer(0.7 * _TIMEOUT, os.kill, [busy, signal.SIGKILL])
    killing.start()
    (verdict,) = verifier.grade([_box(_BOMB[0])], [_BOMB[1]])
    killing.join()
    assert verdict.status is Status.TIMEOUT
    assert verdict.seconds < _TIMEOUT + _MARGIN


def test_a_forkserver_that_died_is_replaced_and_its_busy_worker_ends(verifier: MathVerifier) -> None:
    verifier.grade([_box(_EASY[0])], [_EASY[1]])
    forkserver, worker = _forkserver(verifier), verifier._pool._idle[0].pid
    killing = threading.Timer(0.2 * _TIMEOUT, os.kill, [forkserver, signal.SIGKILL])
    killing.start()
    (verdict,) = verifier.grade([_box(_BOMB[0])], [_BOMB[1]])
    assert verdict.status is Status.TIMEOUT
    assert verifier.grade([_box(_EASY[0])], [_EASY[1]])[0].status is Status.CORRECT
    assert _forkserver(verifier) != forkserver
    assert _wait_until(lambda: not _alive(worker), seconds=2 * _MARGIN)  # by its own alarm: nobody could kill it


def test_the_forkserver_has_one_thread_and_never_more_workers_than_questions(verifier: MathVerifier) -> None:
    verifier.grade([_box(_EASY[0])] * 3, [_EASY[1], r"3\cdot 2^n", r"5\cdot 2^n"])
    assert len(verifier.worker_pids) == 2
    assert len(list(Path(f"/proc/{_forkserver(verifier)}/task").iterdir())) == 1  # or a fork might copy a held lock


def test_threads_share_one_verifier(verifier: MathVerifier) -> None:
    results: list[Status] = []

    def grade() -> None:
        results.extend(v.status for v in verifier.grade([_box("5"), _box(_EASY[0])], ["5", _EASY[1]]))

    threads = [threading.Thread(target=grade) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [Status.CORRECT] * 12


def test_closing_is_final_and_leaves_no_worker() -> None:
    verifier = MathVerifier(timeout=_TIMEOUT)
    verifier.close()
    assert verifier.grade([_box("5")], ["5"])[0].status is Status.CORRECT  # needs no worker
    with pytest.raises(RuntimeError, match="closed"):
        verifier.grade([_box(_EASY[0])], [_EASY[1]])
    verifier.close()
    assert verifier.worker_pids == []


# A user's script: no __main__ guard, and a folder whose files shadow what a worker imports. It grades, forks (the
# child starts a worker of its own and exits without closing), grades again, and is killed while a worker is busy.
_SCRIPT = f"""
import os, signal, sys, threading, time
from sgsd.verify import MathVerifier

def report(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

easy = ([r"\\boxed{{{_EASY[0]}}}"], [r"{_EASY[1]}"])
bomb = ([r"\\boxed{{{_BOMB[0]}}}"], [r"{_BOMB[1]}"])
verifier = MathVerifier(timeout={_TIMEOUT})
report("parent", verifier.grade(*easy)[0].status, *verifier.worker_pids)
if os.fork() == 0:
    report("inherited", *verifier.worker_pids)
    report("child", verifier.grade(*easy)[0].status, *verifier.worker_pids)
    sys.exit(0)
os.wait()
report("again", verifier.grade(*easy)[0].status, *verifier.worker_pids)
threading.Thread(target=verifier.grade, args=bomb, daemon=True).start()
time.sleep(0.4)
os.kill(os.getpid(), signal.SIGKILL)
""".replace("\\\\", "\\")


def test_a_script_that_forks_and_is_killed_leaves_no_worker(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_SCRIPT)
    for shadowed in ("math_verify.py", "sympy.py"):
        (tmp_path / shadowed).write_text("raise SystemExit('a file of the user was imported')")
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    reported = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert reported["parent"][0] == reported["child"][0] == reported["again"][0] == "correct"
    assert reported["inherited"] == []
    assert set(reported["child"][1:]).isdisjoint(reported["parent"][1:])
    assert reported["again"][1:] == reported["parent"][1:]
    pids = [int(pid) for words in reported.values() for pid in words if pid.isdigit()]  # fork servers and workers
    assert len(pids) >= 4
    assert _wait_until(lambda: not any(map(_alive, pids)), seconds=_TIMEOUT + 3 * _MARGIN)
