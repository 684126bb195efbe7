"""Rollouts: each from its own seed, stopped at end tokens, drawn from the distribution that was asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from sgsd.contexts.prompts import encode_chat, load_prompts
from sgsd.rollout import Sampling, ScriptedEngine, TransformersEngine
from sgsd.rollout.engine import completion, uniforms
from sgsd.rollout.transformers_engine import SeededSampler
from sgsd.scorer import Row, Scorer, collate

PROBLEMS = ["Bracket: 35-(8-4)", "Sum with a product: 3+8*6", "Square: 8^2+32", "Addition: 38+35"]


@pytest.fixture
def engine(lab_model: Any, lab_tokenizer: Any) -> TransformersEngine:
    return TransformersEngine(lab_model, lab_tokenizer)


@pytest.fixture
def prompts(lab_tokenizer: Any) -> list[tuple[int, ...]]:
    wording = load_prompts("lab")
    return [encode_chat(lab_tokenizer, wording.student(text), thinking=False) for text in PROBLEMS]


def test_a_rollout_depends_on_its_seed_and_index_not_on_its_batch(
    engine: TransformersEngine, prompts: list[tuple[int, ...]]
) -> None:
    sampling = Sampling(max_tokens=64)
    together = engine.sample(prompts * 4, range(16), sampling, seed=7)
    for i in (0, 5, 15):
        assert engine.sample([prompts[i % 4]], [i], sampling, seed=7)[0].token_ids == together[i].token_ids
    engine.token_budget = 1  # one row a batch
    assert [c.token_ids for c in engine.sample(prompts, range(4), sampling, seed=7)] == [
        c.token_ids for c in together[:4]
    ]
    other = engine.sample(prompts * 4, range(16), sampling, seed=8)
    assert [c.token_ids for c in other] != [c.token_ids for c in together]


def test_it_stops_at_the_end_token_and_says_when_it_did_not(
    engine: TransformersEngine, prompts: list[tuple[int, ...]]
) -> None:
    done = engine.sample(prompts, range(4), Sampling(temperature=0, max_tokens=64), seed=0)
    for c in done:
        assert c.finish == "stop"
        assert c.token_ids[-1] in engine.end_ids
        assert not set(c.token_ids[:-1]) & engine.end_ids
        assert "boxed" in c.text
        assert "<|im_end|>" not in c.text
    cut = engine.sample(prompts, range(4), Sampling(temperature=0, max_tokens=3), seed=0)
    assert [(c.finish, len(c.token_ids)) for c in cut] == [("length", 3)] * 4
    assert [c.token_ids for c in cut] == [c.token_ids[:3] for c in done]


def test_the_sampler_s_log_probs_are_the_scorer_s(
    engine: TransformersEngine, lab_model: Any, prompts: list[tuple[int, ...]]
) -> None:
    done = engine.sample(prompts, range(4), Sampling(temperature=1.3, top_k=5, max_tokens=64), seed=1)
    pack = collate([Row(p, c.token_ids) for p, c in zip(prompts, done)])
    scored = Scorer(lab_model)(pack).logps_N.detach()
    sampled = torch.tensor([logp for c in done for logp in c.logps])
    assert (scored - sampled).abs().max() < 1e-4


def draws(sampling: Sampling, logits: torch.Tensor, n: int, prompt: torch.Tensor | None = None) -> torch.Tensor:
    """How often each token is drawn as the first one, over n rows of evenly spread random numbers."""
    numbers = ((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None]
    prompt = torch.zeros(1, 1, dtype=torch.long) if prompt is None else prompt
    ids = prompt.expand(n, -1)
    sampler = SeededSampler(sampling, numbers, torch.ones_like(ids, dtype=torch.bool))
    out = sampler(ids, logits.expand(n, -1).clone())
    assert (out > -torch.inf).sum(-1).eq(1).all()
    return torch.bincount(out.argmax(-1), minlength=logits.shape[-1]) / n


@pytest.mark.parametrize(
    ("sampling", "filters"),
    [
        (Sampling(), []),
        (Sampling(temperature=1.7), [TemperatureLogitsWarper(1.7)]),
        (Sampling(top_k=3), [TopKLogitsWarper(3)]),
        (Sampling(temperature=0.7, top_p=0.8), [TemperatureLogitsWarper(0.7), TopPLogitsWarper(0.8)]),
    ],
)
def test_tokens_are_drawn_from_the_filtered_distribution(sampling: Sampling, filters: list[Any]) -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, 1.0, -3.0, 0.0]])
    expected = LogitsProcessorList(filters)(torch.zeros(1, 1, dtype=torch.long), logits.clone()).softmax(-1)[0]
    assert (draws(sampling, logits, 4000) - expected).abs().max() <= 1 / 4000 + 1e-6


def test_min_p_drops_unlikely_tokens() -> None:
    found = draws(Sampling(min_p=0.5), torch.tensor([[2.0, 1.9, 0.0, -2.0]]), 1000)
    assert found[2:].sum() == 0
    assert (found[:2] > 0.4).all()


def test_penalties_are_on_what_was_written_and_never_on_padding() -> None:
    logits = torch.tensor([[1.0, 1.0, -1.0]])
    ids = torch.tensor([[0, 0, 1]])  # a pad (0), a prompt token (0 again, real), a written token (1)
    mask = torch.tensor([[False, False]])  # two columns of prompt, both padding here
    sampler = SeededSampler(Sampling(repetition_penalty=2.0, presence_penalty=0.25), torch.ones(1, 4), mask)
    assert sampler._penalise(ids, logits).tolist() == [[1.0, 0.25, -1.0]]
    seen = SeededSampler(Sampling(repetition_penalty=2.0), torch.ones(1, 4), torch.tensor([[True, True]]))
    assert seen._penalise(ids, logits).tolist() == [[0.5, 0.5, -1.0]]


def test_the_model_s_own_sampling_defaults_do_not_leak_in(
    engine: TransformersEngine, prompts: list[tuple[int, ...]]
) -> None:
    sampling = Sampling(max_tokens=64)
    clean = [c.token_ids for c in engine.sample(prompts, range(4), sampling, seed=3)]
    config = engine.model.generation_config
    config.repetition_penalty, config.temperature, config.top_k, config.do_sample = 5.0, 0.01, 1, True
    config.no_repeat_ngram_size, config.min_new_tokens = 1, 60
    assert [c.token_ids for c in engine.sample(prompts, range(4), sampling, seed=3)] == clean


@pytest.mark.parametrize(
    "bad", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"min_p": 2.0}, {"max_tokens": 0}]
)
def test_sampling_options_are_checked(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)


def test_uniforms_are_a_function_of_seed_and_index() -> None:
    assert (uniforms(1, 2, 5) == uniforms(1, 2, 9)[:5]).all()
    assert (uniforms(1, 2, 5) != uniforms(1, 3, 5)).all()
    assert ((uniforms(0, 0, 10_000) > 0) & (uniforms(0, 0, 10_000) <= 1)).all()


def test_a_completion_is_cut_at_the_first_end_token() -> None:
    c = completion(3, [5, 9, 6, 9], lambda ids: " ".join(map(str, ids)), frozenset({9}), [0.1, 0.2, 0.3, 0.4])
    assert (c.token_ids, c.text, c.finish, c.logps) == ((5, 9), "5", "stop", (0.1, 0.2))


def test_the_scripted_engine() -> None:
    engine = ScriptedEngine(lambda prompt, index: [*prompt, index], lambda ids: str(list(ids)))
    assert [c.text for c in engine.sample([[1], [2]], [7, 8], Sampling(), seed=0)] == ["[1, 7]", "[2, 8]"]
