"""Memory and operations of a plan against what torch itself counts, and against figures worked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Qwen3Config

from runs import SMALL, merged
from sgsd.plan.fit import Fit, assumed_lengths
from sgsd.plan.memory import Memory
from sgsd.plan.meta_model import MemoryTrace, MetaModel
from sgsd.plan.sizes import Lengths, Rows, Shape
from sgsd.rollout import Sampling
from sgsd.scorer.module import causal_lm
from sgsd.train import RunConfig, make_config
from sgsd.train.models import make_scorer
from sgsd.types import UserError

LENGTHS = Lengths(student_prompt=30, teacher_prompt=70, completion=10, longest=16)
HIDDEN, LAYERS, HEADS, KV, SIZE, INNER, VOCABULARY = 32, 3, 4, 2, 16, 48, 96
#: q and o, k and v, the three of the MLP.
BODY = LAYERS * (2 * HIDDEN * HEADS * SIZE + 2 * HIDDEN * KV * SIZE + 3 * HIDDEN * INNER)
RANK = 4
#: A rank-4 adapter on all seven projections: rank · (in + out) each.
ADAPTER = LAYERS * RANK * (2 * (HIDDEN + HEADS * SIZE) + 2 * (HIDDEN + KV * SIZE) + 3 * (HIDDEN + INNER))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that holds a configuration and nothing else: more is not read."""
    folder = tmp_path_factory.mktemp("tiny")
    settings(tied=True).save_pretrained(folder)
    return folder


def settings(*, tied: bool) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV,
        head_dim=SIZE,
        tie_word_embeddings=tied,
    )


def config_of(folder: Path | str, **changes: Any) -> RunConfig:
    model = {"path": str(folder), "dtype": "float32", **changes.pop("model", {})}
    return make_config(merged(SMALL, {"model": model, **changes}))


LORA = {"rank": RANK, "alpha": RANK}


# ── Numbers and rows ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_shape_counts_the_matrices(tiny: Path) -> None:
    full, adapted = (Shape.of(MetaModel.of(config_of(tiny, lora=lora))) for lora in (None, LORA))
    assert (full.body, full.head_trains) == (BODY, True)
    assert (adapted.body, adapted.head_trains) == (BODY, False)
    assert full.attention == LAYERS * HEADS * SIZE
    assert full.cached == LAYERS * 2 * KV * SIZE


def test_a_forward_as_torch_counts_it(tiny: Path) -> None:
    """Twice the multiplications; attention is counted whole, as torch does."""
    meta = MetaModel.of(config_of(tiny, model={"attention": "eager"}))
    model = AutoModelForCausalLM.from_config(meta.settings, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(1, 20, dtype=torch.long), use_cache=False, logits_to_keep=8)
    assert counter.get_total_flops() == 2 * Shape.of(meta).operations(12, 8)


def test_groups_stay_together_on_their_process(tiny: Path) -> None:
    meta = MetaModel.of(config_of(tiny, rollouts=12, group=4))
    assert [Rows.of(meta, LENGTHS, n).rollouts for n in (1, 2, 3)] == [12, 8, 4]
    tight = MetaModel.of(config_of(tiny, rollouts=8, compute={"student_tokens": 100, "rollout_tokens": 300}))
    rows = Rows.of(tight, LENGTHS)
    assert (rows.per_student, rows.student_microbatches) == (2, 4)
    assert rows.per_batch == 300 // (30 + 96)


