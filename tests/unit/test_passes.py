"""Three layouts of the same texts: the same numbers, within the budget, and nothing that waits for a device."""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_scorer import lora, rows, tiny
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, LlamaConfig, Qwen2Config, Qwen3Config

import sgsd
from sgsd.scorer import Row, Scorer, collate, plan_layout, plan_microbatches, teacher_layout

ROOT = Path(sgsd.__file__).parent


def families(groups: int = 4, group: int = 3) -> list[Row]:
    """Several completions each of several prompts, and one of a prompt of a single token."""
    prompts = rows(1, [(5 + 4 * number, 1) for number in range(groups)])
    completions = rows(2, [(1, 1 + 5 * number) for number in range(groups * group)])
    return [
        *(Row(prompts[i % groups].prompt_ids, row.completion_ids) for i, row in enumerate(completions)),
        Row((7,), (8, 9)),
    ]


@pytest.mark.parametrize("config_class", [Qwen3Config, Qwen2Config, LlamaConfig])
@pytest.mark.parametrize("layout", ["packed", "shared"])
def test_a_layout_moves_no_number(config_class: Any, layout: Any) -> None:
    scorer, texts = Scorer(tiny(config_class)), families()
    expected = scorer(collate(texts), role="teacher", entropy=True)
    pack = collate(texts, layout=layout, pad_id=3)
    found = scorer(pack, role="teacher", entropy=True)
    assert expected.logps_N.std() > 0.5
    assert (found.logps_N - expected.logps_N).abs().max() <= 1e-5
    assert (found.entropy_N - expected.entropy_N).abs().max() <= 1e-5
    torch.testing.assert_close(pack.to_rows(found.logps_N), collate(texts).to_rows(expected.logps_N), rtol=0, atol=1e-5)
    states = [scorer(p, role="teacher", hidden_only=True).hidden_ND for p in (pack, collate(texts))]
    assert (states[0] - states[1]).abs().max() <= 1e-4


@pytest.mark.parametrize("layout", ["packed", "shared"])
def test_a_neighbour_moves_nothing_in_any_layout(layout: Any) -> None:
    scorer, texts = Scorer(tiny()), families()
    alone = [scorer(collate([text], layout=layout), role="teacher").logps_N for text in texts]
    together = scorer(collate(texts, layout=layout), role="teacher").logps_N
    assert (together - torch.cat(alone)).abs().max() <= 1e-5


def test_a_prompt_goes_through_once_however_many_completions_follow() -> None:
    model, seen = tiny(), []
    model.model.layers[0].register_forward_hook(lambda _, args, __: seen.append(args[0].shape[:2].numel()))
    prompt = tuple(range(1, 41))
    texts = [Row(prompt, (50 + i, 60 + i, 70 + i)) for i in range(6)]
    scorer = Scorer(model)
    scorer(collate(texts, layout="shared"), role="teacher")
    assert seen == [39, 6 * 3]  # its last token begins each row
    seen.clear()
    scorer(collate(texts), role="teacher")
    assert seen == [6 * 43]


def test_prompts_are_held_once_and_not_once_a_row() -> None:
    from sgsd.scorer.module import prefix_cache

    model, texts = tiny(), families(groups=1, group=5)
    pack = collate([text for text in texts if len(text.prompt_ids) > 1], layout="shared")
    assert pack.prefixes is not None
    with torch.no_grad():
        cache = prefix_cache(model, pack.prefixes)
        before = [layer.keys.shape for layer in cache.layers]
        keys, _ = cache.update(torch.ones(5, 1, 2, 16), torch.ones(5, 1, 2, 16), 0)
    assert keys.shape == (5, 1, 4 + 2, 16)
    assert [layer.keys.shape for layer in cache.layers] == before == [(1, 1, 4, 16)] * 2


def test_sharing_heeds_the_teacher_s_adapter() -> None:
    base, texts = tiny().eval(), families()
    scorer = Scorer(lora(base), teacher_weights="base")
    expected = scorer(collate(texts), role="teacher").logps_N
    found = scorer(collate(texts, layout="shared"), role="teacher").logps_N
    assert (found - expected).abs().max() <= 1e-5
    live = Scorer(scorer.model)(collate(texts, layout="shared"), role="teacher").logps_N
    assert (live - found).abs().max() > 0.01


def test_windows_and_recurrent_states_are_not_shared() -> None:
    assert Scorer(tiny()).shares_prefixes
    windowed = tiny(use_sliding_window=True, sliding_window=4, max_window_layers=0)
    assert not Scorer(windowed).shares_prefixes


@pytest.fixture
def varlen() -> list[dict[str, Any]]:
    """Attention by the kernels' arguments alone, text by text, under a name of its own; collects those arguments."""
    calls: list[dict[str, Any]] = []

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **told: Any) -> Any:
        calls.append(told)
        groups = query.shape[1] // key.shape[1]
        edges = told["cu_seq_lens_q"].tolist()
        parts = [
            torch.nn.functional.scaled_dot_product_attention(
                query[:, :, a:b],
                key[:, :, a:b].repeat_interleave(groups, 1),
                value[:, :, a:b].repeat_interleave(groups, 1),
                is_causal=True,
                scale=scaling,
            )
            for a, b in pairwise(edges)
        ]
        return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None

    AttentionInterface.register("varlen_spy", attend)
    return calls


