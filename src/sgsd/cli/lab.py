"""`sgsd lab …`: the bundled policy, made again and looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from sgsd.types import UserError


def lab(args: list[str], console: Console) -> None:
    """Pre-train, measure, or write the bank."""

    def pretrain(output: Path, seed: int = 0, steps: int | None = None, threads: int = 2) -> None:
        """Make the bundled policy again by its recipe and print the hash of its weights.

        Args:
            output: A new folder for the policy.
            seed: The recipe's seed; 0 made the bundled one.
            steps: Fewer or more steps than the recipe's.
            threads: CPU threads; results are equal to the bit at one count on one machine.
        """
        _pretrain(output, seed, steps, threads, console)

    def measure(policy: str = "lab", problems: int = 512) -> None:
        """Sampled and greedy accuracy on held-out problems under each kind of context.

        Args:
            policy: A policy's folder, or lab for the bundled one.
            problems: How many held-out problems.
        """
        _measure(policy, problems, console)

    def bank(output: Path, seed: int = 0) -> None:
        """Write the demo's skill bank as JSON.

        Args:
            output: A new file.
            seed: Decides the phrasings and the order of the items.
        """
        from sgsd.bank import save_bank
        from sgsd.lab.bank import demo_bank

        if output.exists():
            raise UserError(f"{output}: the file exists; choose another")
        save_bank(demo_bank(seed), output)
        console.print(f"Wrote {output}", markup=False)

    commands: dict[str, Callable[..., Any]] = {"pretrain": pretrain, "measure": measure, "bank": bank}
    markers = (tyro.conf.PositionalRequiredArgs,)
    tyro.extras.subcommand_cli_from_dict(commands, prog="sgsd lab", args=args, config=markers)


def _pretrain(output: Path, seed: int, steps: int | None, threads: int, console: Console) -> None:
    from dataclasses import replace

    from sgsd.lab.pretrain import Recipe, pretrain, save_policy

    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output}: the folder is not empty; choose another")
    recipe = replace(Recipe(), seed=seed, threads=threads)
    if steps is not None:
        recipe = replace(recipe, steps=steps)

    def report(step: int, loss: float) -> None:
        if step % max(1, recipe.steps // 20) == 0:
            console.print(f"  step {step:>5}/{recipe.steps}  loss {loss:.4f}")

    model, tokenizer = pretrain(recipe, report)
    digest = save_policy(model, tokenizer, recipe, output)
    console.print(f"Wrote {output}; sha256 of the weights {digest}", markup=False)


def _measure(policy: str, problems: int, console: Console) -> None:
    from sgsd.lab.measure import measure
    from sgsd.train.models import load_model, load_tokenizer
    from sgsd.train.sections import ModelConfig

    config = ModelConfig(path=policy, dtype="float32")
    table = Table(title=f"{policy}: accuracy on {problems} held-out problems, 95 % intervals", title_justify="left")
    for heading in ("context", "sampled", "greedy"):
        table.add_column(heading)
    for name, estimates in measure(load_model(config), load_tokenizer(config), problems=problems).items():
        table.add_row(name, *(f"{e.accuracy:.3f} ({e.low:.3f}–{e.high:.3f})" for e in estimates))
    console.print(table)
