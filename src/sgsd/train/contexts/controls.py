"""What may stand in the place of a run's pairs: the controls, and the null teacher of a stance by contrast.

All else stays as configured: the template, the reference beside a pair, the thinking mode, what happens to a prompt
that does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from sgsd.bank import Bank, load_bank
from sgsd.contexts import (
    AnyProvider,
    BlockMaker,
    BlockProvider,
    IrrelevantBlocks,
    JoinedBlocks,
    MixedBlocks,
    NullTeacherBlocks,
    OffTopic,
    OfProblems,
    PromptBuilder,
    RolloutProvider,
    ShuffledBlocks,
    SkillPairBlocks,
    no_context,
)
from sgsd.contexts.prompts import BUNDLED
from sgsd.methods import Method
from sgsd.types import Problem

Control = Literal["irrelevant", "shuffled", "null"]
CONTROLS: tuple[Control, ...] = get_args(Control)
FILE = "off_topic.json"
ProviderT = TypeVar("ProviderT", bound=AnyProvider)


def make_control(name: Control, provider: ProviderT, prompts: str, problems: Sequence[Problem]) -> ProviderT:
    """The provider with a control in the place of its pairs: a pool as large as its own, for `null` one teacher.

    `prompts` names the prompt set, whose off-topic items are taken; `problems` are those whose pairs are shuffled.
    """
    if name == "null":
        return in_place_of_pairs(provider, lambda pairs: no_context)
    if name == "shuffled":
        return in_place_of_pairs(provider, lambda pairs: ShuffledBlocks(pairs, problems))
    maker = maker_of(provider)
    return in_place_of_pairs(provider, lambda pairs: IrrelevantBlocks(pairs, off_topic(maker, prompts, pairs)))


def make_nulls(method: Method, provider: ProviderT, prompts: str) -> ProviderT | None:
    """The provider of the null teacher for a stance by contrast; none for any other."""
    return null_teacher(provider, prompts) if method.contrasts else None


def null_teacher(provider: ProviderT, prompts: str) -> ProviderT:
    """One teacher a problem, shown an off-topic pair as long as the middle one of the problem's pool.

    What the pairs are joined with stands beside it too; teachers of other kinds in the pool have no part in it.
    """
    maker = maker_of(provider)
    return in_place_of_pairs(
        pairs_alone(provider), lambda pairs: NullTeacherBlocks(pairs, off_topic(maker, prompts, pairs))
    )


def in_place_of_pairs(provider: ProviderT, make: Callable[[SkillPairBlocks], BlockMaker]) -> ProviderT:
    """The same provider with what `make` makes of its pairs."""

    def exchanged(blocks: Any) -> Any:
        if isinstance(blocks, JoinedBlocks | MixedBlocks):
            return replace(blocks, makers=tuple(map(exchanged, blocks.makers)))
        if isinstance(blocks, OfProblems):
            return OfProblems(exchanged(blocks.make))
        return make(blocks) if isinstance(blocks, SkillPairBlocks) else blocks

    return _with_blocks(provider, exchanged)


def pairs_alone(provider: ProviderT) -> ProviderT:
    """The same provider without the teachers, mixed into its pool, that are shown no pair."""

    def alone(blocks: Any) -> Any:
        if isinstance(blocks, OfProblems):
            return OfProblems(alone(blocks.make))
        if not isinstance(blocks, MixedBlocks):
            return blocks
        with_pairs = [part for part in blocks.makers if shows_pairs(part)]
        return alone(with_pairs[0]) if with_pairs else blocks

    return _with_blocks(provider, alone)


def shows_pairs(blocks: Any) -> bool:
    if isinstance(blocks, JoinedBlocks | MixedBlocks):
        return any(map(shows_pairs, blocks.makers))
    return shows_pairs(blocks.make) if isinstance(blocks, OfProblems) else isinstance(blocks, SkillPairBlocks)


def _with_blocks(provider: ProviderT, change: Callable[[Any], Any]) -> ProviderT:
    assert isinstance(provider, BlockProvider | RolloutProvider), "a method that retrieves pairs shows blocks"
    return replace(provider, blocks=change(provider.blocks))


def maker_of(provider: AnyProvider) -> PromptBuilder:
    assert isinstance(provider, BlockProvider | RolloutProvider), "a method that retrieves pairs shows blocks"
    return provider.maker


def off_topic(maker: PromptBuilder, prompts: str, pairs: SkillPairBlocks) -> OffTopic:
    """The off-topic items of a prompt set, measured by the model's own tokens."""
    tokenizer, items = maker.tokenizer, load_off_topic(prompts)

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    return OffTopic(items.skills, items.mistakes, pairs, count)


def load_off_topic(prompts: str) -> Bank:
    """The lab's own, those of the folder's off_topic.json, or the bundled ones, which are about anything but maths.

    Raises:
        UserError: the folder's file is not a bank.
    """
    if prompts == "lab":
        from sgsd.lab.demo_bank import off_topic_bank

        return off_topic_bank()
    own = Path(prompts) / FILE
    return load_bank(own if own.is_file() else BUNDLED / "math" / FILE)
