"""Cold start: rollouts → memories → proposals → merged items → a bank with its whole history.

Nothing is asked or sampled twice: memories and answers are on disk as they come, every draw belongs to an index, and
the store is written in one go at the end from what is on disk. A build killed anywhere ends in the same bank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sgsd.bank import Bank, BankStore, Origin, Proposal, bank_of_proposals
from sgsd.config.skills_config import SkillsConfig
from sgsd.contexts.prompts import PromptSet
from sgsd.files import replacing
from sgsd.skills.extraction import Extraction, ExtractSettings, ItemFilter, extract, extraction_request
from sgsd.skills.memories import Memory, MemoryFile
from sgsd.skills.merge import Layer, Merge, MergeSettings, merge
from sgsd.skills.writers.writer_client import WriterClient
from sgsd.types import Skill, UserError

Sample = Callable[[Sequence[int]], Sequence[tuple[int, Memory | None]]]  # indices → what became of those rollouts


@dataclass(frozen=True)
class BuildSettings:
    """Size of a cold start and limits of its calls."""

    rollouts: int = 256
    batch: int = 32  # rollouts between two writes of the memory file
    extract: ExtractSettings = field(default_factory=ExtractSettings)
    merge: MergeSettings = field(default_factory=MergeSettings)

    @classmethod
    def from_config(cls, skills: SkillsConfig) -> BuildSettings:
        """Take the settings of a run's config."""
        return cls(
            rollouts=skills.rollouts,
            extract=ExtractSettings(skills.items, skills.extract_tokens, skills.solution_chars),
            merge=MergeSettings(skills.merge_group, skills.merge_patience, skills.merge_tokens),
        )


@dataclass
class Progress:
    """Callbacks of a build; by default nobody listens."""

    stage: Callable[[str, int, int], None] = lambda name, done, total: None
    layer: Callable[[str, Layer], None] = lambda kind, layer: None


@dataclass(frozen=True)
class BuildResult:
    """A finished build, in numbers."""

    bank: Bank
    memories: int
    successes: int
    unknown: int  # rollouts whose outcome the verifier could not tell
    extraction: Extraction
    layers: Mapping[str, Sequence[Layer]]
    usage: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "bank_version": self.bank.version,
            "skills": len(self.bank.skills),
            "mistakes": len(self.bank.mistakes),
            "memories": self.memories,
            "successes": self.successes,
            "failures": self.memories - self.successes,
            "unknown": self.unknown,
            "proposals": len(self.extraction.proposals),
            "refused": dict(self.extraction.refused),
            "shortened": self.extraction.shortened,
            "layers": {kind: [asdict(layer) for layer in layers] for kind, layers in self.layers.items()},
            "writer": dict(self.usage),
        }


def gather(file: MemoryFile, settings: BuildSettings, sample: Sample, progress: Progress) -> list[Memory]:
    """Sample rollouts until there are as many as asked for; goes on where an earlier build stopped."""
    done = file.next_index
    while done < settings.rollouts:
        progress.stage("sampling", done, settings.rollouts)
        file.append(sample(range(done, min(settings.rollouts, done + settings.batch))))
        done = file.next_index
    progress.stage("sampling", done, settings.rollouts)
    return [memory for memory in file.read() if memory.index < settings.rollouts]


