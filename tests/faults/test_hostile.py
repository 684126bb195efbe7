"""Two hundred hostile inputs: answered in time one by one and in one call, nothing executed, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from sgsd.types import Status
from sgsd.verify import MathVerifier

_TIMEOUT = 1.0
_MARGIN = 1.0
_MEGABYTE = 1_000_000
_PARENT_BYTES = 200 << 20  # that grading everything may add to the memory of its process

Families = dict[str, list[tuple[Any, Any]]]  # name → pairs of completion and gold


def _box(answer: str) -> str:
    return rf"so \boxed{{{answer}}}."


def _both_sides(answers: list[str]) -> list[tuple[Any, Any]]:
    """Every text as the answer to 34, and as the gold of an honest answer."""
    return [pair for answer in answers for pair in ((_box(answer), "34"), (_box("x^2+34"), answer))]


def _towers() -> list[str]:
    powers = ["^".join("9" * height) for height in (4, 9, 40)]
    braced = ["9^{" * height + "9" + "}" * height for height in (3, 6, 15, 30)]
    others = ["9**9**9**9", "x^{9^{9^9}}", "(9^9)^{9^{9^9}}", "10^{10^{100}}", "1.0000001^{999999999}", "2^{(10^9)!}"]
    return powers + braced + others


def _factorials() -> list[str]:
    nested = ["(" * depth + "9" + ")!" * depth for depth in (2, 4, 12)]
    others = [
        "9!!!!!!!!",
        "100000!",
        "(10^9)!",
        r"\binom{1000000}{500000}",
        r"\Gamma(99999999)",
        r"\sqrt[999999999]{2}",
    ]
    return [*nested, *others, r"\sum_{k=1}^{99999999} \frac{1}{k}", r"\prod_{k=1}^{999999} k"]


def _digits() -> list[str]:
    nines = "9" * _MEGABYTE
    return [
        nines,
        f"-{nines}.{nines}",
        nines + "x",
        f"0.{nines}",
        ",".join(["999"] * 200_000),
        "1/" + nines,
        "1e" + nines,
    ]


def _brackets() -> list[str]:
    many = 100_000
    alone = [bracket * many for bracket in ("{", "}", "(", ")", "[", "|", r"\{", r"\left(")]
    nested = ["{" * many + "5" + "}" * many, "(" * many + "5" + ")" * many, "(" * 900 + "x" + ")" * 900]
    commands = [rf"\{name}{{" * 20_000 + "5" + "}" * 20_000 for name in ("sqrt", "text", "boxed", "frac{1}")]
    return alone + nested + commands


def _code(canary: Path) -> list[str]:
    write = f"open({str(canary)!r},'w').write('x')"
    return [
        f"__import__('os').system('touch {canary}')",
        f"__import__('subprocess').run(['touch',{str(canary)!r}])",
        f"exec({write!r})",
        f"eval({write!r})",
        write,
        f"(lambda: {write})()",
        f"[{write} for _ in (1,)][0]",
        f"().__class__.__bases__[0].__subclasses__() or {write}",
        f"f'{{{write}}}'",
        "f'{__import__(\"os\").getpid()}'",
        "{0.__class__.__init__.__globals__}",
        f"{{{{ cycler.__init__.__globals__.os.popen('touch {canary}') }}}}",
        f"${{{write}}}",
        "%(x)s%s%n%1000000d",
        f"$(touch {canary})",
        f"`touch {canary}`; touch {canary}",
        rf"\immediate\write18{{touch {canary}}}",
        rf"\input{{{canary}}}",
        r"\def\x{\x\x}\x",
        r"\catcode`\%=12",
        f"!!python/object/apply:os.system ['touch {canary}']",
        f"cos\nsystem\n(S'touch {canary}'\ntR.",
        f"sympify({write!r})",
        f"Symbol('x').subs({write})",
        f"'; DROP TABLE answers; -- {write}",
        "<script>fetch('/')</script>",
    ]


def _expansions() -> list[str]:
    return [
        "(x+y+z+w)^{500}+" + r"\sin x",
        "*".join(["(x+y)"] * 390),
        "(" * 30 + "x+1" + ")^9" * 30,
        r"\pm" * 300 + "1",
        "x=" * 50_000 + "1",
        "1," * 50_000 + "1",
        "-" * 100_000 + "1",
        "|" * 301 + "x" + "|" * 300,
        r"\cup".join(f"({k},{k + 1})" for k in range(180)),
        "+".join(f"1/(x+{k})" for k in range(60)),
        r"\sin(" * 30 + "x" + ")" * 30,
        r"\begin{pmatrix}" + r"1&2\\" * 20_000 + r"\end{pmatrix}",
        "99 hours " * 20_000,
        "nine hundred " * 20_000,
        r"2^{9999}*" * 90 + "1",
    ]


def _signs() -> list[str]:
    rng = random.Random(0)
    noise = ["".join(chr(rng.randrange(1, 0x11000)) for _ in range(2_000)) for _ in range(6)]
    pieces = [r"\frac", "{", "}", "^", "_", "(", r"\sqrt", "!", "9", "x", r"\log", "|", ",", r"\int", "=", "<", "''"]
    soup = ["".join(rng.choice(pieces) for _ in range(300)) for _ in range(8)]
    return [*noise, *soup, "\x00\x01\x02", "\ud800\udfff", "\u202e43", "\u0300" * 100_000, "﷽" * 50_000, "１" * 100_000]


_BOMBS = [  # pass every guard, and computer algebra would work on them for long
    (r"\int_0^{\infty} e^{-x^{x}}\sin(x^{3})\,dx", r"\log 3"),
    (r"\int_0^{\infty} e^{-x^{x}}\cos(x^{5})\,dx", r"\log 5"),
    ("(a+b+c+d+e+f+g+h)^{64}", "(a+b+c+d+e+f+g+j)^{64}"),
    (r"\int_0^{\pi} \frac{x\sin^5 x}{1+\cos^6 x} dx", r"\pi"),
    (r"x^{100}+x^{99}+\sin^{60}(x)\cos^{60}(x)", r"(x+\sin x)^{64}"),
]


class _Raising:
    """An object that raises whatever is asked of it."""

    def _refuse(self, *_: object) -> Any:
        raise RuntimeError("asked a hostile object")

    __str__ = __repr__ = __eq__ = __len__ = __iter__ = __bool__ = __float__ = __int__ = __index__ = _refuse
    __hash__ = __format__ = __fspath__ = __call__ = __enter__ = __getattr__ = _refuse
    __class__ = property(_refuse)


def _writing(canary: Path, module: str) -> Any:
    """An object, of a type that says it comes from `module`, that writes a file whatever is asked of it or its type."""

    def write(*_: object) -> Any:
        canary.write_text("executed")
        return 0

    names = ["str", "repr", "eq", "len", "iter", "bool", "float", "int", "index", "hash", "format", "getattr", "call"]
    body: dict[str, Any] = {f"__{name}__": write for name in names}
    checks = ["getattr", "instancecheck", "subclasscheck", "eq", "hash", "str", "repr", "len", "iter", "contains"]
    meta = type("Meta", (type,), {f"__{name}__": write for name in checks})
    kind = meta("Hostile", (), body | {"__class__": property(write), "__module__": module, "item": write, "ndim": 0})
    return object.__new__(kind)


class _Text(str):
    """A text that raises when it is asked for itself."""

    def _refuse(self, *_: object) -> Any:
        raise RuntimeError("asked a hostile text")

    __str__ = __len__ = __iter__ = __eq__ = __contains__ = encode = strip = rpartition = _refuse  # type: ignore[assignment]
    __hash__ = _refuse


def _values(canary: Path) -> list[Any]:
    numbers = [True, 0, -1, 10**6000, 10**100_000, 3.4, float("nan"), float("inf"), 1j, Fraction(1, 3)]
    containers: list[Any] = [[], [34], (34,), {34}, frozenset(), {"a": 34}, range(3), iter([1])]
    data: list[Any] = [b"34", bytearray(b"x"), memoryview(b"x"), Decimal("sNaN"), _Text("34")]
    others: list[Any] = [None, ..., NotImplemented, object(), object, type, len, sys, lambda: 1, Exception("x")]
    recursive: list[Any] = []
    recursive.append(recursive)
    hostile = [_Raising(), _Raising, *(_writing(canary, module) for module in ("builtins", "numpy", "sympy"))]
    return [*numbers, *containers, *data, *others, recursive, *hostile]


def _families(canary: Path) -> Families:
    values = [(value, "34") for value in _values(canary)] + [(_box("34"), value) for value in _values(canary)]
    thoughts = [
        "<think>" * 100_000,
        "</think>" * 100_000,
        "<think>" * 9 + r"\boxed{5}",
        r"\boxed{" * 50_000,
        r"\boxed " * 50_000,
    ]
    return {
        "power towers": _both_sides(_towers()),
        "factorials": _both_sides(_factorials()),
        "megabytes of digits": _both_sides(_digits()),
        "brackets": _both_sides(_brackets()),
        "code": _both_sides(_code(canary)),
        "expansions": _both_sides(_expansions()),
        "signs and noise": _both_sides(_signs()),
        "completions": [(thought, "34") for thought in thoughts],
        "python values": values,
        "bombs": [(_box(answer), gold) for answer, gold in _BOMBS],
    }


@pytest.fixture
def marked_environment(monkeypatch: pytest.MonkeyPatch) -> str:
    """A mark that every process started from here on carries, whoever its parent becomes."""
    mark = f"SGSD_HOSTILE={uuid.uuid4()}"
    monkeypatch.setenv(*mark.split("="))
    return mark


@pytest.fixture
def families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Families]:
    monkeypatch.chdir(tmp_path)
    yield _families(tmp_path / "canary")
    assert list(tmp_path.iterdir()) == []  # nothing was executed


def _living_with(mark: str) -> list[str]:
    """Processes other than this one that carry a mark in their environment."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append(process.name)
        except OSError:
            continue
    return found


