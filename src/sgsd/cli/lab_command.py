"""`sgsd lab …`: the bundled policy, made again and looked at, and methods side by side on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from sgsd.types import UserError


def lab(args: list[str], console: Console) -> None:
    """Pre-train, measure, write the bank; print a method's configuration, or compare methods."""

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
        from sgsd.lab.demo_bank import demo_bank

        if output.exists():
            raise UserError(f"{output}: the file exists; choose another")
        save_bank(demo_bank(seed), output)
        console.print(f"Wrote {output}", markup=False)

    def config(method: str) -> None:
        """Print the configuration by which a method learns on the lab.

        Args:
            method: Its name, for instance dasd.
        """
        _config(method, console)

    def table(
        methods: tuple[str, ...] = (),
        seeds: tuple[int, ...] = (0, 1, 2),
        output: Path = Path("runs/table"),
        workers: int = 2,
    ) -> None:
        """Train methods on the lab, with equal rollouts, and lay their held-out avg@4 side by side.

        A table that was stopped goes on where it was.

        Args:
            methods: Which; none: all that the lab has a configuration for.
            seeds: Each method is trained with each.
            output: Folder of the runs and of table.json.
            workers: Runs at a time, of one thread each.
        """
        _table(methods, seeds, output, workers, console)

    commands: dict[str, Callable[..., Any]] = {
        "pretrain": pretrain,
        "measure": measure,
        "bank": bank,
        "config": config,
        "table": table,
    }
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
    from sgsd.config.sections import ModelConfig
    from sgsd.lab.measure import measure
    from sgsd.train.models import load_model, load_tokenizer

    config = ModelConfig(path=policy, dtype="float32")
    table = Table(title=f"{policy}: accuracy on {problems} held-out problems, 95 % intervals", title_justify="left")
    for heading in ("context", "sampled", "greedy"):
        table.add_column(heading)
    for name, estimates in measure(load_model(config), load_tokenizer(config), problems=problems).items():
        table.add_row(name, *(f"{e.accuracy:.3f} ({e.low:.3f}–{e.high:.3f})" for e in estimates))
    console.print(table)


def _config(method: str, console: Console) -> None:
    import yaml

    from sgsd.lab.method_table import lab_configs

    known = lab_configs()
    if method not in known:
        raise UserError(f"lab config: there is none for {method!r}; there are {', '.join(known)}")
    text = yaml.safe_dump(known[method], sort_keys=False, allow_unicode=True)
    console.print(text, markup=False, highlight=False, soft_wrap=True, end="")


def _table(methods: tuple[str, ...], seeds: tuple[int, ...], output: Path, workers: int, console: Console) -> None:
    import json

    from sgsd.lab.method_table import Cell, cells, lab_configs, rows, run_cells

    wanted = cells(methods or tuple(lab_configs()), seeds, output)

    def tell(cell: Cell, wrong: str) -> None:
        console.print(f"{cell.method}, seed {cell.seed}: {wrong or 'done'}", markup=False, soft_wrap=True)

    run_cells(wanted, workers, tell)
    found = list(rows(wanted))
    shown = Table(title=f"Held-out avg@4 on the lab, seeds {', '.join(map(str, seeds))}", title_justify="left")
    for heading in ("method", "before", "after: mean", "95 % over seeds", "each seed", "greedy", "seconds"):
        shown.add_column(heading)
    for row in found:
        e = row.estimate
        each = " ".join(f"{value:.3f}" for value in row.after)
        interval = f"{e.low:.3f}–{e.high:.3f}" if len(row.after) > 1 else "one seed"
        shown.add_row(
            row.method,
            f"{row.before:.3f}",
            f"{e.accuracy:.3f}",
            interval,
            each,
            f"{row.greedy:.3f}",
            f"{row.seconds:.0f}",
        )
    console.print(shown)
    written = json.dumps([row.to_dict() for row in found], indent=1, allow_nan=False)
    (output / "table.json").write_text(written + "\n", encoding="utf-8")
    if len(found) < len(dict.fromkeys(cell.method for cell in wanted)):
        raise UserError("lab table: not every run has ended; see above, and start the command again to go on")
