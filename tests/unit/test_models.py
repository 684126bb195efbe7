"""Models and adapters from folders: what trains, what is refused, and that nothing runs unasked."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import architectures
import peft
import pytest
import torch
from architectures import ARCHITECTURES, ATTENTION, FUSED_EXPERTS, MLP, OTHERS
from safetensors.torch import load_file, save_file
from template_cases import FAMILIES, model, save, tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, dynamic_module_utils

from runs import LORA, run_small, small_config
from sgsd.config.sections import LoraConfig, ModelConfig
from sgsd.methods import build
from sgsd.records.run_files import Records
from sgsd.scorer import Row, Scorer, collate
from sgsd.train import models
from sgsd.train.lora_targets import find_targets
from sgsd.train.models import check_vocabulary, load_model, load_tokenizer, make_scorer
from sgsd.train.resume_run import refuse_changes
from sgsd.types import UserError

TARGETS = ["q_proj", "v_proj"]
OURS = LoraConfig(rank=4, alpha=8, target_modules=TARGETS)


def config(path: Path, **options: Any) -> ModelConfig:
    return ModelConfig(path=str(path), **{"dtype": "float32", **options})


def lora(start: Path, **changes: Any) -> LoraConfig:
    return LoraConfig(**{**OURS.model_dump(), "start": str(start), **changes})


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_loads_trains_and_is_saved(kind: str, adapter: Any, tmp_path: Path) -> None:
    folder = run_small(
        tmp_path / "run",
        model={"path": str(save(kind, tmp_path / "model"))},
        lora=adapter,
        steps=1,
        rollouts=2,
        data={"limit": 8},
        prompts={"max_tokens": 2048},
        sampling={"max_tokens": 8},
        optimizer={"lr": 1e-2},
    )
    (metrics,) = Records(folder).read("metrics")
    assert metrics["rollouts"] == 2
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    if adapter is None:
        after = AutoModelForCausalLM.from_pretrained(folder / "model")
        words = AutoTokenizer.from_pretrained(folder / "model")
        assert words.chat_template == tokenizer(kind).chat_template
        changed = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
        assert any(changed) == (metrics["grad_norm"] > 0)
    else:
        after = peft.PeftModel.from_pretrained(before, folder / "adapter")
        assert after.peft_config["default"].r == LORA["rank"]


# ── Which layers get an adapter ────────────────────────────────────────────────────────────────────────────────────


def adapted(folder: Path) -> set[str]:
    """Full names of the layers that a saved adapter changes; of stacked experts, PEFT keeps the module."""
    weights = load_file(folder / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in weights}


@pytest.mark.parametrize("kind", OTHERS)
def test_architectures_that_do_something_differently_are_covered_too(kind: str) -> None:
    targets = find_targets(architectures.model(kind), ["auto"])
    names = [name.removesuffix(".weight") for name in (*targets.modules, *targets.parameters)]
    assert {name.rpartition(".")[2] for name in names} == architectures.layers(kind)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_architecture_trains_and_its_adapter_covers_attention_and_mlp(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="sgsd")
    words = tokenizer("qwen3")
    ids = {"pad_token_id": words.pad_token_id, "bos_token_id": None, "eos_token_id": words.eos_token_id}
    architectures.model(kind, vocab_size=len(words), **ids).save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    folder = run_small(
        tmp_path / "run",
        model={"path": str(tmp_path / "model"), "attention": "eager" if kind == "gemma-2" else "sdpa"},
        lora=LORA,
        steps=2,
        rollouts=2,
        method={"name": "sgsd", "k": 2, "confidence": 0.0, "teacher": "ema"},
        teacher={"ema_decay": 0.0},
        data={"limit": 8},
        prompts={"max_tokens": 2048},
        sampling={"max_tokens": 8},
        optimizer={"lr": 1e-2},
    )
    metrics = Records(folder).read("metrics")
    assert [m["rollouts"] for m in metrics] == [2, 2]
    assert all(m["grad_norm"] > 0 for m in metrics)
    settings = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    targets = [*settings["target_modules"], *(settings["target_parameters"] or [])]
    assert {name.rpartition(".")[2] for name in targets} == architectures.layers(kind)
    unusual = architectures.layers(kind) != ATTENTION | MLP
    assert unusual == (f"model: {', '.join(sorted(targets))}; check that your engine takes them" in caplog.text)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    blocks = range(base.config.num_hidden_layers)
    for part in ("mlp", "feed_forward"), ("self_attn", "linear_attn"):
        assert all(any(f".{n}.{p}." in name for p in part for name in adapted(folder / "adapter")) for n in blocks)
    # The checkpoint's teacher, made the student after each step, and what an adapter has moved.
    weights = load_file(folder / "checkpoints" / "step-000002" / "weights.safetensors")
    moved = [name for name, value in weights.items() if ".lora_B.default" in name and value.abs().max() > 0]
    assert moved
    for name in moved:
        student, teacher = (float(weights[name.replace("default", who)].abs().sum()) for who in ("default", "teacher"))
        assert teacher == pytest.approx(student, rel=1e-5)
    lora = LoraConfig(**LORA, start=str(folder / "adapter"))
    scorer = make_scorer(base, build("sgsd", teacher="ema"), lora, seed=0)
    for role in ("student", "teacher"):
        saved = peft.PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(tmp_path / "model"), folder / "adapter"
        )
        logits = saved.eval()(torch.tensor([[1, 2, 3, 4, 5, 6]])).logits.log_softmax(-1)[0, 2:5]
        expected = logits.gather(-1, torch.tensor([[4], [5], [6]]))[:, 0]
        assert (logps(scorer, role) - expected).abs().max() <= 1e-5


def test_a_model_without_the_configured_attention_says_what_to_set(tmp_path: Path) -> None:
    architectures.model("gemma-2").save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"^model\.attention: .*Gemma2ForCausalLM .* sdpa; set eager$"):
        load_model(config(tmp_path))
    load_model(config(tmp_path, attention="eager"))


def chosen(kind: str, *wanted: str) -> set[str]:
    """Last names of the layers that these entries of `lora.target_modules` choose."""
    targets = find_targets(architectures.model(kind), wanted)
    return {*targets.modules, *targets.parameters}


@pytest.mark.parametrize(
    ("kind", "wanted", "names"),
    [
        ("llama", ["all-linear"], ATTENTION | MLP),
        ("llama", ["all-linear", "embed_tokens"], ATTENTION | MLP | {"embed_tokens"}),
        ("llama", ["self_attn.q_proj"], {"q_proj"}),
        ("llama", [r".*\.layers\.1\.mlp\..*"], {f"1.mlp.{name}" for name in MLP}),
        ("llama", [r".*\.(q|v)_proj"], {"q_proj", "v_proj"}),
        ("llama", ["layers.0.mlp.up_proj", "k_proj"], {"0.mlp.up_proj", "k_proj"}),
        ("qwen3-moe", ["experts.down_proj"], {"down_proj"}),
        ("qwen3-moe", [r".*experts\..*"], FUSED_EXPERTS),
        ("qwen3-next", ["all-linear"], chosen_next := {
            *("k_proj", "o_proj", "q_proj", "v_proj", "in_proj_qkvz", "in_proj_ba", "out_proj", "shared_expert_gate"),
            *("down_proj", "gate_up_proj", "gate_proj.weight", "up_proj.weight", "down_proj.weight"),
        }),
        ("qwen3-next", ["auto"], chosen_next - {"shared_expert_gate"}),
        ("phi-3", ["qkv_proj"], {"qkv_proj"}),
        ("falcon-h1", ["all-linear"], ATTENTION | MLP | {"in_proj"}),
    ],
)  # fmt: skip
def test_names_patterns_and_all_linear_choose_layers(kind: str, wanted: list[str], names: set[str]) -> None:
    assert chosen(kind, *wanted) == names


@pytest.mark.parametrize(
    ("kind", "wanted", "said"),
    [
        ("llama", ["q_proj", "vproj"], r"vproj matches no layer \(nearest: v_proj, .*this llama model has q_proj, "),
        ("llama", ["Q_PROJ"], r"Q_PROJ matches no layer \(nearest: q_proj"),
        ("llama", ["query_key_value"], r"query_key_value matches no layer; this llama model has q_proj, k_proj"),
        ("llama", ["self_attn"], r"self_attn can have no adapter, it is a LlamaAttention which takes none"),
        ("llama", ["q_proj", "norm"], r"norm can have no adapter, it is a LlamaRMSNorm"),
        ("llama", ["layers.7.mlp.up_proj"], r"layers\.7\.mlp\.up_proj matches no layer \(nearest: up_proj"),
        ("llama", [r".*\.qproj"], r"\.\*\\\.qproj matches no layer"),
        ("llama", ["(q_proj"], r"\(q_proj is no regular expression: missing \)"),
        ("phi-3", sorted(ATTENTION | MLP), r"gate_proj matches no layer \(nearest: gate_up_proj.*q_proj matches no"
            r" layer \(nearest: qkv_proj.*v_proj matches no layer \(nearest: qkv_proj.*this phi3 model has .*; auto "),
        ("glm-4", ["up_proj"], r"up_proj matches no layer \(nearest: gate_up_proj"),
        ("qwen3.5", ["q_proj", "conv1d"], r"conv1d can have no adapter, it is a Conv1d which takes none"),
        ("falcon-h1", ["out_proj"], r"out_proj can have no adapter, it is a Linear whose weight a kernel reads past"),
        ("mixtral", ["w1"], r"w1 without also targeting w3"),
        ("qwen3-moe", ["w1"], r"w1 matches no layer"),
    ],
)  # fmt: skip
def test_a_target_that_matches_nothing_is_an_error_that_names_the_nearest(
    kind: str, wanted: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=rf"^lora\.target_modules: .*{said}") as refused:
        make_scorer(
            architectures.model(kind), build("grpo"), LoraConfig(rank=4, alpha=8, target_modules=wanted), seed=0
        )
    assert "\n" not in str(refused.value)


def test_the_layers_of_a_module_beside_the_decoder_s_blocks_are_left_alone() -> None:
    lm = architectures.model("llama")
    lm.tower = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(8, 8), "patch": torch.nn.Linear(8, 8)})
    targets = find_targets(lm, ["auto"])
    assert {*targets.modules} >= {"self_attn.q_proj", "k_proj"}
    assert not {"q_proj", "patch", "tower.q_proj"} & {*targets.modules}
    assert "patch" in find_targets(lm, ["all-linear"]).modules


def test_a_run_begun_with_the_former_default_goes_on_with_the_new_one(tmp_path: Path) -> None:
    saved = small_config(tmp_path, lora={**LORA, "target_modules": sorted(ATTENTION | MLP)}).model_dump(mode="json")
    refuse_changes(saved, small_config(tmp_path, lora=LORA), "x")
    with pytest.raises(UserError, match=r"lora\.rank: 4 → 8"):
        refuse_changes(saved, small_config(tmp_path, lora={**LORA, "rank": 8}), "x")
    lm, former = architectures.model("llama"), find_targets(architectures.model("llama"), sorted(ATTENTION | MLP))
    assert find_targets(lm, ["auto"]) == former


def test_experts_take_no_dropout() -> None:
    lora = LoraConfig(rank=4, alpha=8, dropout=0.1)
    with pytest.raises(UserError, match=r"lora\.dropout: PEFT has none for down_proj, gate_up_proj.*set 0"):
        make_scorer(architectures.model("mixtral"), build("grpo"), lora, seed=0)


def test_one_name_may_stand_for_a_list_and_an_empty_list_for_nothing() -> None:
    assert LoraConfig.model_validate({"target_modules": "all-linear"}).target_modules == ["all-linear"]
    assert LoraConfig().target_modules == ["auto"]
    with pytest.raises(ValueError, match="at least 1 item"):
        LoraConfig(target_modules=[])


@pytest.mark.parametrize("kind", ["qwen3-moe", "qwen3-next", "gpt-oss"])
def test_training_goes_on_from_an_adapter_on_experts(kind: str, tmp_path: Path) -> None:
    first = make_scorer(architectures.model(kind), build("grpo"), LoraConfig(rank=4, alpha=8), seed=0)
    architectures.wander(first)
    first.model.save_pretrained(tmp_path, selected_adapters=["default"])
    again = make_scorer(
        architectures.model(kind),
        build("sgsd", teacher="ema"),
        LoraConfig(rank=4, alpha=8, start=str(tmp_path)),
        seed=1,
    )
    for role in ("student", "teacher"):
        assert (logps(again, role) - logps(first, "student")).abs().max() <= 1e-5


# ── Numbers that are none ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name",
    [
        *("model.layers.0.mlp.down_proj.weight", "model.layers.1.self_attn.q_norm.weight", "model.norm.weight"),
        "model.embed_tokens.weight",
    ],
)
def test_a_weight_that_is_no_number_is_named_before_anything_is_sampled(name: str, tmp_path: Path) -> None:
    folder = save("qwen3", tmp_path)
    weights = load_file(folder / "model.safetensors")
    for numbers, places in ((["nan"], 1), (["inf", "-inf", "nan"], 3)):
        weights[name].flatten()[-len(numbers) :] = torch.tensor(list(map(float, numbers)))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        said = (
            rf"^model\.path: {folder}: weight {name} is NaN or infinite in {places} of {weights[name].numel()} places;"
        )
        with pytest.raises(UserError, match=said):
            load_model(config(folder))
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("inf")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"places, and so is 1 other weight;"):
        load_model(config(folder))


def test_an_adapter_that_is_no_number_is_named(tmp_path: Path) -> None:
    start = adapter_folder(tmp_path)
    weights = load_file(start / "adapter_model.safetensors")
    name = next(iter(weights))
    weights[name][0, 0] = float("inf")
    save_file(weights, start / "adapter_model.safetensors")
    with pytest.raises(UserError, match=rf"^lora\.start: {start}: weight {name} is NaN"):
        make_scorer(model("qwen2.5"), build("grpo"), lora(start), seed=0)


# ── Folders that are no models, or would run code ──────────────────────────────────────────────────────────────────


def test_pickled_weights_are_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = save("llama3", tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no weights"):
        load_model(config(folder))
    torch.save(model("llama3").state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickled weights only \(pytorch_model\.bin\).*save_pretrained"):
        load_model(config(folder))
    load_tokenizer(config(folder))  # holds no weights


def adapter_folder(folder: Path, seed: int = 0, **options: Any) -> Path:
    """A saved adapter for the "qwen2.5" model, with weights that do something."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "task_type": "CAUSAL_LM", **options}
    adapted = peft.get_peft_model(model("qwen2.5"), peft.LoraConfig(**settings))
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder)
    return folder