# ── Traces on the meta device ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "adapter"])
def test_a_trace_holds_what_a_real_pass_holds(tiny: Path, lora: dict[str, int] | None) -> None:
    config = config_of(tiny, lora=lora)
    meta, rows, length = MetaModel.of(config), 4, 64
    model = AutoModelForCausalLM.from_config(meta.settings, attn_implementation="sdpa")
    scorer = make_scorer(model, meta.method, config.lora, 0)
    lm = causal_lm(scorer.model)
    trained = [p for p in scorer.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    grads = [p.grad for p in trained if p.grad is not None]
    with MemoryTrace([*scorer.parameters(), *scorer.buffers(), *grads]) as real:
        hidden = lm.base_model(input_ids=torch.zeros(rows, length, dtype=torch.long), use_cache=False)[0]
        head = torch.nn.functional.linear(hidden[:1, -1], lm.get_output_embeddings().weight)
        (hidden.sum() + head.sum()).backward()
    found = meta.student_peak(rows, length)
    assert found == pytest.approx(real.peak, rel=0.05)


def test_checkpointing_keeps_less(tiny: Path) -> None:
    kept, again = (
        MetaModel.of(config_of(tiny, lora=LORA, model={"gradient_checkpointing": on})).student_peak(8, 64)
        for on in (False, True)
    )
    assert again < 0.6 * kept


def test_the_cache_grows_with_rows_and_context(tiny: Path) -> None:
    meta, one = MetaModel.of(config_of(tiny)), LAYERS * 2 * KV * SIZE * 4
    short, long, many = (meta.decode_peak(r, c, Sampling()) for r, c in ((4, 100), (4, 400), (8, 400)))
    assert long - short == pytest.approx(4 * 300 * one, rel=0.05)
    assert many - long == pytest.approx(4 * 400 * one, rel=0.1)


# ── Memory ─────────────────────────────────────────────────────────────────────────────────────────────────────────

EVERY_WEIGHT = BODY + VOCABULARY * HIDDEN + HIDDEN + LAYERS * (2 * HIDDEN + 2 * SIZE)  # with its norms; tied


def test_what_stands_is_numbers_times_bytes(tiny: Path) -> None:
    full = Memory.of(MetaModel.of(config_of(tiny)), LENGTHS)
    assert (full.weights, full.gradients, full.moments) == (4 * EVERY_WEIGHT, 4 * EVERY_WEIGHT, 8 * EVERY_WEIGHT)
    assert full.teacher == 0
    half = Memory.of(MetaModel.of(config_of(tiny, lora=LORA, model={"dtype": "bfloat16"})), LENGTHS)
    assert half.weights == 2 * EVERY_WEIGHT + 4 * ADAPTER  # PEFT keeps an adapter in float32
    assert (half.gradients, half.moments) == (4 * ADAPTER, 8 * ADAPTER)


def test_a_teachers_own_weights_stand_too(tiny: Path) -> None:
    method = {"name": "sgsd", "k": 2, "teacher": "ema"}
    copied = Memory.of(MetaModel.of(config_of(tiny, method=method)), LENGTHS)
    assert copied.teacher == 4 * EVERY_WEIGHT
    adapted = Memory.of(MetaModel.of(config_of(tiny, method=method, lora=LORA)), LENGTHS)
    assert adapted.teacher == 4 * 2 * ADAPTER
    assert adapted.weights == 4 * (EVERY_WEIGHT + ADAPTER)


def test_processes_share_the_weights_out_but_sample_with_whole_ones(tiny: Path) -> None:
    meta = MetaModel.of(config_of(tiny, rollouts=8))
    alone = Memory.of(meta, LENGTHS)
    parts = Memory.of(meta, LENGTHS, processes=4, in_parts=True)
    for name in ("weights", "gradients", "moments"):
        assert getattr(parts, name) == getattr(alone, name) / 4
    assert parts.sampling > alone.weights
    assert 0 < parts.gathered <= alone.weights
    replicated = Memory.of(meta, LENGTHS, processes=4)
    assert (replicated.weights, replicated.gathered) == (alone.weights, 0)


def test_a_larger_budget_holds_more_until_all_rows_are_in(tiny: Path) -> None:
    def student(tokens: int) -> float:
        config = config_of(tiny, rollouts=8, compute={"student_tokens": tokens})
        return Memory.of(MetaModel.of(config), LENGTHS).student

    assert student(80) < student(160) < student(320) == student(640)


def test_an_evaluation_may_need_the_most(tiny: Path) -> None:
    evaluation = {"data": {"path": "lab:held-out"}, "problems": 500, "samples": 4, "sampling": {"max_tokens": 96}}
    without, with_one = (
        Memory.of(MetaModel.of(config_of(tiny, **e)), LENGTHS) for e in ({}, {"evaluation": evaluation})
    )
    assert with_one.sampling > 5 * without.sampling


# ── Assumptions ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_more_processes_than_groups_are_refused(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"--processes: 8 groups of rollouts cannot be shared by 9 processes"):
        Fit.of(config_of(tiny), 80e9, LENGTHS, processes=9)


def test_lengths_that_nobody_says_are_assumed(tiny: Path) -> None:
    config = config_of(tiny)
    assert assumed_lengths(config) == Lengths(200, 512, 96, 96)  # prompts.max_tokens is 512
    assert assumed_lengths(config, 40, 80, 24) == Lengths(40, 80, 24, 96)
    assert assumed_lengths(config, completion=2000).completion == 96
    fit = Fit.of(config, 80e9, assumed_lengths(config, completion=24))
    assert any("completions 24" in line for line in fit.assumptions())


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        MetaModel.of(config_of(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"model\.path: .* its configuration cannot be read"):
        MetaModel.of(config_of(tmp_path))
