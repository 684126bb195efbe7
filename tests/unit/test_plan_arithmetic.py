"""The arithmetic of `sgsd plan --on` against what torch itself counts, and against figures worked by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Qwen3Config

from runs import SMALL, merged
from sgsd.plan.arithmetic import Lengths, Operations, Rows, Shape
from sgsd.plan.devices import Device, device_named
from sgsd.plan.estimate import Estimate, assumed_lengths
from sgsd.plan.memory import Memory
from sgsd.plan.meta_pass import Cost, Count, Ghost
from sgsd.rollout import Sampling
from sgsd.scorer.head import token_logps
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


def counted(config: RunConfig, rows: int, length: int) -> int:
    """What torch counts in a pass of the real model, forward and backward."""
    ghost = Ghost.of(config)
    model = AutoModelForCausalLM.from_config(ghost.settings, attn_implementation="eager")
    checkpointing = config.model.gradient_checkpointing
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    scorer = make_scorer(model, ghost.method, config.lora, 0, gradient_checkpointing=checkpointing)
    with FlopCounterMode(display=False) as counter:
        lm = causal_lm(scorer.model)
        ids = torch.zeros(rows, length, dtype=torch.long)
        lm.base_model(input_ids=ids, use_cache=False).last_hidden_state.sum().backward()
    return int(counter.get_total_flops())


# ── Parameters and operations ──────────────────────────────────────────────────────────────────────────────────────


def test_a_shape_counts_the_matrices(tiny: Path) -> None:
    full, adapted = (Shape.of(Ghost.of(config_of(tiny, lora=lora))) for lora in (None, LORA))
    assert (full.body, full.adapter, full.full, full.head_trains) == (BODY, 0, True, True)
    assert (adapted.body, adapted.adapter, adapted.full, adapted.head_trains) == (BODY, ADAPTER, False, False)
    assert adapted.teacher_adapter == ADAPTER  # a live teacher is the student
    assert full.attention == LAYERS * HEADS * SIZE
    assert full.cached == LAYERS * 2 * KV * SIZE


def test_a_teachers_adapter_is_the_one_it_computes_with(tiny: Path) -> None:
    def of(teacher: str) -> Shape:
        method = {"name": "sgsd", "k": 2, "teacher": teacher}
        return Shape.of(Ghost.of(config_of(tiny, lora=LORA, method=method)))

    assert of("frozen").teacher_adapter == 0
    assert of("ema").teacher_adapter == 2 * ADAPTER  # twice the rank
    assert of("ema").adapter == ADAPTER


def test_all_weights_as_torch_counts_them(tiny: Path) -> None:
    config = config_of(tiny, model={"attention": "eager"})
    shape = Shape.of(Ghost.of(config))
    for rows, length in ((1, 12), (3, 20)):
        assert shape.student(rows * length, length) == counted(config, rows, length)


def test_fused_attention_computes_its_scores_again(tiny: Path) -> None:
    fused, eager = (Shape.of(Ghost.of(config_of(tiny, model={"attention": a}))) for a in ("sdpa", "eager"))
    once = 2 * 60 * 20 * fused.attention
    assert fused.student(60, 20) - eager.student(60, 20) == once


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_adapter_nearly_as_torch_counts_it(tiny: Path, checkpointing: bool) -> None:
    """Torch leaves out the gradient of the first layer's input, and of a layer computed again its last product."""
    model = {"attention": "eager", "gradient_checkpointing": checkpointing}
    config = config_of(tiny, lora=LORA, model=model)
    ours, torchs = Shape.of(Ghost.of(config)).student(60, 20), counted(config, 3, 20)
    assert torchs <= ours <= 1.1 * torchs