def build_bank(
    folder: Path,
    settings: BuildSettings,
    sample: Sample,
    client: WriterClient,
    *,
    item_filter: ItemFilter | None = None,
    metadata: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Build `folder/bank.sqlite`; `folder` keeps the memories and the store of the result.

    Raises:
        WriterError: too many calls failed.
        UserError: nothing could be learned, or a file cannot be read or written.
    """
    progress = progress or Progress()
    memories = gather(MemoryFile(folder / "memories.jsonl"), settings, sample, progress)
    if not memories:
        raise UserError(
            f"{folder}: of {settings.rollouts} rollouts none has a verdict; look at the data and the verifier"
        )
    _count_answers(client, progress, "extracting", len(memories))
    extraction = extract(memories, client, settings.extract, item_filter)
    if not extraction.proposals:
        raise UserError(
            f"{folder}: the writer found nothing in {len(memories)} memories; look at its answers, or change it"
        )
    merges = merge_kinds(extraction.proposals, client, settings.merge, progress)
    proposals = [proposal for merged in merges.values() for proposal in merged.items]
    bank = bank_of_proposals(proposals, metadata)
    write_history(folder / "bank.sqlite", memories, extraction.proposals, merges, bank)
    layers = {kind: merged.layers for kind, merged in merges.items()}
    successes, unknown = sum(memory.correct for memory in memories), settings.rollouts - len(memories)
    return BuildResult(bank, len(memories), successes, unknown, extraction, layers, client.usage.to_dict())


def merge_kinds(
    proposals: Sequence[Proposal], client: WriterClient, settings: MergeSettings, progress: Progress | None = None
) -> dict[str, Merge]:
    """Skills and mistakes, each merged among themselves."""
    progress = progress or Progress()
    found = {}
    for kind, chosen in (
        ("skills", [p for p in proposals if isinstance(p.item, Skill)]),
        ("mistakes", [p for p in proposals if not isinstance(p.item, Skill)]),
    ):
        progress.stage(f"merging {kind}", 0, 0)
        found[kind] = merge(chosen, client, settings, partial(progress.layer, kind))
    return found


def write_history(
    path: Path, memories: Iterable[Memory], proposals: Sequence[Proposal], merges: Mapping[str, Merge], bank: Bank
) -> None:
    """The store with every step of the way: the proposals, what each layer made of them, the bank."""
    skills, mistakes = merges["skills"], merges["mistakes"]
    with replacing(path) as new, BankStore(new) as store:
        used = {name for proposal in proposals for name in proposal.memories}
        store.remember({memory.id: asdict(memory) for memory in memories if memory.id in used})
        _record(store, proposals, "proposed by the writer")
        for depth in range(max(len(skills.steps), len(mistakes.steps))):
            after = [*_step(skills, depth), *_step(mistakes, depth)]
            _record(store, after, f"layer {depth + 1} of merging")
        store.import_bank(bank, note="cold start")


def _record(store: BankStore, proposals: Sequence[Proposal], note: str) -> None:
    origins = {p.item.id: Origin(tuple(sorted(p.memories)), tuple(sorted(p.items))) for p in proposals}
    store.import_bank(bank_of_proposals(proposals), note, origins)


def _step(merged: Merge, depth: int) -> Sequence[Proposal]:
    """The items after that layer; those of the last one where there were fewer."""
    return merged.steps[min(depth, len(merged.steps) - 1)] if merged.steps else merged.items


def _count_answers(client: WriterClient, progress: Progress, stage: str, total: int) -> None:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        progress.stage(stage, min(done, total), total)

    progress.stage(stage, 0, total)
    client.on_answer = count


@dataclass(frozen=True)
class Forecast:
    """Upper bounds of a build: calls, tokens in, tokens out."""

    rollouts: int
    extract_calls: int
    merge_calls: int
    prompt_tokens: int
    completion_tokens: int


def forecast(
    settings: BuildSettings,
    example: Memory,
    prompts: PromptSet,
    count_tokens: Callable[[str], int],
    solution_tokens: int,
) -> Forecast:
    """Estimate a build from above: every memory gives all the items it may, and merging halves them.

    `example` stands for every memory; `solution_tokens` is the length limit of a rollout.
    """
    left, merge_calls = settings.rollouts * settings.extract.items, 0
    item_tokens, merge_in = 90, 0  # an item of the published banks takes 60 to 90 tokens
    while left > 1:
        groups = -(-left // settings.merge.group)
        merge_calls, merge_in = merge_calls + groups, merge_in + left * item_tokens + groups * 250
        if groups == 1:
            break
        left //= 2
    bare = extraction_request(example, prompts, settings.extract).messages[0][1]
    per_memory = count_tokens(bare) - count_tokens(example.solution) + solution_tokens
    out = settings.rollouts * settings.extract.items * item_tokens + merge_in // 2
    return Forecast(settings.rollouts, settings.rollouts, merge_calls, settings.rollouts * per_memory + merge_in, out)
