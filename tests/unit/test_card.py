"""What a run saves: the layout PEFT and vLLM load, whole or not at all, and a card that is true and harmless."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from architectures import ATTENTION, MLP
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from peft import PeftModel
from rich.console import Console

from runs import small_config
from sgsd.config.sections import ModelConfig
from sgsd.hub.export import save_model, tell_vllm_remarks
from sgsd.hub.model_card import Base, base_model, code_span, render_card, vllm_rank, vllm_remarks
from sgsd.hub.public import public_config, public_name
from sgsd.lab.tiny_policy import POLICY_FOLDER
from sgsd.scorer import TEACHER_ADAPTER
from sgsd.train.models import load_model, make_scorer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HASH = "a" * 64
ACCURACY = {"accuracy": 0.5, "low": 0.4, "high": 0.6}


def configuration(**changes: Any) -> dict[str, Any]:
    lora = {"lora": {"rank": 4, "alpha": 8}, "method": {"name": "sgsd", "k": 2, "teacher": "ema"}}
    return small_config(Path("/home/me/runs/mine"), **{**lora, **changes}).model_dump(mode="json")


def outcome(**changes: Any) -> dict[str, Any]:
    better = {**ACCURACY, "accuracy": 0.55}
    found = {
        "seed": 7,
        "steps": 60,
        "rollouts": 32,
        "problems": 512,
        "before": {"greedy": ACCURACY, "avg_at_4": ACCURACY},
        "after": {"greedy": better, "avg_at_4": better},
        "model": "lab",
        "model_sha256": HASH,
        "bank_version": "b" * 64,
        "versions": {"sgsd": "0.1.0", "torch": "2.13.0"},
        "command": "sgsd train /home/me/secret.yaml",
    }
    return {**found, **changes}


EVALUATION = {"evaluation": {"data": {"path": "lab:held-out"}}}


def trained(lora: bool = True) -> Any:
    """A model whose adapters, the student's and the teacher's, both say something."""
    config = small_config(Path("x"), **({"lora": {"rank": 4, "alpha": 8}} if lora else {}), method=EMA)
    model = load_model(ModelConfig(path="lab", dtype="float32"))
    scorer = make_scorer(model, config.build_method(), config.lora, 0)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in scorer.model.named_parameters():
            if "lora_" in name or not lora:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return scorer.model


EMA = {"name": "sgsd", "k": 2, "teacher": "ema"}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(5, 45)[None]).logits


# ── The layout ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_peft_loads_the_adapter_back_to_the_bit(tmp_path: Path, lab_tokenizer: Any) -> None:
    model = trained()
    assert TEACHER_ADAPTER in model.peft_config
    folder = save_model(model, lab_tokenizer, tmp_path, configuration(), outcome())
    base = load_model(ModelConfig(path="lab", dtype="float32"))
    plain = logits(base)
    loaded = PeftModel.from_pretrained(base, folder)
    assert list(loaded.peft_config) == ["default"]
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.allclose(logits(loaded), plain, atol=1e-3)


def test_the_layout_is_what_vllm_reads(tmp_path: Path, lab_tokenizer: Any) -> None:
    from safetensors import safe_open

    folder = save_model(trained(), lab_tokenizer, tmp_path, configuration(), outcome())
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["bias"], settings["peft_type"]) == (4, 8, "none", "LORA")
    assert settings["modules_to_save"] is None
    assert not any(settings[name] for name in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern"))
    assert settings["target_modules"] == sorted(ATTENTION | MLP)
    listed = ", ".join(settings["target_modules"])
    assert f"on `{listed}`" in (folder / "README.md").read_text(encoding="utf-8")
    pattern = r"base_model\.model\.model\.layers\.\d+\.(self_attn|mlp)\.(\w+)\.lora_[AB]\.weight"
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        names = [re.fullmatch(pattern, key) for key in file.keys()]  # noqa: SIM118 - not a mapping
        assert all(names)
        assert {found[2] for found in names if found} == set(settings["target_modules"])


@pytest.mark.parametrize(
    ("path", "weights", "base"),
    [
        ("Qwen/Qwen3-1.7B", f"hub:Qwen/Qwen3-1.7B@{COMMIT}", Base("Qwen/Qwen3-1.7B", COMMIT, True)),
        ("gpt2", "hub:gpt2@None", Base("gpt2", None, True)),
        (f"/c/hub/models--Qwen--Qwen3-1.7B/snapshots/{COMMIT}", HASH, Base("Qwen/Qwen3-1.7B", COMMIT, True)),
        ("/home/me/my-model/", HASH, Base("my-model", None, False)),
        ("lab", HASH, Base("lab", None, False)),
    ],
)
def test_the_base_model_has_a_name_that_means_something_elsewhere(
    path: str, weights: str, base: Base, tmp_path: Path, lab_tokenizer: Any
) -> None:
    assert base_model(path, weights) == base
    config = configuration(model={"path": path, "dtype": "float32"})
    folder = save_model(trained(), lab_tokenizer, tmp_path, config, outcome(model_sha256=weights))
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == (base.name, base.revision)


def test_a_full_model_loads_back_with_all_that_belongs_to_it(tmp_path: Path, lab_tokenizer: Any) -> None:
    model = trained(lora=False)
    folder = save_model(model, lab_tokenizer, tmp_path, configuration(lora=None), outcome())
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {
        file.name for file in folder.iterdir()
    }
    assert torch.equal(logits(load_model(ModelConfig(path=str(folder), dtype="float32"))), logits(model))


def killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_killed_save_leaves_the_old_one(tmp_path: Path, lab_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_model(trained(), lab_tokenizer, tmp_path, configuration(), outcome())
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with monkeypatch.context() as broken:
        broken.setattr(type(lab_tokenizer), "save_pretrained", killed)
        with pytest.raises(KeyboardInterrupt):
            save_model(trained(), lab_tokenizer, tmp_path, configuration(), outcome(seed=8))
        with pytest.raises(KeyboardInterrupt):
            save_model(trained(), lab_tokenizer, tmp_path / "new", configuration(), outcome())
    assert not (tmp_path / "new" / "adapter").exists()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    folder.rename(tmp_path / ".adapter.old")  # killed between the two renames, and again in the next save
    with monkeypatch.context() as broken:
        broken.setattr(type(lab_tokenizer), "save_pretrained", killed)
        with pytest.raises(KeyboardInterrupt):
            save_model(trained(), lab_tokenizer, tmp_path, configuration(), outcome(seed=8))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    save_model(trained(), lab_tokenizer, tmp_path, configuration(), outcome(seed=8))
    assert "seed 8" in (folder / "README.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "new"}


def test_vllm_sizes() -> None:
    assert [vllm_rank(rank) for rank in (1, 4, 64, 300, 512, 513)] == [1, 8, 64, 320, 512, None]
    lora = configuration()["lora"]
    assert vllm_remarks({**lora, "rank": 64}) == vllm_remarks(None) == []
    assert "max_lora_rank=16" in vllm_remarks({**lora, "rank": 12})[0]
    assert "up to rank 512" in vllm_remarks({**lora, "rank": 1024})[0]
    assert "embed_tokens" in vllm_remarks({**lora, "rank": 8, "target_modules": ["q_proj", "embed_tokens"]})[0]
    told = io.StringIO()
    tell_vllm_remarks(small_config(Path("x"), lora={"rank": 12, "alpha": 8}), Console(file=told, width=200))
    assert "needs max_lora_rank=16" in told.getvalue()


# ── The card ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_card_says_what_the_run_found() -> None:
    hub = {"model": {"path": "Qwen/Qwen3-1.7B", "dtype": "float32"}, "data": {"path": "owner/problems"}}
    card = render_card(configuration(**hub, **EVALUATION), outcome(model_sha256=f"hub:Qwen/Qwen3-1.7B@{COMMIT}"), {})
    data = ModelCard(card).data.to_dict()
    assert data["base_model"] == "Qwen/Qwen3-1.7B"
    assert (data["base_model_relation"], data["library_name"]) == ("adapter", "peft")
    assert (data["datasets"], data["tags"]) == (["owner/problems"], ["sgsd", "self-distillation", "lora"])
    assert "license" not in data
    assert "512 problems of `lab:held-out`" in card
    assert "| avg@4: mean over 4 samples a problem | 50.0% (40.0% to 60.0%) | 55.0% (40.0% to 60.0%) |" in card
    assert "60 steps of 32 rollouts" in card
    assert "https://arxiv.org/abs/2605.28791" in card
    assert f'"Qwen/Qwen3-1.7B", revision="{COMMIT}"' in card
    assert "how much another seed changes the result is not known" in card


def test_a_run_without_an_evaluation_says_that_nothing_is_known() -> None:
    started = {"lora": {"rank": 4, "alpha": 8, "start": "/home/me/first-adapter"}}
    card = render_card(configuration(**started), outcome(before=None, after=None, problems=0), {})
    assert "started from the adapter `first-adapter`" in card
    assert "whether the model got better is not known" in card
    assert "%" not in card.split("## Training")[0]


def test_the_card_says_what_the_held_out_prompts_show() -> None:
    assert "512 problems of `lab:held-out`, plain prompts, 95 %" in render_card(
        configuration(**EVALUATION), outcome(), {}
    )
    shown = {"evaluation": {**EVALUATION["evaluation"], "skills": 8}}
    card = render_card(configuration(**shown), outcome(), {})
    assert "512 problems of `lab:held-out`, prompts with up to 8 pairs of the skill bank, 95 %" in card
    assert "plain" not in card


def test_a_model_that_was_not_trained_has_one_measurement() -> None:
    found = {"greedy": ACCURACY, "avg_at_4": ACCURACY}
    card = render_card(configuration(**EVALUATION), outcome(steps=0, before=found, after=found), {})
    assert "|  | accuracy |\n| --- | --- |\n| greedy | 50.0% (40.0% to 60.0%) |\n" in card
    assert "`lab` as it was: `sgsd` measured it and trained nothing." in card
    assert "trained by self-distillation" not in card
    assert "before" not in card.split("## Training")[0]
    assert "how much another seed" not in card
    page = MarkdownIt("commonmark").enable("table").render(card)
    assert page.count("<th>") == 2


def test_the_card_holds_no_local_path_and_no_secret() -> None:
    config = configuration(
        model={"path": "/home/me/models/mine", "dtype": "float32"},
        data={"path": "/home/me/data/problems.jsonl", "limit": None},
        bank={"path": "/home/me/banks/bank.json"},
        prompts={"folder": "/home/me/prompts"},
        verifier={"name": "math", "options": {"token": "hf_" + "x" * 20, "url": "https://me:pass@host/"}},
    )
    card = render_card(config, outcome(model="/home/me/models/mine"), {"adapter_model.safetensors": HASH})
    public = yaml.safe_dump(public_config(config))
    for private in ("/home/me", "hf_xxx", "me:pass", "secret.yaml"):
        assert private not in card
        assert private not in public
    assert "`problems.jsonl`" in card


EVIL = "x</p><script>alert(1)</script> `code` | [a](javascript:b) ![](http://c) \n# heading\n---\x1b[31m"


def test_names_cannot_become_markup() -> None:
    config = configuration(name=EVIL, data={"path": "d.jsonl", "problem": EVIL}, verifier={"name": f"m:{EVIL}"})
    config["method"]["teacher"] = EVIL  # a method of one's own may have options of any text
    config["method"]["name"] = "mine:method"
    card = render_card(config, outcome(versions={EVIL: EVIL}), {EVIL: HASH})
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert "script" not in front
    page = MarkdownIt("commonmark").enable("table").render(body)
    assert "<script" not in page
    assert "javascript:b" not in re.sub(r"<code>.*?</code>", "", page, flags=re.S)
    assert page.count("<h1>") == 1
    assert "\x1b" not in card


@given(st.text())
def test_any_text_is_one_code_span(text: str) -> None:
    span = code_span(text)
    page = MarkdownIt("commonmark").render(f"a {span} b")
    assert re.fullmatch(r"<p>a <code>[^<]*</code> b</p>\n", page), page


@pytest.mark.parametrize("lora", [{"rank": 4, "alpha": 8}, {"rank": 700, "alpha": 8}, None])
@pytest.mark.parametrize("path", ["lab", "/home/me/mine", f"/c/models--a--b/snapshots/{COMMIT}"])
def test_snippets_are_python(path: str, lora: dict[str, int] | None) -> None:
    config = configuration(lora=lora, model={"path": path, "dtype": "float32"})
    card = render_card(config, outcome(), {}, repo='me/"x"')
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.S)
    assert len(blocks) == (1 if lora and lora["rank"] > 512 else 2)
    for block in blocks:
        compile(block, "card", "exec")


def test_the_first_snippet_runs(tmp_path: Path, lab_tokenizer: Any) -> None:
    model = trained()
    folder = save_model(model, lab_tokenizer, tmp_path, configuration(), outcome())
    card = render_card(configuration(), outcome(), {}, repo=str(folder))
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", card, flags=re.S)[0], names)  # noqa: S102 - our own snippet
    assert torch.equal(logits(names["model"].float()), logits(model))
    assert names["tokenizer"].chat_template == lab_tokenizer.chat_template


def test_public_names() -> None:
    keep = ["Qwen/Qwen3-1.7B", "lab", "lab:train", "math", "my_domain:grade", "https://host/path", "", "q_proj"]
    assert [public_name(text) for text in keep] == keep
    cut = {
        "/a/b/c": "c",
        "~/x/y.json": "y.json",
        "../z": "z",
        "data/p.jsonl": "p.jsonl",
        r"C:\me\m": "m",
        "/a b/c": "c",
    }
    assert {text: public_name(text) for text in cut} == cut
    assert public_name(str(POLICY_FOLDER)) == "policy"
    assert public_name(f"/c/models--a--b/snapshots/{COMMIT}") == "a/b"
    assert public_config(
        {"max_tokens": 3, "key_variable": "A", "api_key": "s", "password": None, "a": [{"token": 1}]}
    ) == {
        "max_tokens": 3,
        "key_variable": "A",
        "api_key": "(hidden)",
        "password": None,
        "a": [{"token": "(hidden)"}],
    }
