"""The scorer equals full-logits log-softmax, and neither padding nor a neighbour moves a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import architectures
import peft
import pytest
import torch
from architectures import ARCHITECTURES, OTHERS
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config, Qwen3ForCausalLM

from sgsd.methods.objectives import MatchDistribution
from sgsd.scorer import TEACHER_ADAPTER, Row, Scorer, collate, plan_microbatches
from sgsd.scorer.tiles import LogitChange
from sgsd.types import UserError

SIZES = {
    "vocab_size": 131,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def tiny(config_class: Any = Qwen3Config, **changes: Any) -> Any:
    torch.manual_seed(0)
    extra = {"head_dim": 16} if config_class is Qwen3Config else {}
    model = AutoModelForCausalLM.from_config(config_class(**{**SIZES, **extra, **changes}))
    # Random weights of the default scale give nearly flat distributions; these do not.
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(10)
    return model.float()


def rows(seed: int, lengths: Sequence[tuple[int, int]]) -> list[Row]:
    g = torch.Generator().manual_seed(seed)
    draw = lambda n: tuple(torch.randint(0, 131, (n,), generator=g).tolist())  # noqa: E731
    return [Row(draw(p), draw(c)) for p, c in lengths]


def direct(model: Any, row: Row) -> torch.Tensor:
    """One row, alone, all logits."""
    ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(row.prompt_ids) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(row.completion_ids)[:, None]).squeeze(-1)


LENGTHS = [(5, 7), (1, 1), (12, 3), (3, 20), (8, 8)]


@pytest.mark.parametrize("config_class", [Qwen3Config, Qwen2Config, LlamaConfig])
@pytest.mark.parametrize("tied", [True, False])
def test_equals_full_logits_log_softmax(config_class: Any, tied: bool) -> None:
    model = tiny(config_class, tie_word_embeddings=tied).eval()
    scorer, batch = Scorer(model), rows(0, LENGTHS)
    pack = collate(batch)
    scores = scorer(pack, entropy=True)
    expected = torch.cat([direct(model, row) for row in batch])
    assert (scores.logps_N - expected).abs().max() <= 1e-5
    assert expected.std() > 0.5
    wanted = torch.autograd.grad(expected.sum(), list(model.parameters()), allow_unused=True)
    found = torch.autograd.grad(scores.logps_N.sum(), list(model.parameters()), allow_unused=True)
    for w, f in zip(wanted, found):
        assert (w is None) == (f is None)
        if w is not None:
            assert (w - f).abs().max() <= 1e-5 * max(1.0, w.abs().max().item())


def test_a_neighbour_and_its_padding_move_nothing() -> None:
    scorer = Scorer(tiny().eval())
    row = rows(1, [(6, 9)])[0]
    alone = scorer(collate([row])).logps_N
    for seed in range(5):
        neighbours = rows(seed + 2, [(40, 30), (2, 2)])
        together = collate([neighbours[0], row, neighbours[1]], pad_id=seed)
        found = together.to_rows(scorer(together).logps_N)[1, :9]
        assert (found - alone).abs().max() <= 1e-5


def test_entropy_is_the_distribution_s() -> None:
    model = tiny().eval()
    row = rows(3, [(4, 6)])[0]
    found = Scorer(model)(collate([row]), entropy=True).entropy_N
    logps = model(input_ids=torch.tensor([[*row.prompt_ids, *row.completion_ids]])).logits[0, 3:-1].log_softmax(-1)
    torch.testing.assert_close(found, -(logps.exp() * logps).sum(-1), rtol=1e-5, atol=1e-5)
    assert not found.requires_grad


def lora(model: Any, **kwargs: Any) -> Any:
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **kwargs)
    wrapped = peft.get_peft_model(model, config)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return wrapped


def test_the_teacher_runs_in_eval_mode_without_gradient_and_leaves_the_student_training() -> None:
    model = lora(tiny(), lora_dropout=0.5)
    scorer, pack = Scorer(model), collate(rows(4, LENGTHS))
    scorer.train()
    first, second = (scorer(pack, role="teacher").logps_N for _ in range(2))
    assert torch.equal(first, second)  # dropout is off
    assert not first.requires_grad
    assert model.training
    assert not torch.equal(scorer(pack).logps_N, scorer(pack).logps_N)  # and on for the student


def test_the_frozen_teacher_is_the_base_model() -> None:
    base = tiny().eval()
    pack = collate(rows(5, LENGTHS))
    expected = Scorer(base)(pack).logps_N.detach()
    scorer = Scorer(lora(base), teacher_weights="base")
    assert torch.equal(scorer(pack, role="teacher").logps_N, expected)
    assert (scorer(pack).logps_N - expected).abs().max() > 0.01


def test_a_second_adapter_answers_for_the_teacher_and_only_for_it() -> None:
    model = lora(tiny())
    model.add_adapter(TEACHER_ADAPTER, model.peft_config["default"])
    model.set_adapter("default")
    before = {name: p.requires_grad for name, p in model.named_parameters() if ".default." in name}
    scorer, pack = Scorer(model, teacher_weights="adapter"), collate(rows(6, LENGTHS))
    student = scorer(pack).logps_N.detach()
    with model.disable_adapter():
        base = Scorer(model)(pack).logps_N.detach()
    assert torch.equal(scorer(pack, role="teacher").logps_N, base)  # a fresh adapter changes nothing
    assert torch.equal(scorer(pack).logps_N, student)
    assert {name: p.requires_grad for name, p in model.named_parameters() if ".default." in name} == before
    assert any(before.values())


def test_hidden_states_and_divergences_of_whole_distributions() -> None:
    kl = MatchDistribution(beta=0.0, clip=None).divergence

    base = tiny().eval()
    teacher_logits = base(input_ids=torch.tensor([[1, 2, 3, 4, 5]])).logits[0, 1:-1].detach()
    scorer, pack = Scorer(lora(base), teacher_weights="base"), collate([Row((1, 2), (3, 4, 5))])
    states = scorer(pack, role="teacher", hidden_only=True).hidden_ND
    found = scorer(pack, teacher_hidden_KND=(states,), divergence=kl).divergence_KN
    student_logits = scorer.model(input_ids=torch.tensor([[1, 2, 3, 4, 5]])).logits[0, 1:-1]
    expected = kl(student_logits, teacher_logits)
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [*ARCHITECTURES, *OTHERS])
def test_the_scorer_is_the_model_whatever_it_does_to_its_logits(kind: str) -> None:
    model = architectures.model(kind).eval()
    scorer, batch = Scorer(model), rows(7, LENGTHS)
    with torch.no_grad():
        expected = torch.cat([direct(model, row) for row in batch])
        assert (scorer(collate(batch)).logps_N - expected).abs().max() <= 1e-5
        if scorer.shares_prefixes:
            shared = [Row(batch[0].prompt_ids, row.completion_ids) for row in batch]
            alone = torch.cat([direct(model, row) for row in shared])
            found = scorer(collate(shared, layout="shared"), role="teacher").logps_N
            assert (found - alone).abs().max() <= 1e-5
    assert expected.std() > 0.01


def changing(change: Callable[[torch.Tensor], torch.Tensor], **settings: Any) -> Any:
    """A model of ours that does something to its logits."""

    class Changing(Qwen3ForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            out.logits = change(out.logits)
            return out

    torch.manual_seed(0)
    return Changing(Qwen3Config(**{**SIZES, "head_dim": 16, **settings})).eval()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda z: z, LogitChange()),
        (lambda z: z * 0.0390625, LogitChange(0.0390625)),
        (lambda z: z / -3, LogitChange(-1 / 3)),
        (lambda z: 7.5 * torch.tanh(z / 7.5), LogitChange(1.0, 7.5)),
        (lambda z: 30 * torch.tanh(z * 0.2 / 30), LogitChange(0.2, 30.0)),
        (lambda z: z.to(torch.float64) * 1.7, LogitChange(1.7)),
    ],
)
def test_a_factor_and_a_cap_are_found_under_no_name(change: Any, found: LogitChange) -> None:
    model = changing(change)
    scorer, row = Scorer(model), Row((5, 6, 7), (8, 9, 10))
    assert scorer.readout.change.factor == pytest.approx(found.factor, rel=1e-6)
    assert (scorer.readout.change.cap or 0.0) == pytest.approx(found.cap or 0.0, rel=1e-6)
    assert (scorer(collate([row])).logps_N - direct(model, row)).abs().max() <= 1e-5


@pytest.mark.parametrize(
    "change",
    [
        lambda z: z + 0.1 * z.sin(),
        lambda z: z - z.mean(-1, keepdim=True) * 2,
        lambda z: z + torch.arange(z.shape[-1]) / 100,
        lambda z: z * torch.linspace(1, 2, z.shape[1])[None, :, None],
        lambda z: 20 * z / (20 + z.abs()),
        lambda z: z.clamp(-5, 5),
        lambda z: z.index_fill(-1, torch.tensor([3]), float("-inf")),
        lambda z: z * 0,
        lambda z: z.round(decimals=1),
    ],
)
def test_what_the_scorer_cannot_follow_is_refused_by_name(change: Any) -> None:
    with pytest.raises(UserError, match=r"model qwen3 \(Changing\): the scorer cannot follow .* to its logits after"):
        Scorer(changing(change))


def test_what_happens_between_body_and_head_is_followed_or_refused() -> None:
    class Between(Qwen3ForCausalLM):
        def __init__(self, config: Any, change: Any) -> None:
            super().__init__(config)
            self.lm_head.register_forward_pre_hook(lambda module, args: (change(args[0]),))

    settings = Qwen3Config(**SIZES, head_dim=16)
    model, row = Between(settings, lambda h: h / 12).eval(), Row((5, 6), (7, 8, 9))
    scorer = Scorer(model)
    assert scorer.readout.before == pytest.approx(1 / 12, rel=1e-6)
    assert (scorer(collate([row])).logps_N - direct(model, row)).abs().max() <= 1e-5
    with pytest.raises(UserError, match=r"\(Between\).* to its logits before"):
        Scorer(Between(settings, lambda h: h.tanh()))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_head_that_is_no_number_is_called_that(number: float) -> None:
    model = tiny(tie_word_embeddings=False)
    model.lm_head.weight.data[3, 5] = number
    with pytest.raises(UserError, match=r"weight lm_head\.weight is NaN or infinite in 1 of 4192 places"):
        Scorer(model)


def test_finding_out_takes_no_pass_of_the_body_and_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny().train()

    def kernel_of_another_device(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("not on this device")

    with monkeypatch.context() as patch:
        patch.setattr(type(model.model.layers[0].self_attn), "forward", kernel_of_another_device)
        scorer = Scorer(model)
    assert model.training
    assert "forward" not in vars(model.model)
    assert not model.lm_head._forward_hooks
    row = Row((5, 6, 7), (8, 9))
    assert (scorer(collate([row])).logps_N - direct(model, row)).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", ["qwen3", "gemma-2", "granite"])
def test_an_adapter_on_the_head_scores_and_trains_as_the_model_itself_does(kind: str) -> None:
    wrapped = peft.get_peft_model(
        architectures.model(kind),
        peft.LoraConfig(r=4, lora_alpha=8, target_modules=["lm_head"], init_lora_weights=False),
    )
    scorer, row = Scorer(wrapped.eval()), rows(8, [(4, 9)])[0]
    expected, found = direct(wrapped, row), scorer(collate([row])).logps_N
    assert (found - expected).abs().max() <= 1e-5
    with wrapped.disable_adapter():
        assert (direct(wrapped, row) - expected).abs().max() > 0.01
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    assert len(trained) == 2
    for mine, plain in zip(torch.autograd.grad(found.sum(), trained), torch.autograd.grad(expected.sum(), trained)):
        assert (mine - plain).abs().max() <= 1e-5 * plain.abs().max().clamp(min=1)


def test_distributions_are_compared_with_each_side_s_own_adapter_on_the_head() -> None:
    base = architectures.model("gemma-2").eval()
    kl = MatchDistribution(beta=0.0, clip=None).divergence
    row, ids = Row((1, 2), (3, 4, 5)), torch.tensor([[1, 2, 3, 4, 5]])
    teacher_logits = base(input_ids=ids).logits[0, 1:-1].detach()
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["lm_head", "q_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(base, config)
    scorer, pack = Scorer(wrapped, teacher_weights="base"), collate([row])
    states = scorer(pack, role="teacher", hidden_only=True).hidden_ND
    found = scorer(pack, teacher_hidden_KND=(states,), divergence=kl).divergence_KN
    expected = kl(wrapped(input_ids=ids).logits[0, 1:-1], teacher_logits)
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-6)
    assert all(p.requires_grad for name, p in wrapped.named_parameters() if "lora_" in name)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 200))
def test_passes_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    plan = plan_microbatches(lengths, budget)
    assert sorted(i for rows in plan for i in rows) == list(range(len(lengths)))
    for indices in plan:
        assert len(indices) == 1 or len(indices) * max(lengths[i] for i in indices) <= budget


@pytest.mark.parametrize("row", [Row((), (1,)), Row((1,), ())])
def test_empty_rows_are_refused(row: Row) -> None:
    with pytest.raises(ValueError, match="row 0 has an empty"):
        collate([row])
