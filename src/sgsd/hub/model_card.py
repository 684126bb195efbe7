"""The model card: what was trained, with what, what came out, how to load it, and what nobody knows about it.

Made from `config.yaml` and `summary.json` alone, so that the card of a finished run and the one that is pushed are the
same. Every text of the run stands in a code span, where neither Markdown nor HTML is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
from huggingface_hub import ModelCardData

from sgsd.hub.public import cached_hub_model, is_hub_name, public_config, public_name
from sgsd.methods.registry import RECIPES, build

#: The values vLLM's `max_lora_rank` can take; an adapter needs one that is not below its own rank.
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
#: The layers that vLLM takes adapters for in every dense decoder we know of.
VLLM_TARGETS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


class Markdown(str):
    """Text of our own, to be read as Markdown."""

    __slots__ = ()


@dataclass(frozen=True)
class Base:
    """The model that was trained further: a hub name with its commit, or the name of a local folder."""

    name: str
    revision: str | None
    on_hub: bool


def base_model(path: str, weights: str) -> Base:
    """The origin of the base model, by `model.path` and the run's hash of its weights."""
    if weights.startswith("hub:"):
        name, _, commit = weights.removeprefix("hub:").rpartition("@")
        return Base(name, None if commit == "None" else commit, on_hub=True)
    if cached := cached_hub_model(path):
        return Base(*cached, on_hub=True)
    return Base(path.rstrip("/").rpartition("/")[2] or path, None, on_hub=False)


def vllm_rank(rank: int) -> int | None:
    """The smallest `max_lora_rank` of vLLM that holds this rank; None where there is none."""
    return next((allowed for allowed in VLLM_RANKS if allowed >= rank), None)


def vllm_remarks(lora: Mapping[str, Any] | None) -> list[str]:
    """vLLM's objections to an adapter with these settings."""
    if lora is None:
        return []
    remarks = []
    rank, room = lora["rank"], vllm_rank(lora["rank"])
    if room is None:
        remarks.append(f"lora.rank: vLLM loads adapters up to rank {VLLM_RANKS[-1]}; this one has {rank}")
    elif room != rank:
        remarks.append(f"lora.rank: {rank} is none of vLLM's sizes; it needs max_lora_rank={room} and their memory")
    if odd := sorted({*lora["target_modules"]} - VLLM_TARGETS - {"auto"}):  # what that is, only the model says
        remarks.append(f"lora.target_modules: whether vLLM takes {', '.join(odd)} depends on the model and its version")
    return remarks


def render_card(
    config: Mapping[str, Any],
    result: Mapping[str, Any],
    hashes: Mapping[str, str],
    *,
    repo: str | None = None,
    bank_beside: bool = False,
) -> str:
    """README.md of an adapter or a model.

    Args:
        config: The run's configuration.
        result: The run's summary.
        hashes: SHA-256 of each weight file.
        repo: Where the card will stand on the hub; a folder to be filled in where it is not known.
        bank_beside: Whether the bank lies beside the weights as bank.json.
    """
    base = base_model(config["model"]["path"], str(result.get("model_sha256")))
    shown = public_config(config)
    lora = shown.get("lora")
    return (
        _environment()
        .get_template("card.md.j2")
        .render(
            front=Markdown(front_matter(config, base)),
            adapter=lora is not None,
            base=base,
            config=shown,
            lora=lora,
            result=result,
            options=", ".join(f"{k}={v}" for k, v in shown["method"].items() if k != "name" and v is not None),
            paper=_paper(config["method"]),
            trained=_trained(result),
            table=_table(result),
            held_out=public_name(config["evaluation"]["data"]["path"]) if config["evaluation"]["data"] else None,
            prompts=Markdown(_prompts(config["evaluation"].get("skills", 0))),
            hashes=hashes,
            bank_beside=bank_beside,
            base_code=Markdown(_base_code(base)),
            place=Markdown(json.dumps(repo or f"path/to/{'adapter' if lora else 'model'}")),
            revision=Markdown(f", revision={json.dumps(base.revision)}" if base.revision else ""),
            max_rank=vllm_rank(lora["rank"]) if lora else None,
            unknown=[Markdown(line) for line in unknowns(config, result, base)],
        )
    )


