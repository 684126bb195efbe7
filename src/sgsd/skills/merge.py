"""Hierarchical merging: one call a group of items, layer upon layer until one group is left or nothing shrinks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from sgsd.bank import Proposal, content_id, item_texts, join_duplicates
from sgsd.contexts.prompts import PromptSet
from sgsd.skills.drafts import MergedMistake, MergedMistakes, MergedSkill, MergedSkills
from sgsd.skills.writers.answers import ParsedAnswer
from sgsd.skills.writers.base import Request
from sgsd.skills.writers.writer_client import WriterClient
from sgsd.types import BankItem, Skill, UserError


@dataclass(frozen=True)
class MergeSettings:
    """Limits of merging."""

    group: int = 32
    patience: int = 3  # layers without shrinking, after which it ends
    max_tokens: int = 8192  # of an answer

    def __post_init__(self) -> None:
        if self.group < 2 or self.patience < 1:
            raise UserError(f"merge: group is {self.group} and patience {self.patience}; give at least 2 and 1")


@dataclass(frozen=True)
class Layer:
    """One pass over all items of a kind."""

    before: int
    groups: int
    after: int
    unmerged: int  # groups that stayed as they were: no answer, an empty one, or one that had grown
    left_out: int  # items that a whole answer names among nobody's sources, and that are gone


@dataclass
class Merge:
    """The items left, the layers, and every item that stood in between, for the history."""

    items: list[Proposal]
    layers: list[Layer] = field(default_factory=list)
    steps: list[list[Proposal]] = field(default_factory=list)  # the items after each layer


def merge(
    proposals: Sequence[Proposal],
    client: WriterClient,
    settings: MergeSettings,
    on_layer: Callable[[Layer], None] | None = None,
) -> Merge:
    """Merge items of one kind. Exact duplicates are joined first and cost no call.

    Groups are as even as they can be: one item left over would have nobody to merge with. The first layer is dealt out
    in order, the later ones by the items' words, so that like meets like. Where a layer does not shrink, the next one
    is dealt out with a shift, another one each time, so that others meet.
    """
    result = Merge(join_duplicates(proposals))
    stagnant = 0
    while len(result.items) > 1 and stagnant < settings.patience:
        shift = settings.group * stagnant // settings.patience
        ordered = sorted(result.items, key=_by_words) if result.layers else result.items
        groups = _dealt(ordered[shift:] + ordered[:shift], settings.group)
        requests = [merge_request([p.item for p in group], client.prompts, settings) for group in groups]
        outcomes = [_merged(group, reading) for group, reading in zip(groups, client.ask(requests), strict=True)]
        after = _in_order(result.items, join_duplicates(p for outcome in outcomes for p in outcome.items))
        unmerged, left_out = sum(o.unmerged for o in outcomes), sum(o.left_out for o in outcomes)
        layer = Layer(len(result.items), len(groups), len(after), unmerged, left_out)
        stagnant = 0 if layer.after < layer.before else stagnant + 1
        result.layers.append(layer)
        result.items = after
        result.steps.append(after)
        if on_layer:
            on_layer(layer)
        if len(groups) == 1:
            break
    return result


def _by_words(proposal: Proposal) -> list[str]:
    return [text.casefold() for text in item_texts(proposal.item)]


def _dealt(items: Sequence[Proposal], most: int) -> list[Sequence[Proposal]]:
    count = -(-len(items) // most)
    edges = [len(items) * number // count for number in range(count + 1)]
    return [items[start:stop] for start, stop in pairwise(edges)]


def _in_order(before: Sequence[Proposal], after: Sequence[Proposal]) -> list[Proposal]:
    """Each item where the first of those it stands for was: a bank's order is part of its version."""
    place = {proposal.item.id: position for position, proposal in enumerate(before)}
    end = len(before)
    return sorted(after, key=lambda p: min((place.get(name, end) for name in (p.item.id, *p.items)), default=end))


def merge_request(items: Sequence[BankItem], prompts: PromptSet, settings: MergeSettings) -> Request:
    """The call for one group; items are numbered from 1, and the answer names the numbers it stands for."""
    skills = isinstance(items[0], Skill)
    draft = MergedSkill if skills else MergedMistake
    names = [name for name in draft.model_fields if name != "sources"]
    rows = [{"number": n, **dict(zip(names, item_texts(item)))} for n, item in enumerate(items, start=1)]
    listed = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    text = prompts.render("merge_skills" if skills else "merge_mistakes", items=listed, count=len(items))
    return Request((("user", text),), MergedSkills if skills else MergedMistakes, settings.max_tokens)


@dataclass(frozen=True)
class _Outcome:
    items: list[Proposal]
    unmerged: bool = False
    left_out: int = 0


def _merged(group: Sequence[Proposal], reading: ParsedAnswer | None) -> _Outcome:
    """Return what a group became. A merger that answers nothing, or with more than it was given, changes nothing.

    What an answer leaves out is gone, but not where a part of the answer was lost: then that part may have named it.
    """
    if reading is None or not reading.drafts:
        return _Outcome(list(group), unmerged=True)
    made, named = [], set[int]()
    for draft in reading.drafts:
        assert isinstance(draft, (MergedSkill, MergedMistake))
        sources = [n for n in dict.fromkeys(draft.sources) if 1 <= n <= len(group)]
        named.update(sources)
        # A merged item that names no source may stand for any of the group: all are its possible origins.
        parents = [group[n - 1] for n in sources] or group
        made.append(_heir(draft.to_item(), parents))
    unnamed = [proposal for n, proposal in enumerate(group, start=1) if n not in named]
    torn = reading.dropped.total() > 0
    items = join_duplicates([*made, *unnamed] if torn else made)
    if len(items) > len(group) or (torn and not named):
        return _Outcome(list(group), unmerged=True)
    return _Outcome(items, left_out=len(unnamed) if named and not torn else 0)


def _heir(item: BankItem, parents: Sequence[Proposal]) -> Proposal:
    memories = tuple(dict.fromkeys(memory for parent in parents for memory in parent.memories))
    same = next((parent for parent in parents if content_id(parent.item) == item.id), None)
    if same is not None and len(parents) == 1:
        return same  # it came through as it was
    origins = tuple(dict.fromkeys(parent.item.id for parent in parents if parent is not same))
    return Proposal(same.item if same else item, memories, origins)
