"""What may stand in the place of a run's pairs: the controls, and the null teacher of a stance by contrast.

All else stays as configured: the template, the reference beside a pair, the thinking mode, what happens to a prompt
that does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from sgsd.bank import Bank, load_bank
from sgsd.contexts import (
    BlockMaker,
    BlockProvider,
    ContextProvider,
    IrrelevantBlocks,
    JoinedBlocks,
    NullTeacherBlocks,
    OffTopic,
    ShuffledBlocks,
    SkillPairBlocks,
    no_context,
)
from sgsd.contexts.prompts import BUNDLED
from sgsd.method import Method
from sgsd.types import Problem

Control = Literal["irrelevant", "shuffled", "null"]
CONTROLS: tuple[Control, ...] = get_args(Control)
FILE = "off_topic.json"


def make_control(
    name: Control, provider: ContextProvider, prompts: str, problems: Sequence[Problem]
) -> ContextProvider:
    """The provider with a control in the place of its pairs: a pool as large as its own, for `null` one teacher.

    `prompts` names the prompt set, whose off-topic items are taken; `problems` are those whose pairs are shuffled.
    """
    if name == "null":
        return in_place_of_pairs(provider, lambda pairs: no_context)
    if name == "shuffled":
        return in_place_of_pairs(provider, lambda pairs: ShuffledBlocks(pairs, problems))
    return in_place_of_pairs(provider, lambda pairs: IrrelevantBlocks(pairs, off_topic(provider, prompts, pairs)))


def make_nulls(method: Method, provider: ContextProvider, prompts: str) -> ContextProvider | None:
    """The provider of the null teacher for a stance by contrast; none for any other."""
    return null_teacher(provider, prompts) if method.contrasts else None


def null_teacher(provider: ContextProvider, prompts: str) -> ContextProvider:
    """One teacher a problem, shown an off-topic pair as long as the middle one of the problem's pool."""
    return in_place_of_pairs(provider, lambda pairs: NullTeacherBlocks(pairs, off_topic(provider, prompts, pairs)))


def in_place_of_pairs(provider: ContextProvider, make: Callable[[SkillPairBlocks], BlockMaker]) -> ContextProvider:
    """The same provider with what `make` makes of its pairs."""

    def exchanged(blocks: BlockMaker) -> BlockMaker:
        if isinstance(blocks, JoinedBlocks):
            return replace(blocks, makers=tuple(map(exchanged, blocks.makers)))
        return make(blocks) if isinstance(blocks, SkillPairBlocks) else blocks

    assert isinstance(provider, BlockProvider), "a method that retrieves pairs shows blocks"
    return replace(provider, blocks=exchanged(provider.blocks))


def off_topic(provider: ContextProvider, prompts: str, pairs: SkillPairBlocks) -> OffTopic:
    """The off-topic items of a prompt set, measured by the model's own tokens."""
    assert isinstance(provider, BlockProvider)
    tokenizer, items = provider.maker.tokenizer, load_off_topic(prompts)

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    return OffTopic(items.skills, items.mistakes, pairs, count)


def load_off_topic(prompts: str) -> Bank:
    """The lab's own, those of the folder's off_topic.json, or the bundled ones, which are about anything but maths.

    Raises:
        UserError: the folder's file is not a bank.
    """
    if prompts == "lab":
        from sgsd.lab.bank import off_topic_bank

        return off_topic_bank()
    own = Path(prompts) / FILE
    return load_bank(own if own.is_file() else BUNDLED / "math" / FILE)