def _memory_growth(work: Callable[[], None]) -> int:
    """The bytes by which resident memory rises while something is done; 0 if the system cannot tell."""

    def resident(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))

    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to what is resident
    except OSError:
        work()
        return 0
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def _warm(verifier: MathVerifier) -> None:
    """Pay for the one import, which belongs to no question."""
    assert verifier.grade([_box("2^{n+1}")], [r"2\cdot 2^n"])[0].status is Status.CORRECT


def _check(name: str, status: Status, seconds: float) -> None:
    assert seconds < _TIMEOUT + _MARGIN, name
    assert status is not Status.CORRECT or name == "python values", name


def test_there_are_enough_of_them(families: Families) -> None:
    assert sum(map(len, families.values())) >= 200


@pytest.mark.parametrize("touch", [str, repr, len, hash, lambda trap: trap.item(), lambda trap: type(trap) in [int]])
def test_the_traps_snap(tmp_path: Path, touch: Callable[[Any], Any]) -> None:
    canary = tmp_path / "canary"
    with contextlib.suppress(TypeError):  # what a trap gives back is no text
        touch(_writing(canary, "numpy"))
    assert canary.exists()


def test_one_at_a_time(families: Families, marked_environment: str) -> None:
    def grade_each() -> None:
        with MathVerifier(timeout=_TIMEOUT) as verifier:
            _warm(verifier)
            for name, pairs in families.items():
                for completion, gold in pairs:
                    start = time.perf_counter()
                    (verdict,) = verifier.grade([completion], [gold])
                    taken = time.perf_counter() - start
                    _check(name, verdict.status, taken)
                    assert verdict.seconds <= taken
            assert _living_with(marked_environment)

    assert _memory_growth(grade_each) < _PARENT_BYTES
    assert _living_with(marked_environment) == []


def test_in_one_call(families: Families, marked_environment: str) -> None:
    """Back-to-back bombs included: `seconds` is a row's own time, and no time goes missing between the rows."""
    names = [name for name, pairs in families.items() for _ in pairs]
    completions = [completion for pairs in families.values() for completion, _ in pairs]
    golds = [gold for pairs in families.values() for _, gold in pairs]
    with MathVerifier(timeout=_TIMEOUT) as verifier:
        _warm(verifier)
        start = time.perf_counter()
        verdicts = verifier.grade(completions, golds)
        taken = time.perf_counter() - start
    for name, verdict in zip(names, verdicts):
        _check(name, verdict.status, verdict.seconds)
    assert taken < sum(verdict.seconds for verdict in verdicts) + _MARGIN
    timeouts = [name for name, verdict in zip(names, verdicts) if verdict.status is Status.TIMEOUT]
    assert timeouts.count("bombs") > len(_BOMBS) / 2
    assert _living_with(marked_environment) == []
