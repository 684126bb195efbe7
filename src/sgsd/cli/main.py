"""The command line: thin. It reads arguments, calls a room, prints one line for a mistake and leaves with code 2."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from sgsd.types import RunFailure, UserError

COMMANDS = {
    "demo": "train the bundled tiny model and write a report, in under a minute",
    "train": "train as a config file says: sgsd train CONFIG [--resume] [--key.part value …]",
    "preview": "show the student's and the teachers' prompts as the model sees them",
    "probe": "before any training: can this bank teach this model? sgsd probe CONFIG [--rollouts N]",
    "plan": "time, memory and disk of a run before it: sgsd plan CONFIG [--steps N | --memory GB]",
    "migrate": "rewrite a config file of an older version with today's keys: sgsd migrate CONFIG [--write]",
    "report": "write one offline HTML page about a run folder",
    "track": "send a run's numbers to a tracker: sgsd track RUN --to wandb",
    "push": "upload a finished run to the hub: sgsd push RUN OWNER/NAME [--private] [--dry-run]",
    "bank": "build, import, validate, show, search, export, log, diff, rollback, why, stats, lint",
    "lab": "the bundled policy: pretrain, measure, bank; methods on it: config, table",
    "doctor": "what this machine has, and what is missing",
}
HOMES = {
    "demo": "training:demo",
    "train": "training:train",
    "preview": "training:preview",
    "probe": "probe_command:probe",
    "plan": "plan_command:plan",
    "migrate": "migrate_command:migrate",
    "track": "push_command:track",
    "push": "push_command:push",
    "lab": "lab_command:lab",
    "doctor": "doctor:doctor",
}
USER_ERROR, RUN_FAILED = 2, 1


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `sgsd`."""
    code = run(sys.argv[1:] if argv is None else list(argv))
    if code == 0 and "sgsd.distributed.launcher" in sys.modules:  # only what has loaded it can have joined others
        from sgsd.distributed.launcher import leave

        leave()
    sys.exit(code)


def run(argv: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    quiet_libraries()
    console = Console(highlight=False)
    if not argv or argv[0] in ("-h", "--help", "help"):
        console.print(_overview())
        return 0
    if argv[0] == "--version":
        console.print(version("sgsd"))
        return 0
    try:
        _command(argv[0])(list(argv[1:]), console)
    except UserError as error:
        _complain(str(error))
        return USER_ERROR
    except KeyboardInterrupt:
        _complain("interrupted; what was saved is on disk")
        return 130
    except RunFailure as error:
        _complain(str(error))
        return RUN_FAILED
    return 0


def _command(name: str) -> Callable[[list[str], Console], None]:
    """The function behind a command; only its own module is imported, so that `sgsd bank` does not wait for torch."""
    if name not in COMMANDS:
        from sgsd.methods.registry import nearest

        raise UserError(f"sgsd: there is no command {name!r}; {nearest(name, list(COMMANDS))}")
    if name in ("report", "bank"):
        return {"report": _report, "bank": _bank}[name]
    module, _, function = HOMES[name].partition(":")
    found: Callable[[list[str], Console], None] = getattr(import_module(f"sgsd.cli.{module}"), function)
    return found


def _bank(args: list[str], console: Console) -> None:
    import tyro

    from sgsd.cli import bank_command, bank_history

    if args[:1] == ["build"]:
        from sgsd.cli.bank_build import build

        build(args[1:], console)
        return
    commands: dict[str, Callable[..., Any]] = {
        "import": bank_command.import_,
        "validate": bank_command.validate,
        "show": bank_command.show,
        "search": bank_command.search,
        "export": bank_command.export,
        "log": bank_history.log,
        "diff": bank_history.diff,
        "rollback": bank_history.rollback,
        "why": bank_history.why,
        "stats": bank_history.stats,
        "lint": bank_history.lint,
    }
    markers = (tyro.conf.PositionalRequiredArgs,)
    about = "A skill bank and its history. `sgsd bank build CONFIG` makes one; --help after any of them says more."
    parsed = tyro.extras.subcommand_cli_from_dict(
        commands, prog="sgsd bank", description=about, args=args, config=markers
    )
    console.print(parsed)
    if isinstance(parsed, bank_history.Refused):
        raise UserError(parsed.complaint)


def _report(args: list[str], console: Console) -> None:
    import tyro

    from sgsd.report import write_report

    def report(run: Path, output: Path | None = None) -> Path:
        """Write one offline HTML page about a run.

        Args:
            run: The run's folder.
            output: The page; RUN/report.html where nothing is said.
        """
        return write_report(run, output)

    path = tyro.cli(report, prog="sgsd report", args=args, config=(tyro.conf.PositionalRequiredArgs,))
    console.print(f"Wrote {path}", markup=False)


def quiet_libraries() -> None:
    """Progress bars and chatter of the libraries below us would drown the one view that matters."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)


def _complain(message: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]error[/] {escape(message)}")


def _overview() -> str:
    lines = [f"  [bold]{name:<9}[/]{escape(text)}" for name, text in COMMANDS.items()]
    return "\n".join(["Skill-conditioned gated self-distillation.", "", *lines, "", "sgsd COMMAND --help says more."])
