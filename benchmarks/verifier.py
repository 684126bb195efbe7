"""How often the verifier agrees with people, and how fast; math-verify's own figures on the same rows beside it.

    python benchmarks/verifier.py                       # writes benchmarks/results/verifier.json
    python benchmarks/verifier.py --show-development    # and the development half's disagreements, row by row

Rows. Two authors who had never seen the grader wrote 330 labelled rows each (tests/unit/verify_authors). SHA-256 of
completion, NUL, gold splits them: first byte even, development; odd, reporting. The grader may be mended after looking
at development rows. Nobody looks at reporting rows: this script prints nothing but totals of them. The older corpus
(tests/unit/verify_corpus.jsonl) was written with the grader, and says less about it.

Figures. Agreement is the share of rows on which "correct or not" is as labelled; a false positive is a row graded
correct that is not, as a share of the rows that are not; intervals are Wilson's, 95 %. Milliseconds are wall time of a
row graded alone, after a first answer that pays for the imports.

math-verify. Its own extraction and defaults, gold between dollar signs, its own time-outs (5 s each for parsing and
comparing), and a process that is killed where those do not hold; a row that is stopped counts as not correct.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from machine import commit, processor
from sgsd.evaluation.stats import wilson
from sgsd.types import Status
from sgsd.verify import MathVerifier

REPOSITORY = Path(__file__).resolve().parent.parent
CORPUS = REPOSITORY / "tests" / "unit" / "verify_corpus.jsonl"
AUTHORS = REPOSITORY / "tests" / "unit" / "verify_authors"
TARGETS = {"agreement": 0.98, "false_positives": 0.01, "median_ms": 2.0}
TIMEOUT = 5.0
KILL_AFTER = 15.0  # more than math-verify's own time-outs together


@dataclass(frozen=True, slots=True)
class Row:
    category: str
    completion: str
    gold: Any
    label: str

    @property
    def correct(self) -> bool:
        return self.label == Status.CORRECT


@dataclass(frozen=True, slots=True)
class Graded:
    row: Row
    status: str
    ms: float

    @property
    def agrees(self) -> bool:
        return (self.status == Status.CORRECT) == self.row.correct


def read_rows(path: Path) -> list[Row]:
    return [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def half(row: Row) -> str:
    """Which half a row belongs to, for ever: a row's text decides."""
    text = f"{row.completion}\x00{row.gold}".encode("utf-8", "surrogatepass")
    return "development" if hashlib.sha256(text).digest()[0] % 2 == 0 else "reporting"


def row_sets() -> dict[str, list[Row]]:
    """The rows of every set: the two halves of the authors' rows, and the older corpus."""
    sets: dict[str, list[Row]] = {"development": [], "reporting": []}
    for path in sorted(AUTHORS.glob("author_*.jsonl")):
        for row in read_rows(path):
            sets[half(row)].append(row)
    return sets | {"older corpus": read_rows(CORPUS)}


def grade_ours(rows: Iterable[Row]) -> list[Graded]:
    graded = []
    with MathVerifier(timeout=TIMEOUT) as verifier:
        verifier.grade([r"\boxed{2^{n+1}}"], [r"2\cdot 2^n"])  # pays for the imports
        for row in rows:
            start = time.perf_counter()
            (verdict,) = verifier.grade([row.completion], [row.gold])
            graded.append(Graded(row, verdict.status.value, 1e3 * (time.perf_counter() - start)))
    return graded


def serve_math_verify(connection: Connection) -> None:
    """Child process: math-verify as its users call it, one row at a time."""
    from math_verify import parse, verify

    connection.send(("ready", 0.0))
    while True:
        completion, gold = connection.recv()
        start = time.perf_counter()
        text = str(gold)  # one gold of the older corpus is no text
        gold_forms = parse(text if "\\boxed" in text or "$" in text else f"${text}$")
        equal = verify(gold_forms, parse(completion))  # what this raises ends the process, and is reported as that
        status = Status.CORRECT if equal else Status.INCORRECT
        connection.send((status.value, 1e3 * (time.perf_counter() - start)))


