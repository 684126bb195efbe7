"""`sgsd probe CONFIG`: can this bank teach this model anything? Asked before any training, answered in minutes."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sgsd.bank import terminal_safe
from sgsd.cli.options import as_whole, config_first, take_word
from sgsd.cli.overrides import read_config
from sgsd.contexts.controls import CONTROLS
from sgsd.distributed.launcher import make_accelerator
from sgsd.evaluation.probe import RULE, STANCES
from sgsd.evaluation.stats import Interval
from sgsd.files import write_atomic
from sgsd.train.engines import close_engine
from sgsd.train.setup import build_run
from sgsd.train.skill_probe import Probe, check_method, run_probe
from sgsd.types import UserError

USAGE = """sgsd probe CONFIG [--rollouts N] [--json PATH] [--key.part value …]

Before any training: sample N rollouts (256 where nothing is said), verify them, score them under the bank's teachers
and under controls, and say whether support tells right from wrong. Nothing is trained, nothing written but PATH."""

ROLLOUTS = 256
SHOWN = 12  # items at each end of the table; the JSON has them all
CONTROL_WORDS = {
    "irrelevant": "off-topic, as long",
    "shuffled": "another problem's",
    "null": "no context",
}


def probe(args: list[str], console: Console) -> None:
    """Measure, show the tables, and close with one sentence."""
    path, rest = config_first(args, "probe", USAGE, console)
    said, target = take_word(rest, "--rollouts", ROLLOUTS), take_word(rest, "--json", "probe.json")
    rollouts = ROLLOUTS if said is None else as_whole("--rollouts", said)
    if target is not None and Path(target).exists():
        raise UserError(f"{target}: the file exists; choose another")
    config = read_config(path, rest, "sgsd probe CONFIG")
    check_method(config.build_method())
    run = build_run(config, make_accelerator())
    with run.verifier, ExitStack() as closing, console.status("Sampling and scoring …") as status:
        closing.callback(close_engine, run.engine)
        found = run_probe(run, rollouts, lambda done: status.update(f"{done} of {rollouts} rollouts scored …"))
    show(found, console)
    if target is not None:
        write_atomic(Path(target), json.dumps(found.to_dict(), indent=1))
        console.print(f"Wrote {target}", markup=False)


def show(found: Probe, console: Console) -> None:
    f = found.findings
    left_out = f", {f.left_out} lack a prompt that fits" if f.left_out else ""
    counted = f"{f.right} right, {f.wrong} wrong, {f.unknown} unknown{left_out}"
    console.print(f"{f.rollouts} rollouts of {f.problems} problems: {counted}.\n")
    if f.separations:
        console.print(separation_table(found))
    console.print(item_table(found))
    console.print(Text(found.verdict.sentence, style="bold"))
    console.print(f"\nThe rule, by the {found.stance} stance: {RULE}.", markup=False)


def separation_table(found: Probe) -> Table:
    """AUC of the bank and of the controls, and the bank's gain over each; the configured stance comes first."""
    table = Table(
        title="AUC: support on right rollouts above that on wrong ones, 95 % intervals",
        title_justify="left",
        box=SIMPLE,
    )
    for heading in ("stance", "teachers", "AUC", "gain of the bank"):
        table.add_column(heading, no_wrap=True)
    f = found.findings
    for stance in sorted(STANCES, key=lambda stance: stance != found.stance):
        table.add_row(stance, "bank as a whole", _interval(f.separations[stance]["bank"].auc), "")
        for control in CONTROLS:
            s = f.separations[stance][control]
            table.add_row("", CONTROL_WORDS[control], _interval(s.auc), _interval(s.gain, "+"))
        s = f.by_item[stance]
        table.add_row("", "bank item by item", _interval(s.auc), _interval(s.gain, "+"), end_section=True)
    return table


def item_table(found: Probe) -> Table:
    """The items of the highest and the lowest standing."""
    rows = found.ledger.rows()
    title = f"{len(rows)} items by standing" + (f", the first and last {SHOWN}" if len(rows) > 2 * SHOWN else "")
    table = Table(title=title, title_justify="left", box=SIMPLE)
    table.add_column("item", no_wrap=True)
    for heading in ("standing", "trust", "shown", "val. / rev. / neutr."):
        table.add_column(heading, justify="right", no_wrap=True)
    for place, row in enumerate(rows):
        if SHOWN <= place < len(rows) - SHOWN:
            continue
        table.add_row(
            Text(terminal_safe(row.id)),
            f"{row.standing:+.4f}",
            f"{row.trust:+.2f}",
            str(row.retrieved),
            f"{row.validated} / {row.reversed} / {row.neutral}",
            end_section=place == SHOWN - 1 and len(rows) > 2 * SHOWN,
        )
    return table


def _interval(found: Interval | None, sign: str = "") -> str:
    assert found is not None, "only the bank as a whole has no gain"
    return f"{found.value:{sign}.2f} ({found.low:{sign}.2f} to {found.high:{sign}.2f})"
