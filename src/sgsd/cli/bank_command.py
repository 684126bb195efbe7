"""`sgsd bank …`: import, validate, show, search and export a skill bank. Each command returns what is to be printed.

Everything taken from a bank is shown as `Text`, which knows no markup, with unprintable characters spelt out: a bank
is somebody else's text and must not colour, move or clear the reader's terminal.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import tyro
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sgsd.bank import (
    BankStore,
    EmbeddingSettings,
    Retrieval,
    is_store,
    item_record,
    make_retriever,
    open_bank,
    retrieve_pairs,
    terminal_safe,
)
from sgsd.cli import bank_history
from sgsd.cli.arguments import (
    STYLE,
    BankPath,
    EventNumberOrNone,
    File,
    ItemOrNone,
    NameOrNone,
    Store,
    Words,
    WordsOrNone,
)
from sgsd.cli.bank_text import headline, plain, summary
from sgsd.types import BankItem, Skill, UserError


def bank(args: list[str], console: Console) -> None:
    """Run one of the commands about banks."""
    if args[:1] == ["build"]:
        from sgsd.cli.bank_build import build

        build(args[1:], console)
        return
    commands: dict[str, Callable[..., Any]] = {
        "import": import_,
        **{command.__name__: command for command in (validate, show, search, export)},
        **{name: getattr(bank_history, name) for name in ("log", "diff", "rollback", "why", "stats", "lint")},
    }
    about = "A skill bank and its history. `sgsd bank build CONFIG` makes one; --help after any of them says more."
    printed = tyro.extras.subcommand_cli_from_dict(
        commands, prog="sgsd bank", description=about, args=args, config=STYLE
    )
    console.print(printed)
    if isinstance(printed, bank_history.Refused):
        raise UserError(printed.complaint)


def import_(source: BankPath, store: Store) -> RenderableType:
    """Make the bank in a store equal to that of a file; the store keeps what it held before as history.

    Args:
        source: A bank: a JSON file or another store.
        store: The store to write, made if it is not there.
    """
    bank = open_bank(source)
    with BankStore(store) as target:
        written = target.import_bank(bank, note=f"import of {terminal_safe(source.name)}"[:200])
        latest = target.event
    kinds = Counter(str(event.change.kind) for event in written)
    done = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "nothing new"
    return plain(f"{store}: {done}; now {summary(bank)}, at event {latest}")


def validate(path: BankPath) -> RenderableType:
    """Check a bank against every rule of the format; the first broken one is named with its item and field.

    Args:
        path: A JSON file or a store.
    """
    return plain(f"{path}: valid; {summary(open_bank(path))}")


def show(path: BankPath, item: ItemOrNone = None, limit: int = 20) -> RenderableType:
    """List the items of a bank, or show one of them in full.

    Args:
        path: A JSON file or a store.
        item: The id of the item to show in full.
        limit: How many skills, and how many mistakes, to list.
    """
    bank = open_bank(path)
    if item is not None:
        return _fields(bank.item(item))
    if limit < 1:
        raise UserError(f"--limit is {limit}; list at least one item")
    table = Table("id", "kind", "what it says", box=None, pad_edge=False)
    shown: tuple[BankItem, ...] = (*bank.skills[:limit], *bank.mistakes[:limit])
    for listed in shown:
        kind = "skill" if isinstance(listed, Skill) else "mistake"
        table.add_row(plain(listed.id), kind, plain(headline(listed)))
    left_out = len(bank) - len(shown)
    more = [plain(f"… and {left_out} more; see them with --limit")] if left_out else []
    return Group(plain(f"{path}: {summary(bank)}"), table, *more)


def search(
    path: BankPath,
    query: Words,
    k: int = 8,
    retriever: Retrieval = "bm25",
    model: NameOrNone = None,
    revision: NameOrNone = None,
    instruction: WordsOrNone = None,
    diversity: float = 0.0,
    seed: int = 0,
) -> RenderableType:
    """Show the pairs of skill and mistake that a problem would be given, with their weights.

    Args:
        path: A JSON file or a store.
        query: The text of a problem.
        k: How many pairs.
        retriever: How to choose them: by words, by meaning, by both, or at random as a control.
        model: The embedding model, for "embedding" and "hybrid": a folder or a hub name.
        revision: Its commit on the hub.
        instruction: Put before the query to the letter; the model's own query prompt where nothing is said.
        diversity: How much unlike one another the items must be, from 0 (not at all) to 1.
        seed: Of the random retriever.
    """
    if model is None and (revision is not None or instruction is not None):
        raise UserError("--revision and --instruction are the embedding model's; name it with --model")
    embedding = None if model is None else EmbeddingSettings(model, revision, instruction)
    chosen = make_retriever(retriever, open_bank(path), seed=seed, diversity=diversity, embedding=embedding)
    pairs = retrieve_pairs(chosen, query, k)
    table = Table("weight", "score", "skill", "mistake", box=None, pad_edge=False)
    for pair in pairs:
        sides = (_one_line(item) if item else Text("–") for item in (pair.skill, pair.mistake))
        table.add_row(f"{pair.weight:.3f}", f"{pair.score:.3f}", *sides)
    return table


def export(store: Store, output: File, event: EventNumberOrNone = None, force: bool = False) -> RenderableType:
    """Write the bank of a store in the published JSON layout.

    Args:
        store: The store to read.
        output: The JSON file to write.
        event: Write the bank as it was after this event; as it is now where nothing is said.
        force: Replace the file if it is there.
    """
    if is_store(output):
        raise UserError(f"{output}: is a store, which an export must not replace; give another path")
    if output.exists() and not force:
        raise UserError(f"{output}: is there already; give another path, or --force to replace it")
    with BankStore(store, read_only=True) as source:
        bank = source.export(output, event)
    return plain(f"{output}: written; {summary(bank)}")


def _one_line(item: BankItem) -> Text:
    return plain(f"{item.id}: {headline(item)}")


def _fields(item: BankItem) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in item_record(item).items():
        table.add_row(plain(name), plain(value if isinstance(value, str) else json.dumps(value, indent=2)))
    return table
