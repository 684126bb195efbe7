"""`sgsd plan CONFIG`: how long, how much memory, how much disk, before anything is run for real."""

from __future__ import annotations

import os
from collections.abc import Mapping
from statistics import fmean

from accelerate import PartialState
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from sgsd.cli.formatting import clock_words, count_words
from sgsd.cli.options import as_share, as_whole, config_first, take_word
from sgsd.cli.overrides import read_config
from sgsd.cli.training import notes_shown
from sgsd.plan.devices import GPUS
from sgsd.plan.estimate import Estimate, assumed_lengths
from sgsd.plan.measured import Measured, measure
from sgsd.plan.memory import size_words
from sgsd.train import RunConfig
from sgsd.types import UserError

DEVICES = ", ".join([*GPUS, "cpu"])
USAGE = f"""sgsd plan CONFIG [--steps N] [--key.part value …]
sgsd plan CONFIG --on DEVICE [--processes N] [--utilisation 0.5] [--student-prompt N] [--teacher-prompt N]
                 [--completion N] [--longest N] [--key.part value …]

Measured: makes the run's first N steps in a temporary folder, leaves the first out, and says what the whole run will
take. Where nothing is said N is 4, or as many as it takes until those after the first have lasted 5 seconds. Nothing is
left behind. The run's own number of steps is the config's.
By arithmetic, for a machine that is not here ({DEVICES}): nothing is loaded but the model's configuration.
Lengths are means in tokens; each assumption is printed with its value."""
STEPS, SECONDS = 4, 5.0  # steps at first; more until those after the first have taken so long
LENGTHS = ("--student-prompt", "--teacher-prompt", "--completion", "--longest")


def plan(args: list[str], console: Console) -> None:
    """Measure or estimate, and show the tables."""
    path, rest = config_first(args, "plan", USAGE, console)
    if path is None:
        return
    steps, device = take_word(rest, "--steps", STEPS), take_word(rest, "--on", "h100")
    processes, utilisation = take_word(rest, "--processes", "2"), take_word(rest, "--utilisation", "0.4")
    lengths = {flag: take_word(rest, flag, "256") for flag in LENGTHS}
    config = read_config(path, rest, "sgsd plan CONFIG")
    if device is None:
        by_arithmetic = {"--processes": processes, "--utilisation": utilisation, **lengths}
        if given := next((flag for flag, word in by_arithmetic.items() if word is not None), None):
            raise UserError(f"{given}: goes with --on DEVICE ({DEVICES}); what is measured needs no assumption")
        count, seconds = (STEPS, SECONDS) if steps is None else (as_whole("--steps", steps), 0.0)
        with notes_shown(console), console.status(f"Making {count} steps …"):
            found = measure(config, count, seconds)
        if PartialState().is_main_process:
            show_measured(found, console)
        return
    if steps is not None:
        raise UserError("--steps: steps are measured, or a machine is named by --on, not both")
    told = [None if word is None else as_whole(flag, word) for flag, word in lengths.items()]
    count = 1 if processes is None else as_whole("--processes", processes)
    share = None if utilisation is None else as_share("--utilisation", utilisation)
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
    console.print(f"Run: {clock_words(whole)} ({_listed(run)}), {config.steps:,} steps.", soft_wrap=True)
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
    console.print(f"Disk: {size_words(sum(found.disk.values()))} ({_sizes(found.disk)}), report.html not counted.")
    for remark in remarks(config):
        console.print(f"Note: {remark}", soft_wrap=True)


def remarks(config: RunConfig) -> list[str]:
    """What the measured figures do not hold."""
    found = []
    cores, load = os.cpu_count() or 1, os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > cores + 1:
        found.append(f"the machine is busy (load {load:.0f} on {cores} cores); on a quiet one all of it is faster")
    if config.skills.every:
        found.append(f"updates of the bank every {config.skills.every} steps are not in it; no writer was asked")
    return found


# ── By arithmetic ──────────────────────────────────────────────────────────────────────────────────────────────────


def show_estimate(found: Estimate, console: Console) -> None:
    ops, config = found.operations, found.config
    many = f", each of {found.processes} processes" if found.processes > 1 else ""
    size, trained = count_words(found.parameters), count_words(found.trained)
    console.print(f"{size} parameters, {trained} trained; {found.device.name}{many}.")
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
    console.print(f"Run: {clock_words(found.run)}, {config.steps:,} steps{evaluated}.", soft_wrap=True)
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
    return ", ".join(f"{name} {clock_words(value)}" for name, value in seconds.items() if value)


def _sizes(sizes: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {size_words(value)}" for name, value in sizes.items() if value)