def front_matter(config: Mapping[str, Any], base: Base) -> str:
    """The card's metadata in the hub's format; the licence is the user's to choose."""
    adapter, method = config.get("lora") is not None, config["method"]["name"]
    data = config["data"]["path"]
    tags = ["sgsd", "self-distillation", *(["lora"] if adapter else []), *([method] if method in RECIPES else [])]
    return (
        ModelCardData(
            base_model=base.name if base.on_hub else None,
            base_model_relation=("adapter" if adapter else "finetune") if base.on_hub else None,
            library_name="peft" if adapter else "transformers",
            pipeline_tag="text-generation",
            tags=list(dict.fromkeys(tags)),
            datasets=[data] if is_hub_name(data) else None,
        ).to_yaml()
        + "\n"
    )


def unknowns(config: Mapping[str, Any], result: Mapping[str, Any], base: Base) -> list[str]:
    """Questions that this run cannot answer; every line follows from its files. Markdown of our own words only."""
    lines = []
    if not _table(result):
        lines.append("No held-out evaluation was configured: whether the model got better is not known.")
    elif _trained(result):
        lines.append(
            "The intervals are over problems, not over runs: how much another seed changes the result is not known."
        )
        lines.append("No other method was trained beside it here, so what the method itself is worth is not known.")
    lines.append("Whether the base model had seen the problems before is not known.")
    lines.append("The verifier decided what is right; answers that please it for another reason count as right.")
    if not base.on_hub and base.name != "lab":
        lines.append("The base model was a local folder; only its hash says which one.")
    if config["model"].get("trust_remote_code"):
        lines.append("The base model needs code of its own (`trust_remote_code`), which is not part of this folder.")
    if config.get("lora") and set(config["lora"]["target_modules"]) - VLLM_TARGETS:
        lines.append("Whether vLLM takes an adapter for all of these layers depends on the model and its version.")
    lines.append("It was not loaded with vLLM; the snippet follows vLLM's documented interface.")
    return lines


def _prompts(skills: int) -> str:
    if not skills:
        return "plain prompts"
    return f"prompts with up to {skills} {'pair' if skills == 1 else 'pairs'} of the skill bank"


def _trained(result: Mapping[str, Any]) -> bool:
    return result.get("steps") != 0


def _table(result: Mapping[str, Any]) -> Markdown | None:
    """Held-out accuracies with their 95 % intervals, before and after; of a model that was not trained, once."""

    def words(found: Mapping[str, float] | None) -> str:
        return f"{found['accuracy']:.1%} ({found['low']:.1%} to {found['high']:.1%})" if found else "–"

    after = {key: found for key, found in (result.get("after") or {}).items() if isinstance(found, Mapping)}
    if not after:
        return None
    columns = {"before": result.get("before") or {}, "after": after} if _trained(result) else {"accuracy": after}
    rows = [["", *columns], ["---"] * (1 + len(columns))]
    for key in after:
        k = re.fullmatch(r"avg_at_(\d+)", key)
        name = f"avg@{k[1]}: mean over {k[1]} samples a problem" if k else "greedy"
        rows.append([name, *(words(found.get(key)) for found in columns.values())])
    return Markdown("\n".join(f"| {' | '.join(row)} |" for row in rows))


def _paper(method: Mapping[str, Any]) -> Markdown | None:
    if method["name"] not in RECIPES:  # a method of the user's own may not be importable here
        return None
    paper = build(method["name"], **{key: value for key, value in method.items() if key != "name"}).paper
    return Markdown(re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", paper)) if paper else None


def _base_code(base: Base) -> str:
    if base.name == "lab" and not base.on_hub:
        return 'str(importlib.resources.files("sgsd.lab") / "policy")'
    return json.dumps(base.name if base.on_hub else f"path/to/{base.name}")


def code_span(value: Any) -> str:
    """A value as a template prints it: numbers and our own Markdown as they are, other text as a code span."""
    if isinstance(value, (Markdown, int, float)):
        return str(value)
    text = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    return f"`{text.replace('`', chr(39)) or '–'}`"


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("sgsd.hub"),
        undefined=jinja2.StrictUndefined,
        finalize=code_span,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
