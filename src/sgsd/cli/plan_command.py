"""`sgsd plan CONFIG`: time, memory and disk of a run before it is run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from statistics import fmean

from accelerate import PartialState
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from sgsd.cli.formatting import clock_words, count_words
from sgsd.cli.options import as_whole, config_first, take_word
from sgsd.cli.overrides import read_config
from sgsd.cli.training import notes_shown
from sgsd.plan.fit import Fit, assumed_lengths
from sgsd.plan.measured import Measured, measure
from sgsd.plan.memory import size_words
from sgsd.train import RunConfig
from sgsd.types import UserError

USAGE = """sgsd plan CONFIG [--steps N] [--key.part value …]
sgsd plan CONFIG --memory GB [--processes N] [--student-prompt N] [--teacher-prompt N] [--completion N]
                 [--key.part value …]

Measured: makes the run's first N steps in a temporary folder, leaves the first out, and says what the whole run will
take. Where nothing is said N is 4, or as many as it takes until those after the first have lasted 5 seconds. Nothing is
left behind. The run's own number of steps is the config's.
With --memory: whether the run fits a device of so many GB (10⁹ bytes), and what to lower first where it does not.
Nothing is loaded but the model's configuration. Lengths are in tokens; each assumption is printed."""
STEPS, SECONDS = 4, 5.0  # steps at first; more until those after the first have taken so long
ASSUMED = ("--processes", "--student-prompt", "--teacher-prompt", "--completion")
SHED = (
    "--on: seconds by arithmetic are no longer given, they were off by up to 60 % (docs/plan.md); plan on the machine"
    " itself, or ask by --memory GB whether the run fits"
)


def plan(args: list[str], console: Console) -> None:
    """Measure or trace, and show the tables."""
    path, rest = config_first(args, "plan", USAGE, console)
    if take_word(rest, "--on", "h100") is not None:
        raise UserError(SHED)
    steps, memory = take_word(rest, "--steps", STEPS), take_word(rest, "--memory", "80")
    given = {flag: take_word(rest, flag, "256") for flag in ASSUMED}
    config = read_config(path, rest, "sgsd plan CONFIG")
    if memory is None:
        if flag := next((flag for flag, word in given.items() if word is not None), None):
            raise UserError(f"{flag}: goes with --memory GB; what is measured needs no assumption")
        count, seconds = (STEPS, SECONDS) if steps is None else (as_whole("--steps", steps), 0.0)
        with notes_shown(console), console.status(f"Making {count} steps …"):
            found = measure(config, count, seconds)
        if PartialState().is_main_process:
            show_measured(found, console)
        return
    if steps is not None:
        raise UserError("--steps: steps are measured, or memory is traced by --memory, not both")
    processes, *lengths = (None if word is None else as_whole(flag, word) for flag, word in given.items())
    room = as_whole("--memory", memory) * 1e9
    show_fit(Fit.of(config, room, assumed_lengths(config, *lengths), processes or 1), console)


# ── Measured ───────────────────────────────────────────────────────────────────────────────────────────────────────


def show_measured(found: Measured, console: Console) -> None:
    config, n = found.config, found.lengths
    table = _table(f"Seconds a step, by {len(found.steps)} steps after one that warmed up", "mean", "least to most")
    for name, values in found.phases.items():
        table.add_row(name, f"{fmean(values):.3f}", f"{min(values):.3f} to {max(values):.3f}")
    walls = [step.wall for step in found.steps]
    table.add_row("step", f"{fmean(walls):.3f}", f"{min(walls):.3f} to {max(walls):.3f}")
    console.print(table)
    run, whole = found.run, sum(found.run.values())
    console.print(f"Run: {clock_words(whole)} ({_listed(run, clock_words)}), {config.steps:,} steps.", soft_wrap=True)
    if config.evaluation.data is not None:
        measured, problems, cut_off = found.evaluation_share
        cut = f", answers taken to reach {config.evaluation.sampling.max_tokens:,} tokens" if cut_off else ""
        said = f"Evaluation: {found.evaluation:.1f} s each, from {measured:,} of {problems:,} problems{cut}."
        console.print(said, soft_wrap=True)
    full, most = found.at_full_length(), config.sampling.max_tokens
    longer = whole + config.steps * (full - found.step)
    console.print(
        f"Lengths: completions of {n.completion:,} tokens in the mean, {n.longest:,} the longest of a batch; prompts"
        f" {n.student_prompt:,}, teachers' {n.teacher_prompt:,}. If all reach {most:,}: {full:.2f} s a step, run"
        f" {clock_words(longer)}.",
        soft_wrap=True,
    )
    console.print(f"Tokens: {count_words(found.tokens)} sampled, {count_words(found.teacher_tokens)} read by teachers.")
    where = "resident, above what the program had at the start" if found.on_cpu else "allocated on the device"
    console.print(f"Memory: {size_words(found.peak)} at the peak, {where}.")
    console.print(
        f"Disk: {size_words(sum(found.disk.values()))} ({_listed(found.disk, size_words)}), report.html not counted."
    )
    for remark in remarks(config):
        console.print(f"Note: {remark}", soft_wrap=True)


def remarks(config: RunConfig) -> list[str]:
    """Remarks on what the measured figures leave out."""
    found = []
    cores, load = os.cpu_count() or 1, os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > cores + 1:
        found.append(f"the machine is busy (load {load:.0f} on {cores} cores); on a quiet one all of it is faster")
    if config.skills.every:
        found.append(f"updates of the bank every {config.skills.every} steps are not in it; no writer was asked")
    return found


# ── Traced ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def show_fit(found: Fit, console: Console) -> None:
    r = found.rows
    console.print(
        f"A process: {r.rollouts} rollouts, {r.per_batch} at a time; {r.teachers} rows of teachers, {r.per_teacher} a"
        f" micro-batch; {r.student_microbatches} micro-batches of the student, {r.per_student} rows each.",
        soft_wrap=True,
    )
    console.print(f"Memory: {found.memory.words()}.", soft_wrap=True)
    console.print(f"It {found.advice()}", soft_wrap=True, style="bold")
    for line in found.assumptions():
        console.print(f"Assumed: {line}.", markup=False, soft_wrap=True)


# ── Words ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE)
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _listed(parts: Mapping[str, float], words: Callable[[float], str]) -> str:
    return ", ".join(f"{name} {words(value)}" for name, value in parts.items() if value)
