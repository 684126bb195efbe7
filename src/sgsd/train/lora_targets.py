"""The layers of a model that get an adapter, found in the model itself; a name that stands for nothing is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import peft
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from sgsd.hub.model_card import VLLM_TARGETS
from sgsd.notices import note
from sgsd.types import UserError

AUTO, ALL_LINEAR = "auto", "all-linear"
LINEAR = (nn.Linear, Conv1D)

#: They choose between experts; all-linear takes them where they are linear layers, auto leaves them as they are.
GATES = {"gate", "router", "shared_expert_gate"}


@dataclass(frozen=True)
class Targets:
    """PEFT's two lists: modules, and parameters that are stacks of matrices and no module's weight."""

    modules: list[str]
    parameters: list[str]


@dataclass(frozen=True)
class Layers:
    """The layers of a model that PEFT can put an adapter on, by full names."""

    lm: Any
    linear: list[str]  # but the head
    others: list[str]  # embeddings and the head
    stacks: list[str]  # [experts, out, in], or [experts, in, out]

    @classmethod
    def of(cls, lm: Any) -> Layers:
        modules, head = dict(lm.named_modules()), lm.get_output_embeddings()
        by_kernel = {f"{name}.{child}" for name, module in modules.items() for child in _weights_of_a_kernel(module)}
        stacks = [
            f"{name}.{parameter}"
            for name, module in modules.items()
            if not isinstance(module, nn.modules.conv._ConvNd)
            for parameter, value in module.named_parameters(recurse=False)
            if value.dim() == 3
        ]
        linear = [name for name, module in modules.items() if isinstance(module, LINEAR) and module is not head]
        others = [name for name, module in modules.items() if isinstance(module, nn.Embedding) or module is head]
        return cls(lm, [name for name in linear if name not in by_kernel], others, stacks)

    @property
    def names(self) -> list[str]:
        return [*self.linear, *self.stacks, *self.others]

    def matching(self, wanted: str) -> set[str]:
        """The full names that one entry of `lora.target_modules` stands for."""
        if wanted == ALL_LINEAR:
            return {*self.linear, *self.stacks}
        if wanted == AUTO:
            blocks = tuple(_blocks(self.lm)) or ("",)
            return {n for n in self.matching(ALL_LINEAR) if n.startswith(blocks) and _leaf(n) not in GATES}
        if is_pattern(wanted):
            try:
                return {name for name in self.names if re.fullmatch(wanted, name)}
            except re.error as error:
                raise UserError(f"lora.target_modules: {wanted} is no regular expression: {error}") from error
        return {name for name in self.names if name == wanted or name.endswith(f".{wanted}")}


def find_targets(lm: Any, wanted: Sequence[str]) -> Targets:
    """PEFT's names of the layers that `wanted` (`lora.target_modules`) stands for.

    Raises UserError: an entry matches no layer; it names the nearest that there are.
    """
    layers, renamed = Layers.of(lm), _renamed_by_peft(lm)
    found = {entry: layers.matching(entry) for entry in wanted}
    # Layers of single experts, as they were called before experts were stacked: PEFT knows what they are now.
    names = [entry for entry in wanted if entry not in (AUTO, ALL_LINEAR) and not is_pattern(entry)]
    old = [name for name in names if renamed(_leaf(name)) and not found[name] & {*layers.stacks}]
    if missing := [entry for entry in wanted if not found[entry] and entry not in old]:
        raise UserError(f"lora.target_modules: {_nothing(missing, layers)}")
    chosen = set[str]().union(*found.values())
    # PEFT would take some names for those of experts, and leave the layers that have them without an adapter.
    modules = {name for name in chosen if name not in layers.stacks}
    misread = {name for name in modules if renamed(_leaf(name))}
    parameters = {name for name, _ in lm.named_parameters()}
    stacks = {name for name in chosen if name in layers.stacks} | {f"{name}.weight" for name in misread}
    return Targets(
        sorted({*_shortest(modules - misread, [name for name, _ in lm.named_modules()]), *old}),
        sorted({*_shortest(stacks, parameters)}),
    )


def is_pattern(wanted: str) -> bool:
    return re.fullmatch(r"[\w.-]+", wanted) is None


def check_adapted(adapted: Any, wanted: Sequence[str]) -> None:
    """Raises UserError where PEFT has left a layer without an adapter that was to have one."""
    lm = adapted.get_base_model()
    have = {*adapted.base_model.targeted_module_names, *adapted.base_model.targeted_parameter_names}
    for entry in adapted_layers(adapted):
        if not any(name == entry or name.endswith(f".{entry}") for name in have):
            raise UserError(
                f"lora.target_modules: {', '.join(wanted)}: PEFT {peft.__version__} finds no {entry} in this"
                f" {lm.config.model_type} model; leave it out"
            )


def adapted_layers(adapted: Any) -> list[str]:
    """PEFT's names of the layers that have an adapter, in order."""
    config = adapted.peft_config["default"]
    return sorted([*config.target_modules, *(config.target_parameters or ())])


