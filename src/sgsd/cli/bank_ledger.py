"""A run's ledger as tables, for `sgsd bank why --run` and `sgsd bank stats --run`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sgsd.bank import Bank, ItemRow, Ledger, OutcomeStats
from sgsd.cli.bank_text import counted, headline, plain
from sgsd.types import UserError

BEST = 10  # and as many of the worst


def read_ledger(run: Path) -> Ledger:
    """The ledger that a run has left in its folder. Raises UserError where there is none, or it is damaged."""
    path = run / "ledger.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{run}: holds no ledger.json; give the folder of a run that retrieved from a bank and has ended"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: is not JSON; take the ledger of another run, or let this one end again") from None
    return Ledger.from_json(record, str(path))


def item_in_run(item_id: str, run: Path) -> RenderableType:
    """Show what came of the teachers that showed the item."""
    ledger = read_ledger(run)
    if item_id not in ledger.items:
        return plain(f"{run}: no teacher showed it")
    stats = ledger.items[item_id]
    (row,) = replace(ledger, items={item_id: stats}).rows()
    table = Table("", box=None, pad_edge=False)
    for name in ("validated", "reversed", "neutral", "mean support"):
        table.add_column(name, justify="right")
    table.add_row("on successes", *_outcome_cells(stats.success))
    table.add_row("on failures", *_outcome_cells(stats.failure))
    contrast = (
        "not known: it has not met both successes and failures" if row.contrast is None else f"{row.contrast:+.4f}"
    )
    return Group(
        plain(f"{run}: {counted(row.retrieved, 'teacher')} showed it; supports in nats a token"),
        table,
        plain(f"contrast   {contrast}"),
        plain(f"standing   {row.standing:+.4f}, trust {row.trust:+.2f}"),
    )


def best_and_worst(bank: Bank, run: Path) -> RenderableType:
    """Show the items whose teachers told successes from failures best, and those that did so worst."""
    ledger = read_ledger(run)
    rows = sorted(
        (row for row in ledger.rows() if row.contrast is not None), key=lambda row: (-(row.contrast or 0.0), row.id)
    )
    table = Table(box=None, pad_edge=False)
    for name in ("contrast", "shown", "val/rev/neu"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("item", no_wrap=True)
    table.add_column("what it says")
    heads = {item.id: headline(item) for item in bank.items}
    for row in rows[:BEST]:
        table.add_row(*_cells(row, heads))
    if len(rows) > 2 * BEST:
        table.add_row("…")
    for row in rows[max(BEST, len(rows) - BEST) :]:
        table.add_row(*_cells(row, heads))
    known = f"of {counted(len(ledger.items), 'item')} shown, {len(rows)} met both successes and failures"
    unseen = sum(item.id not in ledger.items for item in bank.items)
    title = f"{run}: {known}; the best and the worst by contrast, in nats a token"
    return Group(plain(title), table, plain(f"{counted(unseen, 'item')} of the bank never shown"))


def _cells(row: ItemRow, heads: dict[str, str]) -> tuple[Text, ...]:
    counts = f"{row.validated}/{row.reversed}/{row.neutral}"
    head = heads.get(row.id, "(not in this bank)")
    cells = (f"{row.contrast:+.4f}", str(row.retrieved), counts, row.id, head)
    return tuple(plain(cell) for cell in cells)


def _outcome_cells(tally: OutcomeStats) -> tuple[str, ...]:
    mean = "–" if tally.mean_support is None else f"{tally.mean_support:+.4f}"
    return str(tally.validated), str(tally.reversed), str(tally.neutral), mean