def test_an_adapter_is_not_a_model_and_the_message_says_where_it_goes(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "adapter")
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "my/base"}))
    message = rf"is an adapter, not a model; set model.path to its base \(my/base\) and lora.start to {folder}"
    for load in (load_model, load_tokenizer):
        with pytest.raises(UserError, match=message):
            load(config(folder))
    # Beside a model, transformers would lay the adapter over it without a word.
    with pytest.raises(UserError, match="is an adapter"):
        load_model(config(adapter_folder(save("qwen2.5", tmp_path / "both"))))


def test_a_folder_has_no_revisions() -> None:
    with pytest.raises(UserError, match=r"model\.revision: lab is a folder"):
        load_tokenizer(ModelConfig(path="lab", revision="main"))


def test_the_revision_reaches_model_and_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def from_pretrained(path: str, **options: Any) -> Any:
        asked.append({"path": path, **options})
        raise OSError("there is no network in a test")

    hub = ModelConfig(path="some/model", revision="abc123")
    for auto, load in ((models.transformers.AutoModelForCausalLM, load_model), (AutoTokenizer, load_tokenizer)):
        monkeypatch.setattr(auto, "from_pretrained", from_pretrained)
        with pytest.raises(UserError, match="some/model cannot be loaded"):
            load(hub)
    assert [(a["path"], a["revision"], a["trust_remote_code"]) for a in asked] == [("some/model", "abc123", False)] * 2
    assert asked[0]["use_safetensors"] is True