class MathVerify:
    """A math-verify process that is killed and started anew where it does not answer."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve_math_verify, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._connection.recv()

    def grade(self, row: Row) -> Graded:
        self._connection.send((row.completion, row.gold))
        try:
            answered = self._connection.poll(KILL_AFTER)
            status, ms = self._connection.recv() if answered else ("killed", 1e3 * KILL_AFTER)
        except EOFError:
            answered, (status, ms) = False, ("died", 0.0)
        if not answered:
            self.close()
            self._start()
        return Graded(row, status, ms)

    def close(self) -> None:
        self._process.kill()
        self._process.join()


def grade_math_verify(rows: Iterable[Row]) -> list[Graded]:
    grader = MathVerify()
    grader.grade(Row("", r"\boxed{2^{n+1}}", r"2\cdot 2^n", ""))
    graded = [grader.grade(row) for row in rows]
    grader.close()
    return graded


def share(count: int, of: int) -> dict[str, Any]:
    return {"count": count, "of": of} | ({"interval": asdict(wilson(count, of))} if of else {})


def totals(graded: Sequence[Graded]) -> dict[str, Any]:
    """Totals only: nothing in them tells one row from another."""
    wrong = [g for g in graded if not g.agrees]
    correct = sum(g.row.correct for g in graded)
    return {
        "agreement": share(len(graded) - len(wrong), len(graded)),
        "false_positives": share(sum(not g.row.correct for g in wrong), len(graded) - correct),
        "false_negatives": share(sum(g.row.correct for g in wrong), correct),
        "timeouts": sum(g.status == Status.TIMEOUT for g in graded),
        "median_ms": statistics.median(g.ms for g in graded),
        "p95_ms": statistics.quantiles((g.ms for g in graded), n=20)[-1],
        "max_ms": max(g.ms for g in graded),
    }


def by_category(graded: Sequence[Graded]) -> dict[str, Any]:
    found = {}
    for category in sorted({g.row.category for g in graded}):
        some = [g for g in graded if g.row.category == category]
        found[category] = {
            "rows": len(some),
            "disagreements": sum(not g.agrees for g in some),
            "false_positives": sum(not g.agrees and not g.row.correct for g in some),
        }
    return found


def measure(*, with_math_verify: bool, show_development: bool) -> dict[str, Any]:
    sets = {}
    for name, rows in row_sets().items():
        graded = {"ours": grade_ours(rows)}
        if with_math_verify:
            graded["math-verify"] = grade_math_verify(rows)
        sets[name] = {grader: totals(some) | {"by_category": by_category(some)} for grader, some in graded.items()}
        if show_development and name == "development":
            show(graded["ours"])
    return {
        "machine": f"{platform.system()} {platform.machine()}, {processor()}",
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("sgsd", "math-verify", "latex2sympy2_extended", "sympy")},
        "commit": commit(),
        "targets": TARGETS,
        "timeout": TIMEOUT,
        "sets": sets,
    }


def show(graded: Iterable[Graded]) -> None:
    for g in graded:
        if not g.agrees or (g.row.label != g.status and g.row.label in set(Status)):
            line = {"label": g.row.label, "status": g.status, "gold": g.row.gold, "completion": g.row.completion}
            sys.stdout.write(f"[{g.row.category}] {json.dumps(line, ensure_ascii=False)}\n")


def table(report: dict[str, Any]) -> str:
    lines = [f"{'rows':<14} {'grader':<12} {'agreement':<28} {'false positives':<28} {'median ms':>9} {'95 % ms':>9}"]
    for name, graders in report["sets"].items():
        for grader, found in graders.items():
            shares = [percent(found[key]) for key in ("agreement", "false_positives")]
            lines.append(
                f"{name:<14} {grader:<12} {shares[0]:<28} {shares[1]:<28} "
                f"{found['median_ms']:>9.2f} {found['p95_ms']:>9.1f}"
            )
    lines.append("disagreements (of which false positives) by category, ours:")
    for name, graders in report["sets"].items():
        cells = [
            f"{category} {found['disagreements']}/{found['rows']} ({found['false_positives']})"
            for category, found in graders["ours"]["by_category"].items()
            if found["disagreements"]
        ]
        lines.append(f"  {name}: {'; '.join(cells) or 'none'}")
    return "\n".join(lines)


def percent(found: dict[str, Any]) -> str:
    interval = found["interval"]
    low, high = 100 * interval["low"], 100 * interval["high"]
    return f"{found['count']}/{found['of']} {100 * interval['accuracy']:.1f} % ({low:.1f}–{high:.1f})"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--show-development", action="store_true", help="print the development half's disagreements")
    parser.add_argument("--only-ours", action="store_true", help="leave math-verify out; prints, and writes no file")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results" / "verifier.json")
    arguments = parser.parse_args(argv)
    report = measure(with_math_verify=not arguments.only_ours, show_development=arguments.show_development)
    if not arguments.only_ours:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(table(report) + "\n")


if __name__ == "__main__":
    main()
