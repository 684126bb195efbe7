"""`sgsd probe CONFIG`: can this bank teach this model anything? Asked before any training, answered in minutes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sgsd.bank import terminal_safe
from sgsd.cli.training import read_config
from sgsd.evaluate.stats import Interval
from sgsd.train.probe import Probe, check_method, run_probe
from sgsd.train.records import write_atomic
from sgsd.train.separation import CONTROLS, RULE, STANCES
from sgsd.train.setup import build_parts
from sgsd.types import UserError

USAGE = """sgsd probe CONFIG [--rollouts N] [--json PATH] [--key.part value …]

Before any training: sample N rollouts (256 where nothing is said), verify them, score them under the bank's teachers and
under controls, and say whether support tells right from wrong. Nothing is trained, nothing is written but PATH."""

ROLLOUTS = 256
SHOWN = 12  # items at each end of the table; the JSON has them all
NAMES = {
    "irrelevant": "irrelevant: off-topic pairs of the same length",
    "shuffled": "shuffled: another problem's pairs",
    "null": "null: no context",
}


def probe(args: list[str], console: Console) -> None:
    """Measure, show the tables, and close with one sentence."""
    if not args or args[0] in ("-h", "--help"):
        console.print(USAGE, markup=False)
        return
    if args[0].startswith("-"):
        raise UserError(f"the config file comes before {args[0]}: sgsd probe CONFIG {args[0]} …")
    rest = list(args[1:])
    rollouts, target = _count(_take_value(rest, "--rollouts")), _take_value(rest, "--json")
    if target is not None and Path(target).exists():
        raise UserError(f"{target}: the file exists; choose another")
    config = read_config(Path(args[0]), rest, "sgsd probe CONFIG")
    check_method(config.build_method())
    parts = build_parts(config, Accelerator(cpu=torch.backends.mps.is_available()))
    with parts.verifier, console.status("Sampling and scoring …") as status:
        found = run_probe(parts, rollouts, lambda done: status.update(f"{done} of {rollouts} rollouts scored …"))
    show(found, console)
    if target is not None:
        write_atomic(Path(target), json.dumps(found.to_dict(), indent=1))
        console.print(f"Wrote {target}", markup=False)


def show(found: Probe, console: Console) -> None:
    f = found.findings
    left_out = f", {f.left_out} lack a prompt that fits" if f.left_out else ""
    console.print(
        f"{f.rollouts} rollouts: {f.right} right, {f.wrong} wrong, {f.unknown} unknown{left_out}; {f.problems} problems."
    )
    if f.separations:
        console.print(separation_table(found))
    console.print(item_table(found))
    console.print(Text(found.verdict.sentence, style="bold"))
    console.print(f"The rule: {RULE}. Stance: {found.stance}.", style="dim", markup=False)


def separation_table(found: Probe) -> Table:
    """AUC by stance, of the bank and of the controls; and the bank's gain over each control."""
    table = Table(title="AUC: support on right over wrong rollouts, 95 % intervals", title_justify="left")
    table.add_column("")
    for stance in STANCES:
        table.add_column(stance + (" (configured)" if stance == found.stance else ""))
    f = found.findings
    table.add_row("the bank as a whole", *(_interval(f.separations[s]["bank"].auc) for s in STANCES))
    for control in CONTROLS:
        table.add_row(NAMES[control], *(_interval(f.separations[s][control].auc) for s in STANCES))
    table.add_row("the bank item by item", *(_interval(f.by_item[s].auc) for s in STANCES), end_section=True)
    for control in CONTROLS:
        table.add_row(f"bank − {control}", *(_interval(f.separations[s][control].gain, "+") for s in STANCES))
    table.add_row("item by item, bank − irrelevant", *(_interval(f.by_item[s].gain, "+") for s in STANCES))
    return table


def item_table(found: Probe) -> Table:
    """The items with the best and the worst evidence."""
    rows = found.ledger.rows()
    title = f"{len(rows)} items by evidence" + (f", the first and last {SHOWN}" if len(rows) > 2 * SHOWN else "")
    table = Table(title=title, title_justify="left")
    for heading in ("item", "evidence", "shown", "validated", "reversed", "neutral", "validated, both outcomes alike"):
        table.add_column(heading, justify="left" if heading == "item" else "right")
    for place, row in enumerate(rows):
        if SHOWN <= place < len(rows) - SHOWN:
            continue
        p = found.ledger.balanced_posterior(row.ids[0])
        counts = (row.retrieved, row.validated, row.reversed, row.neutral)
        table.add_row(
            Text(terminal_safe(row.ids[0])),
            f"{row.evidence:+.4f}",
            *map(str, counts),
            f"{p.mean:.2f} ({p.low:.2f}–{p.high:.2f})",
            end_section=place == SHOWN - 1 and len(rows) > 2 * SHOWN,
        )
    return table


def _interval(found: Interval | None, sign: str = "") -> str:
    assert found is not None, "every control has a gain"
    return f"{found.value:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"


def _take_value(rest: list[str], flag: str) -> str | None:
    """The word behind a flag of this command's own; the others belong to the config."""
    if flag not in rest:
        return None
    place = rest.index(flag)
    if place + 1 == len(rest) or rest[place + 1].startswith("--"):
        raise UserError(f"{flag}: say what, for instance {flag} {ROLLOUTS if flag == '--rollouts' else 'probe.json'}")
    value = rest[place + 1]
    del rest[place : place + 2]
    return value


def _count(word: str | None) -> int:
    if word is None:
        return ROLLOUTS
    if not word.isdecimal() or int(word) < 1:
        raise UserError(f"--rollouts: {word!r} is not a whole number from 1 on")
    return int(word)