def test_kernels_of_variable_length_are_told_where_texts_lie(varlen: list[dict[str, Any]]) -> None:
    model, texts = tiny(), families()
    expected = Scorer(model)(collate(texts), role="teacher").logps_N
    model.set_attn_implementation("varlen_spy")
    found = Scorer(model)(collate(texts, layout="packed"), role="teacher").logps_N
    assert (found - expected).abs().max() <= 1e-5
    lengths = list(map(len, texts))
    for told in varlen:
        assert told["cu_seq_lens_q"].dtype == torch.int32
        assert told["cu_seq_lens_q"].diff().tolist() == told["cu_seq_lens_k"].diff().tolist() == lengths
        assert told["max_length_q"] == told["max_length_k"] == max(lengths)
    assert len(varlen) == 2  # layers


TEXTS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=30)


@given(TEXTS, st.integers(1, 300), st.sampled_from(["rows", "packed", "shared"]))
def test_plans_hold_every_text_once_within_the_budget(sizes: Any, budget: int, layout: Any) -> None:
    texts = [Row((which,) * prompt, (0,) * completion) for which, prompt, completion in sizes]
    plan = plan_layout(texts, budget, layout)
    assert sorted(i for some in plan for i in some) == list(range(len(texts)))
    for some in (s for s in plan if len(s) > 1):
        pack = collate([texts[i] for i in some], layout=layout)
        held = pack.input_ids_RL.numel()
        if pack.prefixes is not None:  # what the rows see of their prompts counts, and a prefix is a token short
            held = pack.prefixes.mask_RL.numel()
        assert held <= budget
    if layout == "rows":
        assert plan == plan_microbatches([len(text) for text in texts], budget)


def test_a_shared_plan_keeps_completions_of_a_prompt_together() -> None:
    texts = families(groups=4, group=3)[:-1]
    for some in plan_layout(texts, 3 * (17 + 60), "shared"):
        prompts = [texts[i].prompt_ids for i in some]
        assert len(dict.fromkeys(prompts)) <= -(-len(prompts) // 3) + 1
    (whole,) = plan_layout(texts, 10_000, "shared")
    in_order = [texts[i].prompt_ids for i in whole]
    assert [p for i, p in enumerate(in_order) if i == 0 or in_order[i - 1] != p] == list(dict.fromkeys(in_order))


def test_the_layout_is_a_matter_of_the_run_and_not_of_its_rows() -> None:
    assert teacher_layout(group=1, attention="sdpa", device="cuda", shares=True) == "rows"
    assert teacher_layout(group=8, attention="sdpa", device="cpu", shares=True) == "shared"
    assert teacher_layout(group=8, attention="sdpa", device="cpu", shares=False) == "rows"
    assert teacher_layout(group=1, attention="flash_attention_2", device="cuda", shares=True) == "packed"
    assert teacher_layout(group=1, attention="flash_attention_2", device="cpu", shares=True) == "rows"


class Waits(TorchDispatchMode):
    """Collects the operations after which a host must wait for its device, where our own code asks for them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_", "_unsafe_index_put") and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in args[1]
        )
        if by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", ["rows", "packed", "shared"])
def test_scoring_a_pass_never_waits_for_the_device(layout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sgsd.scorer import head

    scorer = Scorer(lora(tiny()))
    pack = collate(families(), layout=layout)
    monkeypatch.setattr(head, "_check", lambda *_: None)  # looks at the targets on a CPU only
    # The model's own mask code asks once a pass whether texts are packed; what is ours is the rest.
    lm = scorer.model.get_base_model().model
    states = lm(input_ids=pack.input_ids_RL).last_hidden_state.detach()
    monkeypatch.setattr(Scorer, "_hidden", staticmethod(lambda lm, pack: states.flatten(0, 1)[pack.predict_N]))
    with Waits() as waits:
        scores = scorer(pack, role="teacher", entropy=True)
        pack.to_rows(scores.logps_N)
    assert waits.found == []
    with Waits() as waits:  # the spy is awake
        float(scores.logps_N[0])
        scores.logps_N[scores.logps_N > 0]
    assert waits.found


def test_rows_keep_their_gradient() -> None:
    pack = collate(families())
    values_N = torch.arange(float(len(pack.targets_N)), requires_grad=True)
    laid_out = pack.to_rows(values_N)
    assert torch.equal(laid_out[pack.completion_BT], values_N)
    assert (laid_out[~pack.completion_BT] == 0).all()
    laid_out.square().sum().backward()
    assert torch.equal(values_N.grad, 2 * values_N.detach())


# Functions that run once a pass: what they ask of a tensor's value, the device has to be waited for.
HOT = {
    "train/step.py": {"__call__", "take_loss", "loss_inputs", "score_student", "choose", "pad_rows"},
    "records/metrics.py": {"add", "_add"},
    "scorer/module.py": {"forward", "_hidden", "_score", "_layout_of", "update", "prefix_cache"},
}
WAITING = {"item", "cpu", "tolist", "numpy", "nonzero", "masked_select", "synchronize"}


@pytest.mark.parametrize("file", HOT)
def test_no_pass_reads_a_tensor_on_the_host(file: str) -> None:
    tree, seen = ast.parse((ROOT / file).read_text(encoding="utf-8")), set()
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name in HOT[file]:
            seen.add(function.name)
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    assert node.func.attr not in WAITING, f"{file}:{node.lineno} waits for the device"
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in ("float", "bool") or _of_plain(node), f"{file}:{node.lineno} may wait"
    assert seen == HOT[file]


def _of_plain(call: ast.Call) -> bool:
    """`bool(indices)` is of a list, and `float(...)` of a verdict's outcome of a number."""
    return isinstance(call.args[0], ast.Name) and call.args[0].id == "indices"
