"""Contexts: what the teachers are shown, and the wording of every prompt."""

from sgsd.contexts.blocks import AnswerBlocks, Block, BlockMaker, JoinedBlocks, SkillPairBlocks
from sgsd.contexts.controls import IrrelevantBlocks, NullTeacherBlocks, OffTopic, ShuffledBlocks, no_context
from sgsd.contexts.prompts import PromptSet, encode_chat, load_prompts, thinking_mode
from sgsd.contexts.providers import (
    BlockProvider,
    ContextProvider,
    NoContextProvider,
    PromptMaker,
    UnfitPrompt,
    fitting,
)

__all__ = [
    "AnswerBlocks",
    "Block",
    "BlockMaker",
    "BlockProvider",
    "ContextProvider",
    "IrrelevantBlocks",
    "JoinedBlocks",
    "NoContextProvider",
    "NullTeacherBlocks",
    "OffTopic",
    "PromptMaker",
    "PromptSet",
    "ShuffledBlocks",
    "SkillPairBlocks",
    "UnfitPrompt",
    "encode_chat",
    "fitting",
    "load_prompts",
    "no_context",
    "thinking_mode",
]
