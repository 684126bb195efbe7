"""The skill bank: a strict file format, a store that keeps its history, retrieval, and the way into a prompt.

`open_bank` reads a bank from a JSON file or a store; a retriever and `pairs_for` choose the pairs for a problem;
`render_pair` turns a pair into prompt text, and nothing else does.
"""

from sgsd.bank.files import dump_bank, load_bank, parse_bank, save_bank
from sgsd.bank.history import Change, Content, Event, Kind
from sgsd.bank.render import render_pair
from sgsd.bank.retrieve import (
    Bm25Retriever,
    Hit,
    RandomRetriever,
    Ranker,
    Retriever,
    item_text,
    pairs_for,
    retrieve_pairs,
)
from sgsd.bank.schema import Bank, bank_record, content_hash, item_record
from sgsd.bank.sqlite import is_store
from sgsd.bank.store import BankStore, Version, open_bank
from sgsd.bank.text import terminal_safe

__all__ = [
    "Bank",
    "BankStore",
    "Bm25Retriever",
    "Change",
    "Content",
    "Event",
    "Hit",
    "Kind",
    "RandomRetriever",
    "Ranker",
    "Retriever",
    "Version",
    "bank_record",
    "content_hash",
    "dump_bank",
    "is_store",
    "item_record",
    "item_text",
    "load_bank",
    "open_bank",
    "pairs_for",
    "parse_bank",
    "render_pair",
    "retrieve_pairs",
    "save_bank",
    "terminal_safe",
]
