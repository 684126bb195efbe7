"""`sgsd lab …`: makes and measures the bundled policy, and compares methods on it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
import yaml
from rich.console import Console
from rich.table import Table

from sgsd.cli.arguments import STYLE, CountOrNone, File, Folder, Name
from sgsd.files import write_atomic
from sgsd.types import UserError

COMMANDS = ("pretrain", "measure", "bank", "config", "table")


def lab(args: list[str], console: Console) -> None:
    """Pre-train, measure, write the bank; print a method's configuration, or compare methods."""
    lab = LabCommands(console)
    tyro.extras.subcommand_cli_from_dict(
        {name: getattr(lab, name) for name in COMMANDS},
        prog="sgsd lab",
        args=args,
        config=STYLE,
    )


@dataclass(frozen=True)
class LabCommands:
    """One method for each command; what they need of torch is imported where it is needed."""

    console: Console

    def pretrain(self, output: Folder, seed: int = 0, steps: CountOrNone = None, threads: int = 2) -> None:
        """Make the bundled policy again by its recipe and print the hash of its weights.

        Args:
            output: A new folder for the policy.
            seed: The recipe's seed; 0 made the bundled one.
            steps: Fewer or more steps than the recipe's.
            threads: CPU threads; results are equal to the bit at one count on one machine.
        """
        from sgsd.lab.pretrain import Recipe, pretrain, save_policy

        if output.exists() and any(output.iterdir()):
            raise UserError(f"{output}: the folder is not empty; choose another")
        recipe = Recipe(seed=seed, threads=threads)
        if steps is not None:
            recipe = replace(recipe, steps=steps)

        def report(step: int, loss: float) -> None:
            if step % max(1, recipe.steps // 20) == 0:
                self.console.print(f"  step {step:>5}/{recipe.steps}  loss {loss:.4f}")

        model, tokenizer = pretrain(recipe, report)
        digest = save_policy(model, tokenizer, recipe, output)
        self.console.print(f"Wrote {output}; sha256 of the weights {digest}", markup=False)

    def measure(self, policy: Name = "lab", problems: int = 512) -> None:
        """Measure sampled and greedy accuracy on held-out problems under each kind of context.

        Args:
            policy: A policy's folder, or lab for the bundled one.
            problems: How many held-out problems.
        """
        from sgsd.config.sections import ModelConfig
        from sgsd.lab.measure import measure
        from sgsd.train.models import load_model, load_tokenizer

        config = ModelConfig(path=policy, dtype="float32")
        title = f"{policy}: accuracy on {problems} held-out problems, 95 % intervals"
        table = Table("context", "sampled", "greedy", title=title, title_justify="left")
        for name, estimates in measure(load_model(config), load_tokenizer(config), problems=problems).items():
            table.add_row(name, *(f"{e.accuracy:.3f} ({e.low:.3f}–{e.high:.3f})" for e in estimates))
        self.console.print(table)

    def bank(self, output: File, seed: int = 0) -> None:
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
        self.console.print(f"Wrote {output}", markup=False)

    def config(self, method: Name) -> None:
        """Print the configuration by which a method learns on the lab.

        Args:
            method: Its name, for instance dasd.
        """
        from sgsd.lab.method_table import lab_configs

        known = lab_configs()
        if method not in known:
            raise UserError(f"lab config: there is none for {method!r}; there are {', '.join(known)}")
        text = yaml.safe_dump(known[method], sort_keys=False, allow_unicode=True)
        self.console.print(text, markup=False, highlight=False, soft_wrap=True, end="")

    def table(
        self,
        methods: tuple[str, ...] = (),
        seeds: tuple[int, ...] = (0, 1, 2),
        output: Folder = Path("runs/table"),
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
        from sgsd.lab.method_table import Cell, cells, lab_configs, rows, run_cells

        wanted = cells(methods or tuple(lab_configs()), seeds, output)

        def report(cell: Cell, error: str) -> None:
            self.console.print(f"{cell.method}, seed {cell.seed}: {error or 'done'}", markup=False, soft_wrap=True)

        run_cells(wanted, workers, report)
        found = list(rows(wanted))
        headings = ("method", "before", "after: mean", "95 % over seeds", "each seed", "greedy", "seconds")
        title = f"Held-out avg@4 on the lab, seeds {', '.join(map(str, seeds))}"
        shown = Table(*headings, title=title, title_justify="left")
        for row in found:
            shown.add_row(*row.cells())
        self.console.print(shown)
        text = json.dumps([row.to_dict() for row in found], indent=1, allow_nan=False)
        write_atomic(output / "table.json", text + "\n")
        if len(found) < len(dict.fromkeys(cell.method for cell in wanted)):
            raise UserError("lab table: not every run has ended; see above, and start the command again to go on")
