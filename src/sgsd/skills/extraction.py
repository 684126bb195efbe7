"""Extraction of items from memories: one call a memory, skills after a success, mistakes after a failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sgsd.bank import Proposal, refusal_reason
from sgsd.contexts.prompts import PromptSet
from sgsd.skills.drafts import ExtractedMistakes, ExtractedSkills
from sgsd.skills.memories import Memory
from sgsd.skills.writers.base import Request
from sgsd.skills.writers.writer_client import WriterClient
from sgsd.types import BankItem, Problem

LEFT_OUT = "\n[… {} characters left out …]\n"
TOO_MANY = "more items than asked for"

ItemFilter = Callable[[BankItem, Memory], str | None]  # why an item may not be proposed, or None


@dataclass(frozen=True)
class ExtractSettings:
    """Limits of an extraction."""

    items: int = 3  # at most, from one memory
    max_tokens: int = 1024  # of an answer
    max_chars: int = 12_000  # of a solution; a longer one loses its middle, which the prompt says and the count tells


class LeakFilter:
    """Keeps items that give a reference answer away, or speak to the reader, out of the bank."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.golds = {problem.id: problem.gold for problem in problems}

    def __call__(self, item: BankItem, memory: Memory) -> str | None:
        return refusal_reason(item, gold=self.golds.get(memory.problem_id))


@dataclass
class Extraction:
    """The items that were read from memories, and counts of what was lost."""

    proposals: list[Proposal] = field(default_factory=list)
    shortened: int = 0  # solutions that lost their middle
    refused: Counter[str] = field(default_factory=Counter)  # items that were read but not taken, by reason


def extraction_request(memory: Memory, prompts: PromptSet, settings: ExtractSettings) -> Request:
    """Return the call for one memory. The reference answer is not in it, for it is not in the memory."""
    name = "extract_success" if memory.correct else "extract_failure"
    answer = ExtractedSkills if memory.correct else ExtractedMistakes
    solution = shortened(strip_thinking(memory.solution), settings.max_chars)
    text = prompts.render(name, problem=memory.problem, solution=solution, items=settings.items)
    return Request((("user", text),), answer, settings.max_tokens)


def extract(
    memories: Sequence[Memory], client: WriterClient, settings: ExtractSettings, item_filter: ItemFilter | None = None
) -> Extraction:
    """Ask about every memory and gather the items, each with the memory it came from."""
    requests = [extraction_request(memory, client.prompts, settings) for memory in memories]
    result = Extraction(shortened=sum(len(strip_thinking(m.solution)) > settings.max_chars for m in memories))
    for memory, reading in zip(memories, client.ask(requests), strict=True):
        drafts = reading.drafts if reading else ()
        result.refused[TOO_MANY] += max(0, len(drafts) - settings.items)
        for draft in drafts[: settings.items]:
            item = draft.to_item()
            why_not = item_filter(item, memory) if item_filter else None
            if why_not is None:
                result.proposals.append(Proposal(item, memories=(memory.id,)))
            else:
                result.refused[why_not] += 1
    result.refused = +result.refused
    return result


def strip_thinking(text: str) -> str:
    """Return a completion without its think block; all of it where the block never closes."""
    return text.rpartition("</think>")[2].strip() or text.strip()


def shortened(text: str, limit: int) -> str:
    """Return the text, or its beginning and its end with a note of what is missing between them."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return text[:half] + LEFT_OUT.format(len(text) - 2 * half) + text[-half:]