@pytest.mark.parametrize(("frozen", "gradient", "products"), [(True, False, 1), (True, True, 2), (False, True, 4)])
def test_the_heads_products(frozen: bool, gradient: bool, products: int, tiny: Path) -> None:
    shape = Shape.of(Ghost.of(config_of(tiny, lora=LORA if frozen else None)))
    hidden = torch.randn(7, HIDDEN, requires_grad=gradient)
    weight = torch.randn(VOCABULARY, HIDDEN, requires_grad=not frozen)
    # Torch's counter passes over products that are added in place.
    in_place = {torch.ops.aten.addmm_: lambda total, a, b, **_: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter, torch.set_grad_enabled(gradient):
        logps = token_logps(hidden, weight, torch.zeros(7, dtype=torch.long)).logps_N
        if gradient:
            logps.sum().backward()
    assert counter.get_total_flops() == shape.head(7, products)
    assert not gradient or products == shape.student_products


def test_a_step_worked_by_hand(tiny: Path) -> None:
    config = config_of(tiny, rollouts=4, method={"name": "sgsd", "k": 3, "confidence": 0.01})
    ghost = Ghost.of(config)
    ops = Operations.of(ghost.method, Shape.of(ghost), Rows.of(ghost, LENGTHS), LENGTHS)
    head = 2 * VOCABULARY * HIDDEN
    attention = LAYERS * HEADS * SIZE
    assert ops.prefill == 2 * 120 * BODY + 4 * 120 * 30 * attention + 4 * head
    assert ops.decode == 2 * 64 * BODY + 4 * 64 * (30 + 8) * attention + 64 * head
    assert ops.student == 6 * 160 * BODY + 14 * 160 * 40 * attention
    assert ops.student_head == 4 * 40 * head
    assert ops.teachers == 2 * 960 * BODY + 4 * 960 * 80 * attention
    assert ops.teachers_head == 120 * head


def test_a_batch_that_is_not_full_decodes_what_is_in_it(tiny: Path) -> None:
    config = config_of(tiny, rollouts=33, compute={"rollout_tokens": 32 * (30 + 96)})
    ghost = Ghost.of(config)
    rows, shape = Rows.of(ghost, LENGTHS), Shape.of(ghost)
    assert (rows.per_batch, rows.batches) == (32, 2)
    tokens = 33 * LENGTHS.longest
    ops = Operations.of(ghost.method, shape, rows, LENGTHS)
    assert ops.decode == shape.forward(tokens, 30 + 8, 0) + shape.head(tokens, 1)


def test_a_prompt_that_a_group_shares_is_computed_once(tiny: Path) -> None:
    def of(group: int) -> tuple[Rows, Operations]:
        ghost = Ghost.of(config_of(tiny, rollouts=4, group=group))
        rows = Rows.of(ghost, LENGTHS)
        return rows, Operations.of(ghost.method, Shape.of(ghost), rows, LENGTHS)

    (alone, apart), (together, shared) = of(1), of(4)
    assert (alone.sharing, together.sharing) == (1, 4)
    row = 2 * BODY + 4 * 80 * LAYERS * HEADS * SIZE
    assert apart.teachers - shared.teachers == row * 8 * 70 * 3 / 4


def test_distributions_are_compared_in_the_students_pass(tiny: Path) -> None:
    ghost = Ghost.of(config_of(tiny, method={"name": "opsd"}, bank={"path": None}, lora=LORA))
    ops = Operations.of(ghost.method, Shape.of(ghost), Rows.of(ghost, LENGTHS), LENGTHS)
    assert ops.teachers_head == 0
    assert ops.student_head == (2 + 3) * 2 * 80 * VOCABULARY * HIDDEN


def test_groups_stay_together_on_their_process(tiny: Path) -> None:
    ghost = Ghost.of(config_of(tiny, rollouts=12, group=4))
    assert [Rows.of(ghost, LENGTHS, n).rollouts for n in (1, 2, 3)] == [12, 8, 4]
    tight = Ghost.of(config_of(tiny, rollouts=8, compute={"student_tokens": 100, "rollout_tokens": 300}))
    rows = Rows.of(tight, LENGTHS)
    assert (rows.per_student, rows.student_passes) == (2, 4)
    assert (rows.per_batch, rows.batches) == (300 // (30 + 96), 4)


# ── Passes on the meta device ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "adapter"])
def test_a_meta_pass_holds_what_a_real_one_holds(tiny: Path, lora: dict[str, int] | None) -> None:
    config = config_of(tiny, lora=lora)
    ghost, rows, length = Ghost.of(config), 4, 64
    model = AutoModelForCausalLM.from_config(ghost.settings, attn_implementation="sdpa")
    scorer = make_scorer(model, ghost.method, config.lora, 0)
    lm = causal_lm(scorer.model)
    trained = [p for p in scorer.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    grads = [p.grad for p in trained if p.grad is not None]
    with Count([*scorer.parameters(), *scorer.buffers(), *grads]) as real:
        hidden = lm.base_model(input_ids=torch.zeros(rows, length, dtype=torch.long), use_cache=False)[0]
        head = torch.nn.functional.linear(hidden[:1, -1], lm.get_output_embeddings().weight)
        (hidden.sum() + head.sum()).backward()
    found = ghost.student_pass(rows, length)
    assert found.peak == pytest.approx(real.peak, rel=0.05)
    assert found.operations == pytest.approx(real.operations, rel=0.15)


def test_checkpointing_keeps_less(tiny: Path) -> None:
    kept, again = (
        Ghost.of(config_of(tiny, lora=LORA, model={"gradient_checkpointing": on})).student_pass(8, 64)
        for on in (False, True)
    )
    assert again.peak < 0.6 * kept.peak
    assert again.operations > 1.2 * kept.operations


def test_the_cache_grows_with_rows_and_context(tiny: Path) -> None:
    ghost, one = Ghost.of(config_of(tiny)), LAYERS * 2 * KV * SIZE * 4
    short, long, many = (ghost.decode_step(r, c, Sampling()).peak for r, c in ((4, 100), (4, 400), (8, 400)))
    assert long - short == pytest.approx(4 * 300 * one, rel=0.05)
    assert many - long == pytest.approx(4 * 400 * one, rel=0.1)


def test_further_layers_cost_what_the_second_did() -> None:
    assert Cost(10, 100, 7).further(Cost(14, 130, 9), 5) == Cost(26, 220, 15)


# ── Memory ─────────────────────────────────────────────────────────────────────────────────────────────────────────

EVERY_WEIGHT = BODY + VOCABULARY * HIDDEN + HIDDEN + LAYERS * (2 * HIDDEN + 2 * SIZE)  # with its norms; tied


def test_what_stands_is_numbers_times_bytes(tiny: Path) -> None:
    full = Memory.of(Ghost.of(config_of(tiny)), LENGTHS)
    assert (full.weights, full.gradients, full.moments) == (4 * EVERY_WEIGHT, 4 * EVERY_WEIGHT, 8 * EVERY_WEIGHT)
    assert full.teacher == 0
    half = Memory.of(Ghost.of(config_of(tiny, lora=LORA, model={"dtype": "bfloat16"})), LENGTHS)
    assert half.weights == 2 * EVERY_WEIGHT + 4 * ADAPTER  # PEFT keeps an adapter in float32
    assert (half.gradients, half.moments) == (4 * ADAPTER, 8 * ADAPTER)


def test_a_teachers_own_weights_stand_too(tiny: Path) -> None:
    method = {"name": "sgsd", "k": 2, "teacher": "ema"}
    copied = Memory.of(Ghost.of(config_of(tiny, method=method)), LENGTHS)
    assert copied.teacher == 4 * EVERY_WEIGHT
    adapted = Memory.of(Ghost.of(config_of(tiny, method=method, lora=LORA)), LENGTHS)
    assert adapted.teacher == 4 * 2 * ADAPTER
    assert adapted.weights == 4 * (EVERY_WEIGHT + ADAPTER)


def test_processes_share_the_weights_out_but_sample_with_whole_ones(tiny: Path) -> None:
    ghost = Ghost.of(config_of(tiny, rollouts=8))
    alone = Memory.of(ghost, LENGTHS)
    parts = Memory.of(ghost, LENGTHS, processes=4, in_parts=True)
    for name in ("weights", "gradients", "moments"):
        assert getattr(parts, name) == getattr(alone, name) / 4
    assert parts.sampling > alone.weights
    assert 0 < parts.gathered <= alone.weights
    replicated = Memory.of(ghost, LENGTHS, processes=4)
    assert (replicated.weights, replicated.gathered) == (alone.weights, 0)


def test_a_larger_budget_holds_more_until_all_rows_are_in(tiny: Path) -> None:
    def student(tokens: int) -> float:
        config = config_of(tiny, rollouts=8, compute={"student_tokens": tokens})
        return Memory.of(Ghost.of(config), LENGTHS).student

    assert student(80) < student(160) < student(320) == student(640)


def test_an_evaluation_may_need_the_most(tiny: Path) -> None:
    evaluation = {"data": {"path": "lab:held-out"}, "problems": 500, "samples": 4, "sampling": {"max_tokens": 96}}
    without, with_one = (Memory.of(Ghost.of(config_of(tiny, **e)), LENGTHS) for e in ({}, {"evaluation": evaluation}))
    assert with_one.sampling > 5 * without.sampling


# ── Devices and times ──────────────────────────────────────────────────────────────────────────────────────────────


def test_devices_are_known_by_name() -> None:
    assert device_named("h100").flops == 989e12
    with pytest.raises(UserError, match=r"--on: there is no device 'h10'; did you mean 'h100'\?"):
        device_named("h10")
    with pytest.raises(UserError, match="there are h200, h100"):
        device_named("abacus")


def test_a_gpu_waits_for_the_slowest_and_a_cpu_for_all() -> None:
    gpu = Device("x", flops=100, bandwidth=10, memory=1, utilisation=0.5, bandwidth_share=1, dispatch=0.1)
    cpu = replace(gpu, queues=False)
    cost = Cost(peak=0, written=20, operations=40)
    assert gpu.seconds(100, cost) == pytest.approx(2 + 6)
    assert gpu.seconds(100, Cost(0, 20, 1000)) == pytest.approx(100)
    assert cpu.seconds(100, cost) == pytest.approx(2 + 6 + 4)
    assert gpu.seconds(100, cost, read=50) == pytest.approx(5 + 6)


def test_an_evaluation_of_shorter_answers_takes_as_long_as_they_do(tiny: Path) -> None:
    def seconds(most: int, completion: int) -> float:
        evaluation = {"data": {"path": "lab:held-out"}, "problems": 64, "sampling": {"max_tokens": most}}
        lengths = replace(LENGTHS, completion=completion, longest=completion)
        return Estimate.of(config_of(tiny, evaluation=evaluation), "h100", lengths).evaluation_seconds

    assert seconds(24, 96) == seconds(24, 24) > seconds(24, 12)
    assert seconds(192, 24) == seconds(192, 192)


def test_time_goes_by_utilisation_and_steps(tiny: Path) -> None:
    config = config_of(tiny, steps=10)
    slow, fast = (Estimate.of(config, "h100", LENGTHS, utilisation=u) for u in (1e-6, 2e-6))
    assert slow.seconds["score"] > 1.5 * fast.seconds["score"]
    assert slow.run == pytest.approx(10 * slow.step)
    assert set(slow.seconds) == {"sample", "score", "update"}


def test_more_processes_than_groups_are_refused(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"--processes: 8 groups of rollouts cannot be shared by 9 processes"):
        Estimate.of(config_of(tiny), "h100", LENGTHS, processes=9)


def test_lengths_that_nobody_says_are_assumed(tiny: Path) -> None:
    config = config_of(tiny)
    assert assumed_lengths(config) == Lengths(200, 512, 96, 96)  # prompts.max_tokens is 512
    assert assumed_lengths(config, 40, 80, 24, 36) == Lengths(40, 80, 24, 36)
    assert assumed_lengths(config, completion=24) == Lengths(200, 512, 24, 96)
    assert assumed_lengths(config, completion=2000).completion == 96
    assert any(
        "completions 24 tokens" in line
        for line in Estimate.of(config, "l40s", assumed_lengths(config, completion=24)).assumptions()
    )


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        Ghost.of(config_of(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"model\.path: .* its configuration cannot be read"):
        Ghost.of(config_of(tmp_path))
