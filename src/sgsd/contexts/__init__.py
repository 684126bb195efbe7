"""Contexts: what the teachers are shown, and the wording of every prompt."""

from sgsd.contexts.prompts import PromptSet, encode_chat, load_prompts
from sgsd.contexts.providers import (
    AnswerProvider,
    ContextProvider,
    NoContextProvider,
    PromptMaker,
    SkillPairProvider,
)

__all__ = [
    "AnswerProvider",
    "ContextProvider",
    "NoContextProvider",
    "PromptMaker",
    "PromptSet",
    "SkillPairProvider",
    "encode_chat",
    "load_prompts",
]