CODE = """from pathlib import Path
from transformers import Qwen3Config, Qwen3ForCausalLM
Path({witness!r}).write_text("the model's own code has run")
class OwnConfig(Qwen3Config):
    model_type = "own"
class OwnModel(Qwen3ForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_a_model_runs_only_when_asked_for_and_then_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, witness = save("qwen3", tmp_path / "model"), tmp_path / "witness"
    (folder / "own_code.py").write_text(CODE.format(witness=str(witness)))
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "own", "architectures": ["OwnModel"]}
    settings["auto_map"] = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnModel"}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"needs code of its own.*read own_code\.py, then set model\.trust_remote_code"):
        load_model(config(folder))
    assert not witness.exists()
    assert not caplog.records
    for _ in range(2):  # said once, however often it is loaded
        load_tokenizer(config(folder, trust_remote_code=True))
        assert type(load_model(config(folder, trust_remote_code=True))).__name__ == "OwnModel"
    assert witness.exists()
    (record,) = [record for record in caplog.records if record.name == "sgsd"]
    assert record.levelno == logging.WARNING
    assert f"code from {folder} (revision: as it is) runs with all your rights" in record.getMessage()


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused() -> None:
    words = tokenizer("qwen3")
    check_vocabulary(model("qwen3"), words)
    words.add_tokens(["one more"])
    with pytest.raises(UserError, match=r"the tokenizer has \d+ tokens, the model \d+; they do not match"):
        check_vocabulary(model("qwen3"), words)


# ── Starting from an adapter ───────────────────────────────────────────────────────────────────────────────────────

PACK = collate([Row((1, 2, 3), (4, 5, 6))])


def logps(scorer: Scorer, role: Any) -> torch.Tensor:
    scorer.eval()
    with torch.no_grad():
        found = scorer(PACK, role=role).logps_N
    assert found is not None
    return found


def test_training_goes_on_from_a_saved_adapter(tmp_path: Path) -> None:
    start = adapter_folder(tmp_path / "a")
    fresh = make_scorer(model("qwen2.5"), build("grpo"), OURS, seed=0)
    scorer = make_scorer(model("qwen2.5"), build("grpo"), lora(start), seed=0)
    saved = peft.PeftModel.from_pretrained(model("qwen2.5"), start).eval()
    expected = saved(torch.tensor([[1, 2, 3, 4, 5, 6]])).logits.log_softmax(-1)[0, 2:5]
    torch.testing.assert_close(logps(scorer, "student"), expected.gather(-1, torch.tensor([[4], [5], [6]]))[:, 0])
    assert (logps(scorer, "student") - logps(fresh, "student")).abs().max() > 0.01
    trained = {name for name, parameter in scorer.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in fresh.named_parameters() if parameter.requires_grad}
    scorer.model.save_pretrained(tmp_path / "b", selected_adapters=["default"])
    before, after = (load_file(tmp_path / name / "adapter_model.safetensors") for name in "ab")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("teacher", ["live", "frozen", "ema", "periodic"])
def test_every_teacher_begins_where_the_student_does(teacher: str, tmp_path: Path) -> None:
    start = adapter_folder(tmp_path / "a")
    scorer = make_scorer(model("qwen2.5"), build("sgsd", teacher=teacher), lora(start), seed=0)
    torch.testing.assert_close(logps(scorer, "teacher"), logps(scorer, "student"), atol=1e-5, rtol=0)
    before = logps(scorer, "teacher")
    with torch.no_grad():
        for name, parameter in scorer.named_parameters():
            if parameter.requires_grad:
                assert ".default." in name
                parameter.mul_(2)
    moved = (logps(scorer, "teacher") - before).abs().max() > 0.01
    assert moved == (teacher == "live")


@pytest.mark.parametrize(
    ("saved", "ours", "message"),
    [
        ({"r": 8}, {}, r"lora\.rank: the adapter .* has 8, the configuration 4"),
        ({"lora_alpha": 16}, {}, r"lora\.alpha: the adapter .* has 16, the configuration 8"),
        (
            {},
            {"target_modules": ["q_proj"]},
            r"lora\.target_modules: .* has \['q_proj', 'v_proj'\], the configuration \['q_proj'\]",
        ),
        ({"use_rslora": True}, {}, r"no plain LoRA adapter \(use_rslora\)"),
        ({"modules_to_save": ["lm_head"]}, {}, r"no plain LoRA adapter \(modules_to_save\)"),
        ({"bias": "lora_only"}, {}, r"no plain LoRA adapter \(LORA, bias lora_only\)"),
    ],
)
def test_another_adapter_than_was_configured_is_refused(
    saved: dict[str, Any], ours: dict[str, Any], message: str, tmp_path: Path
) -> None:
    start = adapter_folder(tmp_path, **saved)
    with pytest.raises(UserError, match=message):
        make_scorer(model("qwen2.5"), build("grpo"), lora(start, **ours), seed=0)


def test_what_is_no_adapter_or_not_this_model_s_is_refused(tmp_path: Path) -> None:
    def refusal() -> str:
        with pytest.raises(UserError) as refused:
            make_scorer(model("qwen2.5"), build("grpo"), lora(tmp_path), seed=0)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    assert "holds no adapter_config.json" in refusal()
    adapter_folder(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    name = next(iter(weights))
    for broken, message in (
        ({**weights, name: weights[name][:, :-1].contiguous()}, "does not fit"),
        ({key: value for key, value in weights.items() if key != name}, f"for instance in {name[:-7]}"),
        ({**weights, name.replace("layers.0", "layers.9"): weights[name].clone()}, "for instance in"),
    ):
        save_file(broken, tmp_path / "adapter_model.safetensors")
        assert message in refusal()
    (tmp_path / "adapter_model.safetensors").write_bytes(b"torn")
    assert "does not fit" in refusal()
    (tmp_path / "adapter_config.json").write_text("{")
    assert "cannot be read as JSON" in refusal()
    (tmp_path / "adapter_model.safetensors").unlink()
    assert "holds no weights" in refusal()
    torch.save(weights, tmp_path / "adapter_model.bin")
    assert "pickled weights only (adapter_model.bin)" in refusal()
