"""`sgsd bank build`: a cold start by the config of the run that will train with the bank."""

from __future__ import annotations

from rich.console import Console

from sgsd.cli.options import config_first, take_switch

USAGE = """sgsd bank build CONFIG [--dry-run] [--key.part value …]

Make a bank from the model's own rollouts and write it to the config's bank.path.

The sections model, data, prompts, sampling and verifier say what is rolled out, writer who writes the skills, growth \
how many. Killed anywhere, the same command goes on.

  --dry-run         only say how many calls and tokens that takes at most
  --key.part value  change a key of the config: --skills.rollouts 64"""


def build(args: list[str], console: Console) -> None:
    """Run a cold start, or forecast it."""
    path, rest = config_first(args, "bank build", USAGE, console)
    dry_run = take_switch(rest, "--dry-run")
    from sgsd.cli.overrides import read_config
    from sgsd.train.bank_building import build_from_config  # slow: with torch

    build_from_config(read_config(path, rest, "sgsd bank build CONFIG"), console, dry_run=dry_run)
