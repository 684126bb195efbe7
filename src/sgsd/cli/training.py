"""`sgsd train`, `sgsd preview` and `sgsd demo`."""

from __future__ import annotations

import logging
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from sgsd.cli.arguments import Folder, call
from sgsd.cli.options import as_whole, config_first, take_switch, take_word
from sgsd.cli.overrides import read_config
from sgsd.config.loading import make_config, parse_config, read_saved
from sgsd.config.run_config import RunConfig
from sgsd.config.yaml_text import parse_yaml
from sgsd.evaluation.stats import Estimate
from sgsd.records.monitor import GuardStopError
from sgsd.report import write_report
from sgsd.train.result import TrainResult
from sgsd.train.run import run_training
from sgsd.types import UserError

USAGE = """sgsd train CONFIG [--resume] [--print-config] [--dry-run [--sample N]] [--key.part value …]

Train as a YAML file says. Every key of it can be changed on the command line; `sgsd train CONFIG --help` lists them
with the file's own values. A switch takes true or false, or stands alone; `--lora none` takes a section out.
--dry-run loads and checks everything, trains nothing and writes nothing; --sample 16 has it sample as many rollouts and
show what the verifier says of them."""

PREVIEW_USAGE = """sgsd preview CONFIG [--key.part value …]

Show the prompts of the first problem as the model sees them, with their tokens counted: the student's, every teacher's,
and the evaluation's where it shows skills. Keys are changed as for `sgsd train`; no weights are loaded."""

WHAT_HAPPENS = """A Qwen3 of 0.3 M parameters works out small sums, half of them by a faulty procedure.
It now learns from its own answers: a verifier says right or wrong, and the model itself, shown skills and
mistakes from a bank of which only half is helpful, scores every token. No reference answer is shown to it.
"""


def train(args: list[str], console: Console) -> None:
    """Train as a config file says."""
    path, rest = config_first(args, "train", USAGE, console)
    resume, show, dry = (take_switch(rest, flag) for flag in ("--resume", "--print-config", "--dry-run"))
    sample = take_word(rest, "--sample", 16)
    if sample and not dry:
        raise UserError("--sample: goes with --dry-run; a run shows its first step's rollouts by itself")
    config = read_config(path, rest, "sgsd train CONFIG")
    if show:
        console.print(config.to_yaml(), markup=False, soft_wrap=True)
        return
    with notes_shown(console):
        if dry:
            from sgsd.cli.dry_run import dry_run

            dry_run(config, console, resume=resume, sample=as_whole("--sample", sample) if sample else 0)
            return
        try:
            result = run_training(config, console, resume=resume, command=shlex.join(["sgsd", "train", *args]))
        except GuardStopError:
            finish(config.folder, console)  # the report shows what the guard saw
            raise
    show_result(result, console)
    finish(config.folder, console)


@contextmanager
def notes_shown(console: Console) -> Iterator[None]:
    """Show what the library tells its log: notes on the console, warnings on stderr."""

    class Show(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            where = Console(stderr=True) if record.levelno >= logging.WARNING else console
            where.print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)

    log, handler = logging.getLogger("sgsd"), Show(logging.INFO)
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def finish(folder: Path, console: Console) -> None:
    """The last words of a run: where everything is."""
    if PartialState().is_main_process and (folder / "metrics.jsonl").exists():
        console.print(f"Report: {write_report(folder)}", markup=False, soft_wrap=True)


