"""The skill bank: a strict file format, a store that keeps its history, retrieval, and the ledger of its items.

`open_bank` reads a bank from a JSON file or a store, and `Bank.search` finds the pairs for a problem.
"""

from sgsd.bank.bank_files import dump_bank, load_bank, parse_bank, save_bank
from sgsd.bank.branch import branch_store, rewind_store
from sgsd.bank.history import Change, Content, Event, Kind, Origin
from sgsd.bank.item_lineage import BankDiff, ItemHistory, diff_banks, item_history, parse_bank_reference, roll_back
from sgsd.bank.item_stats import ItemStats, OutcomeStats, TeacherObservation
from sgsd.bank.ledger import ItemRow, Ledger
from sgsd.bank.lint import Finding, Flaw, Severity, lint_bank, lint_item, refusal_reason
from sgsd.bank.proposals import (
    DYNAMIC,
    Proposal,
    add_items,
    bank_of_proposals,
    content_id,
    is_dynamic,
    join_duplicates,
    remove_items,
    with_content_id,
)
from sgsd.bank.render import render_pair
from sgsd.bank.retrieval.base import Hit, Ranker, Retriever, item_text
from sgsd.bank.retrieval.bm25 import Bm25Retriever
from sgsd.bank.retrieval.embedding import Embedder, EmbeddingRetriever
from sgsd.bank.retrieval.encoder import EmbeddingSettings, SentenceEncoder
from sgsd.bank.retrieval.factory import Retrieval, check_retrieval, make_retriever
from sgsd.bank.retrieval.hybrid import DiverseRetriever, HybridRetriever
from sgsd.bank.retrieval.pairing import Pairing, pairs_for, retrieve_pairs
from sgsd.bank.retrieval.random_order import RandomRetriever
from sgsd.bank.retrieval.rerank import CurrentLedger, RerankedRetriever, pair_weights, rerank, reweigh
from sgsd.bank.schema import content_hash, item_record, item_texts
from sgsd.bank.skill_bank import Bank
from sgsd.bank.sqlite import is_store
from sgsd.bank.store import BankStore, Version, open_bank
from sgsd.bank.text import terminal_safe

__all__ = [
    "DYNAMIC",
    "Bank",
    "BankDiff",
    "BankStore",
    "Bm25Retriever",
    "Change",
    "Content",
    "CurrentLedger",
    "DiverseRetriever",
    "Embedder",
    "EmbeddingRetriever",
    "EmbeddingSettings",
    "Event",
    "Finding",
    "Flaw",
    "Hit",
    "HybridRetriever",
    "ItemHistory",
    "ItemRow",
    "ItemStats",
    "Kind",
    "Ledger",
    "Origin",
    "OutcomeStats",
    "Pairing",
    "Proposal",
    "RandomRetriever",
    "Ranker",
    "RerankedRetriever",
    "Retrieval",
    "Retriever",
    "SentenceEncoder",
    "Severity",
    "TeacherObservation",
    "Version",
    "add_items",
    "bank_of_proposals",
    "branch_store",
    "check_retrieval",
    "content_hash",
    "content_id",
    "diff_banks",
    "dump_bank",
    "is_dynamic",
    "is_store",
    "item_history",
    "item_record",
    "item_text",
    "item_texts",
    "join_duplicates",
    "lint_bank",
    "lint_item",
    "load_bank",
    "make_retriever",
    "open_bank",
    "pair_weights",
    "pairs_for",
    "parse_bank",
    "parse_bank_reference",
    "refusal_reason",
    "remove_items",
    "render_pair",
    "rerank",
    "retrieve_pairs",
    "reweigh",
    "rewind_store",
    "roll_back",
    "save_bank",
    "terminal_safe",
    "with_content_id",
]
