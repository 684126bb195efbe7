"""`sgsd plan CONFIG`: how long, how much memory, how much disk, before anything is run for real."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from accelerate import PartialState
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from sgsd.cli.training import notes_shown, read_config
from sgsd.train import RunConfig
from sgsd.train.devices import GPUS
from sgsd.train.estimate import Estimate, assumed_lengths
from sgsd.train.memory import size_words
from sgsd.train.plan import Measured, measure
from sgsd.types import UserError

DEVICES = ", ".join([*GPUS, "cpu"])
USAGE = f"""sgsd plan CONFIG [--steps N] [--key.part value …]
sgsd plan CONFIG --on DEVICE [--processes N] [--utilisation 0.5] [--student-prompt N] [--teacher-prompt N]
                 [--completion N] [--longest N] [--key.part value …]

Measured: makes the run's first N steps (4 where nothing is said) in a temporary folder, leaves the first out, and says
what the whole run will take. Nothing is left behind. The run's own number of steps is the config's.
By arithmetic, for a machine that is not here ({DEVICES}): nothing is loaded but the model's configuration.
Lengths are means in tokens; each assumption is printed with its value."""
STEPS = 4
LENGTHS = ("--student-prompt", "--teacher-prompt", "--completion", "--longest")


def plan(args: list[str], console: Console) -> None:
    """Measure or estimate, and show the tables."""
    if not args or args[0] in ("-h", "--help"):
        console.print(USAGE, markup=False)
        return
    if args[0].startswith("-"):
        raise UserError(f"the config file comes before {args[0]}: sgsd plan CONFIG {args[0]} …")
    rest = list(args[1:])
    steps, device = _take(rest, "--steps", "4"), _take(rest, "--on", "h100")
    processes, utilisation = _take(rest, "--processes", "2"), _take(rest, "--utilisation", "0.4")
    lengths = {flag: _take(rest, flag, "256") for flag in LENGTHS}
    config = read_config(Path(args[0]), rest, "sgsd plan CONFIG")
    if device is None:
        by_arithmetic = {"--processes": processes, "--utilisation": utilisation, **lengths}
        if given := next((flag for flag, word in by_arithmetic.items() if word is not None), None):
            raise UserError(f"{given}: goes with --on DEVICE ({DEVICES}); what is measured needs no assumption")
        count = STEPS if steps is None else _whole("--steps", steps)
        with notes_shown(console), console.status(f"Making {count} steps …"):
            found = measure(config, count)
        if PartialState().is_main_process:
            show_measured(found, console)
        return
    if steps is not None:
        raise UserError("--steps: steps are measured, or a machine is named by --on, not both")
    told = [None if word is None else _whole(flag, word) for flag, word in lengths.items()]
    count = 1 if processes is None else _whole("--processes", processes)
    share = None if utilisation is None else _share("--utilisation", utilisation)
    show_estimate(
        Estimate.of(config, device, assumed_lengths(config, *told), processes=count, utilisation=share), console
    )


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
    console.print(f"Run: {_clock(whole)} ({_listed(run)}), {config.steps:,} steps.", soft_wrap=True)
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
        f" {_clock(longer)}.",
        soft_wrap=True,
    )
    console.print(f"Tokens: {_count(found.tokens)} sampled, {_count(found.teacher_tokens)} read by teachers.")
    where = "resident, above what the program had at the start" if found.on_cpu else "allocated on the device"
    console.print(f"Memory: {size_words(found.peak)} at the peak, {where}.")
    console.print(f"Disk: {size_words(sum(found.disk.values()))} ({_sizes(found.disk)}), report.html not counted.")
    for remark in remarks(config):
        console.print(f"Note: {remark}", soft_wrap=True)


def remarks(config: RunConfig) -> list[str]:
    """What the measured figures do not hold."""
    found = []
    cores, load = os.cpu_count() or 1, os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > cores + 1:
        found.append(f"the machine is busy (load {load:.0f} on {cores} cores); on a quiet one all of it is faster")
    if config.growth.every:
        found.append(f"updates of the bank every {config.growth.every} steps are not in it; no writer was asked")
    return found


# ── By arithmetic ──────────────────────────────────────────────────────────────────────────────────────────────────


def show_estimate(found: Estimate, console: Console) -> None:
    ops, config = found.operations, found.config
    many = f", each of {found.processes} processes" if found.processes > 1 else ""
    console.print(f"{_count(found.parameters)} parameters, {_count(found.trained)} trained; {found.device.name}{many}.")
    table = _table("A step", "TFLOP", "", "seconds")
    for phase, total, parts in (
        ("sample", ops.sample, {"prompts": ops.prefill, "token by token": ops.decode}),
        ("score", ops.score, {"teachers": ops.teachers, "their head": ops.teachers_head}),
        ("update", ops.update, {"student": ops.student, "its head": ops.student_head}),
    ):
        listed = ", ".join(f"{name} {value / 1e12:,.3g}" for name, value in parts.items())
        table.add_row(phase, f"{total / 1e12:,.3g}", listed, f"{found.seconds[phase]:.2f}")
    table.add_row("step", f"{(ops.sample + ops.score + ops.update) / 1e12:,.3g}", "", f"{found.step:.2f}")
    console.print(table)
    r = found.rows
    evaluated = f", {found.evaluations} evaluations of {found.evaluation_seconds:.0f} s" if found.evaluations else ""
    console.print(f"Run: {_clock(found.run)}, {config.steps:,} steps{evaluated}.", soft_wrap=True)
    console.print(
        f"A process: {r.rollouts} rollouts, {r.per_batch} at a time; {r.teachers} rows of teachers in"
        f" {r.teacher_passes} passes; {r.student_passes} passes of the student, {r.per_student} rows each.",
        soft_wrap=True,
    )
    console.print(f"Memory: {found.memory.words()}.", soft_wrap=True)
    console.print(f"It {found.advice()}", soft_wrap=True, style="bold")
    console.print("\nAssumed:")
    for line in found.assumptions():
        console.print(f"  {line}", markup=False, soft_wrap=True)


# ── Words ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE)
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _listed(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_clock(value)}" for name, value in seconds.items() if value)


def _sizes(sizes: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {size_words(value)}" for name, value in sizes.items() if value)


def _clock(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.1f} s" if seconds < 60 else f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"


def _count(number: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f} {letter}"
    return f"{number:.0f}"


# ── Flags ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _take(rest: list[str], flag: str, example: str) -> str | None:
    """The word behind a flag of this command's own; the others belong to the config."""
    words = next((word.split("=", 1) for word in rest if word.startswith(f"{flag}=")), None)
    if words is not None:
        rest.remove("=".join(words))
        return words[1]
    if flag not in rest:
        return None
    place = rest.index(flag)
    if place + 1 == len(rest) or rest[place + 1].startswith("--"):
        raise UserError(f"{flag}: say what, for instance {flag} {example}")
    word = rest[place + 1]
    del rest[place : place + 2]
    return word


def _whole(flag: str, word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise UserError(f"{flag}: {word!r} is not a whole number from 1 on")
    return int(word)


def _share(flag: str, word: str) -> float:
    try:
        share = float(word)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UserError(f"{flag}: {word!r} is not a share between 0 and 1")
    return share
