"""The skill bank: a strict file format, a store that keeps its history, retrieval, and the way into a prompt.

`open_bank` reads a bank from a JSON file or a store; a retriever and `pairs_for` choose the pairs for a problem;
`render_pair` turns a pair into prompt text, and nothing else does.
"""

from sgsd.bank.bank_files import dump_bank, load_bank, parse_bank, save_bank
from sgsd.bank.beta import Posterior
from sgsd.bank.branch import branch_store, fork_store
from sgsd.bank.history import Change, Content, Event, Kind, Origin
from sgsd.bank.item_history import Difference, Life, at_event, difference, life_of, rolled_back
from sgsd.bank.item_stats import Account, Tally, TeacherObservation
from sgsd.bank.ledger import Ledger, Row, pair_weights, quarantined, reranked, worth
from sgsd.bank.lint import Finding, Flaw, Severity, lint_bank, lint_item, objection
from sgsd.bank.proposals import (
    DYNAMIC,
    Proposal,
    bank_of_proposals,
    content_id,
    grown,
    is_dynamic,
    joined,
    named_by_content,
    without,
    words_of,
)
from sgsd.bank.render import render_pair
from sgsd.bank.retrieval.base import (
    ComparingRetriever,
    Hit,
    Pairing,
    RandomRetriever,
    Ranker,
    Retriever,
    item_text,
    pairs_for,
    retrieve_pairs,
)
from sgsd.bank.retrieval.bm25 import Bm25Retriever
from sgsd.bank.retrieval.embedding import Embedder, EmbeddingRetriever
from sgsd.bank.retrieval.encoder import EmbeddingSettings, Encoder, SentenceEncoder
from sgsd.bank.retrieval.factory import Retrieval, check_retrieval, make_retriever
from sgsd.bank.retrieval.hybrid import DiverseRetriever, HybridRetriever
from sgsd.bank.retrieval.rerank import LedgerNow, TrustingRetriever, weighed
from sgsd.bank.schema import Bank, bank_record, content_hash, item_record
from sgsd.bank.sqlite import is_store
from sgsd.bank.store import BankStore, Version, open_bank
from sgsd.bank.text import terminal_safe

__all__ = [
    "DYNAMIC",
    "Account",
    "Bank",
    "BankStore",
    "Bm25Retriever",
    "Change",
    "ComparingRetriever",
    "Content",
    "Difference",
    "DiverseRetriever",
    "Embedder",
    "EmbeddingRetriever",
    "EmbeddingSettings",
    "Encoder",
    "Event",
    "Finding",
    "Flaw",
    "Hit",
    "HybridRetriever",
    "Kind",
    "Ledger",
    "LedgerNow",
    "Life",
    "Origin",
    "Pairing",
    "Posterior",
    "Proposal",
    "RandomRetriever",
    "Ranker",
    "Retrieval",
    "Retriever",
    "Row",
    "SentenceEncoder",
    "Severity",
    "Tally",
    "TeacherObservation",
    "TrustingRetriever",
    "Version",
    "at_event",
    "bank_of_proposals",
    "bank_record",
    "branch_store",
    "check_retrieval",
    "content_hash",
    "content_id",
    "difference",
    "dump_bank",
    "fork_store",
    "grown",
    "is_dynamic",
    "is_store",
    "item_record",
    "item_text",
    "joined",
    "life_of",
    "lint_bank",
    "lint_item",
    "load_bank",
    "make_retriever",
    "named_by_content",
    "objection",
    "open_bank",
    "pair_weights",
    "pairs_for",
    "parse_bank",
    "quarantined",
    "render_pair",
    "reranked",
    "retrieve_pairs",
    "rolled_back",
    "save_bank",
    "terminal_safe",
    "weighed",
    "without",
    "words_of",
    "worth",
]
