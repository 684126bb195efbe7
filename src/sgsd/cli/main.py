"""The command line: thin. It reads arguments, calls a room, prints one line for a mistake and leaves with code 2."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version

from rich.console import Console
from rich.markup import escape

from sgsd.lookup import nearest
from sgsd.types import RunFailure, UserError

#: The function behind each command, in a module of this room, and what it is for.
COMMANDS = {
    "demo": ("training:demo", "train the bundled tiny model and write a report, in under a minute"),
    "init": ("init_command:init", "begin with your own problems, verifier and bank: sgsd init FOLDER"),
    "configs": ("init_command:configs", "the published configurations: list them, or write one here"),
    "train": ("training:train", "train as a config file says: sgsd train CONFIG [--resume] [--key.part value …]"),
    "preview": ("training:preview", "show the student's and the teachers' prompts as the model sees them"),
    "probe": ("probe_command:probe", "before any training: can this bank teach this model? sgsd probe CONFIG"),
    "plan": ("plan_command:plan", "time, memory and disk of a run before it: sgsd plan CONFIG"),
    "migrate": ("migrate_command:migrate", "rewrite a config file of an older version with today's keys"),
    "report": ("push_command:report", "write one offline HTML page about a run folder"),
    "track": ("push_command:track", "send a run's numbers to a tracker: sgsd track RUN --to wandb"),
    "push": ("push_command:push", "upload a finished run to the hub: sgsd push RUN OWNER/NAME"),
    "bank": ("bank_command:bank", "build, import, validate, show, search, export, log, diff, rollback, why, …"),
    "lab": ("lab_command:lab", "the bundled policy: pretrain, measure, bank; methods on it: config, table"),
    "doctor": ("doctor:doctor", "what this machine has, and what is missing"),
}
USER_ERROR, RUN_FAILED, OUTPUT_CLOSED = 2, 1, 141  # the last as of a program that SIGPIPE ended


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
    except BrokenPipeError:  # whoever read the output, `head` for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at the end is quiet too
        return OUTPUT_CLOSED
    return 0


def _command(name: str) -> Callable[[list[str], Console], None]:
    """The function behind a command; only its own module is imported, so that `sgsd bank` does not wait for torch."""
    if name not in COMMANDS:
        raise UserError(f"sgsd: there is no command {name!r}; {nearest(name, list(COMMANDS))}")
    module, _, function = COMMANDS[name][0].partition(":")
    found: Callable[[list[str], Console], None] = getattr(import_module(f"sgsd.cli.{module}"), function)
    return found


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
    lines = [f"  [bold]{name:<9}[/]{escape(text)}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["Skill-conditioned gated self-distillation.", "", *lines, "", "sgsd COMMAND --help says more."])