def tell_layers(adapted: Any, wanted: Sequence[str]) -> None:
    """Say what `auto` stands for in a model whose layers have other names than most."""
    layers = adapted_layers(adapted)
    if [*wanted] == [AUTO] and not {*layers} <= VLLM_TARGETS:
        kind = adapted.get_base_model().config.model_type
        note(f"lora.target_modules: auto, in this {kind} model: {', '.join(layers)}; check that your engine takes them")


def _nothing(missing: Sequence[str], layers: Layers) -> str:
    """The kind of each of these names, or its nearest neighbour."""
    leaves = list(dict.fromkeys(map(_leaf, layers.names)))
    said = []
    for entry in missing:
        name = _leaf(entry).lower()
        fused = [leaf for leaf in leaves if _holds(leaf, name)]
        near = list(dict.fromkeys([*fused, *get_close_matches(name, leaves, n=3, cutoff=0.5)]))[:3]
        there = [m for name, m in layers.lm.named_modules() if name == entry or name.endswith(f".{entry}")]
        what = f"{entry} matches no layer"
        if there:
            why = "whose weight a kernel reads past it" if isinstance(there[0], LINEAR) else "which takes none"
            what = f"{entry} can have no adapter, it is a {type(there[0]).__name__} {why}"
        said.append(what + (f" (nearest: {', '.join(near)})" if near else ""))
    has = f"this {layers.lm.config.model_type} model has {', '.join(leaves)}"
    return f"{'; '.join(said)}; {has}; auto takes attention and MLP"


def _holds(leaf: str, name: str) -> bool:
    """True where a layer may be the named one fused with others: gate_up_proj for up_proj, qkv_proj for v_proj."""
    return all(any(part in own for own in leaf.split("_")) for part in name.split("_"))


def _renamed_by_peft(lm: Any) -> Callable[[str], bool]:
    """Returns a test of a layer's name: PEFT takes it for that of the same layer of each expert, stacked by now."""
    answers: dict[str, bool] = {}

    def renamed(leaf: str) -> bool:
        if leaf not in answers:
            alone = peft.LoraConfig(target_modules=[leaf])
            try:
                convert_peft_config_for_transformers(alone, model=lm, conversions=None)
                answers[leaf] = leaf not in alone.target_modules
            except ValueError:  # it asks for the other half of a fused pair
                answers[leaf] = True
        return answers[leaf]

    return renamed


def _shortest(chosen: Collection[str], everything: Collection[str]) -> Iterator[str]:
    """For each name the shortest ending that no other name has, as PEFT matches them."""
    known: dict[str, bool] = {}
    for name in chosen:
        parts = name.split(".")
        for start in reversed(range(len(parts))):
            ending = ".".join(parts[start:])
            if ending not in known:
                known[ending] = all(n in chosen for n in everything if n == ending or n.endswith(f".{ending}"))
            if known[ending]:
                yield ending
                break


def _blocks(lm: Any) -> Iterator[str]:
    """Beginnings of the names of all that lies in the decoder's repeated blocks."""
    decoder = lm.get_decoder()
    names = {id(module): name for name, module in lm.named_modules()}
    for child in decoder.children():
        if isinstance(child, nn.ModuleList) and len(child) == lm.config.get_text_config().num_hidden_layers:
            yield f"{names[id(child)]}."


def _weights_of_a_kernel(module: nn.Module) -> Iterator[str]:
    """Layers of a selective scan whose weights its kernels take, past the layers and so past an adapter on them."""
    if {"A_log", "D"} <= module._parameters.keys():
        yield from (name for name, _ in module.named_children() if name != "in_proj")


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
