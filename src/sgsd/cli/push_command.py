"""`sgsd report`, `sgsd push` and `sgsd track`: show a run's results to oneself and others."""

from __future__ import annotations

from typing import Literal

import tyro
from rich.console import Console
from rich.text import Text

from sgsd.bank import terminal_safe
from sgsd.cli.arguments import FileOrNone, Name, NameOrNone, Run, call
from sgsd.config.sections import TrackConfig
from sgsd.hub.export import Bundle, gather, upload
from sgsd.records.tracking import export
from sgsd.report import write_report

BANK_WARNING = "bank.json may hold text made from the training data; --no-bank leaves it out."


def report(args: list[str], console: Console) -> None:
    """Write the page of a run."""

    def options(run: Run, output: FileOrNone = None) -> None:
        """Write one offline HTML page about a run.

        Args:
            run: The run's folder.
            output: The page; RUN/report.html where nothing is said.
        """
        console.print(f"Wrote {write_report(run, output)}", markup=False)

    call(options, "sgsd report", args)


def push(args: list[str], console: Console) -> None:
    """Upload a finished run's adapter or model, card, bank and configuration to the hub."""

    def options(
        run: Run,
        repo_id: Name,
        private: bool = False,
        revision: NameOrNone = None,
        dry_run: bool = False,
        bank: bool = True,
    ) -> None:
        """Upload a finished run to the hub, as whoever is logged in there (hf auth login).

        Args:
            run: The run's folder.
            repo_id: The model repository, owner/name; made if it is not there.
            private: Make the repository private, and refuse a public one.
            revision: Branch to upload to, made if it is not there.
            dry_run: Upload nothing; show the files and the card.
            bank: Upload the skill bank as well.
        """
        bundle = gather(run, repo_id, with_bank=bank)
        _show(console, bundle)
        if dry_run:
            console.print(Text(terminal_safe(bundle.text("README.md"))), soft_wrap=True)
            return
        address = upload(bundle.files, repo_id, private=private, revision=revision)
        console.print(f"Uploaded: {address}", markup=False, soft_wrap=True)

    call(options, "sgsd push", args)


def track(args: list[str], console: Console) -> None:
    """Send a run's numbers to a tracker after the fact."""

    def options(
        run: tyro.conf.Positional[Run],
        to: Literal["trackio", "wandb", "tensorboard", "mlflow"],
        project: Name = "sgsd",
    ) -> None:
        """Send every number of a run's files to a new run of a tracker.

        Args:
            run: The run's folder.
            to: The tracker.
            project: The project there.
        """
        name = export(run, TrackConfig(to=to, project=project))
        console.print(f"{to}: {name} in project {project}", markup=False, soft_wrap=True)

    tyro.cli(options, prog="sgsd track", args=args)


def _show(console: Console, bundle: Bundle) -> None:
    for file in bundle.files:
        console.print(f"{file.sha256}  {file.size:>13,} bytes  {file.name}", markup=False, soft_wrap=True)
    if bundle.left_out:
        console.print(Text(terminal_safe(f"Stays here: {', '.join(bundle.left_out)}")), soft_wrap=True)
    if any(file.name == "bank.json" for file in bundle.files):
        console.print(f"Warning: {BANK_WARNING}", soft_wrap=True)