def preview(args: list[str], console: Console) -> None:
    """Show what the model is given, token counts included; a prompt that would not fit is an error here."""
    path, rest = config_first(args, "preview", PREVIEW_USAGE, console)
    from sgsd.data.problems import load_problems
    from sgsd.train.context_resources import make_contexts, make_prompts
    from sgsd.train.models import load_tokenizer
    from sgsd.train.setup import load_bank_for

    config = read_config(path, rest, "sgsd preview CONFIG")
    method = config.build_method()
    tokenizer = load_tokenizer(config.model)
    problems = load_problems(config.data)
    problem, bank = problems[0], load_bank_for(config, method)
    prompts = make_prompts(config, tokenizer)
    thinking = config.prompts.student_thinking
    contexts = make_contexts(config, method, prompts, bank, problems=problems).before_rollouts()
    student = contexts.train_prompts.student(problem, thinking=thinking)
    _show(console, tokenizer, f"student, thinking {_on(thinking)}", student)
    if config.evaluation.skills:
        thinking = config.prompts.evaluation_thinking
        examined = contexts.eval_prompts.student(problem, thinking=thinking)
        _show(console, tokenizer, f"evaluation, thinking {_on(thinking)}", examined)
    (views,) = contexts.teachers.views([problem])
    for number, view in enumerate(views, start=1):
        what = f"weight {view.weight:.3f} ({', '.join(view.item_ids) or view.source})"
        heading = f"teacher {number}, {what}, thinking {_on(config.prompts.teacher_thinking)}"
        _show(console, tokenizer, heading, view.prompt_ids)
    if kinds := method.context.sampled_kinds():
        console.print(Text(f"Made of the rollouts, which there are none of yet: {', '.join(kinds)}"))
    nulls = contexts.null_teachers
    for view in nulls.views([problem])[0] if nulls else ():
        heading = f"null teacher, which the others are compared with, thinking {_on(config.prompts.teacher_thinking)}"
        _show(console, tokenizer, heading, view.prompt_ids)
    console.print(Text(f"Reference answer, which no prompt of the student holds: {problem.gold}"))


def _show(console: Console, tokenizer: Any, heading: str, ids: Sequence[int]) -> None:
    body = Text(tokenizer.decode(list(ids), skip_special_tokens=False))
    console.print(Panel(body, title=Text(f"{heading}, {len(ids)} tokens"), title_align="left"))


def _on(switch: bool) -> str:
    return "on" if switch else "off"


def demo(args: list[str], console: Console) -> None:
    """Train the bundled policy and write its report."""

    def options(seed: int = 0, output: Folder = Path("runs/demo")) -> tuple[int, Path]:
        """Train the bundled tiny model by skill-conditioned gated self-distillation.

        Args:
            seed: Decides every rollout and the order of problems.
            output: The run folder; an earlier demo there is replaced.
        """
        return seed, output

    seed, output = call(options, "sgsd demo", args)
    raw = parse_yaml((files("sgsd.lab") / "demo.yaml").read_text(encoding="utf-8"), "demo.yaml")
    config = make_config({**raw, "seed": seed, "output": str(output)}, "demo.yaml")
    _clear_old_demo(output, config)
    console.print(WHAT_HAPPENS, soft_wrap=True)
    with notes_shown(console):
        result = run_training(config, console, command=f"sgsd demo --seed {seed}")
    show_result(result, console)
    finish(result.folder, console)


def _clear_old_demo(output: Path, config: RunConfig) -> None:
    if output.is_file():
        raise UserError(f"{output}: is a file; choose a folder with --output")
    if not output.exists() or not any(output.iterdir()):
        return
    if not _is_demo(output / "config.yaml", config):
        raise UserError(f"{output}: the folder holds something else than a demo; choose another with --output")
    shutil.rmtree(output)


def _is_demo(saved: Path, config: RunConfig) -> bool:
    """True where the file is the configuration of this demo, with any seed."""
    try:
        found = parse_config(read_saved(saved), str(saved))
    except UserError:
        return False
    return found.model_copy(update={"seed": config.seed}) == config


def show_result(result: TrainResult, console: Console) -> None:
    """Print held-out accuracy before and after training, where a finished run has measured it."""
    before, after = result.before or {}, result.after or {}
    if result.stopped or not after or not PartialState().is_main_process:
        return
    summary = result.summary
    console.print(f"\nOn {summary['problems']} held-out problems, 95 % intervals:", highlight=False)
    for key, found in sorted(after.items()):  # one sample before greedy, as the names have it
        name = "greedy" if key == "greedy" else f"one sample (mean of {key.rpartition('_')[2]})"
        figures = [_words(estimate) for estimate in (before.get(key), found) if estimate is not None]
        console.print(f"  {name:<24}{'  →  '.join(figures if summary['steps'] else figures[-1:])}", highlight=False)
    if summary["steps"]:
        trained = f"{summary['steps']} steps × {summary['rollouts']} rollouts"
        console.print(f"  trained for {summary['train_seconds']:.0f} s, {trained}\n", highlight=False)


def _words(found: Estimate) -> str:
    return f"{found.accuracy:.1%} ({found.low:.1%} to {found.high:.1%})"
