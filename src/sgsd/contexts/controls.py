"""Controls: something else in the place of the pairs, to tell what a skill is worth from what any context does.

    null        nothing: the student's own prompt, in the teachers' thinking mode
    irrelevant  for each pair one about something else, as long as it
    shuffled    the pairs of another problem
    random      pairs drawn from the bank by chance

They are makers of blocks like any other and compose with the rest. They are handed problems, never an outcome, and
what they choose for a problem depends on its id and not on the batch it stands in.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np

from sgsd.contexts.blocks import Block, SkillPairBlocks
from sgsd.types import Mistake, Problem, Skill, SkillPair, UserError

CANDIDATES = 16  # off-topic pairs that are measured exactly, and other problems that are looked at
CONTROLS = frozenset({"null", "irrelevant", "shuffled", "random"})
NEAR = 2  # tokens by which the estimated length of a measured pair may miss the best one


def is_control(source: str) -> bool:
    """Whether a teacher of this source was shown a control, alone or beside something else."""
    return not CONTROLS.isdisjoint(source.split("+"))


def no_context(problems: Sequence[Problem]) -> list[tuple[Block, ...]]:
    """The control `null`: one teacher a problem, shown nothing."""
    return [(Block("null", None),) for _ in problems]


@dataclass(frozen=True)
class OffTopic:
    """Well-formed skills and mistakes about something else, cut at sentences so that there are some of every length.

    `pairs` says how a pair becomes text, `count` how many tokens a text has.
    """

    skills: Sequence[Skill]
    mistakes: Sequence[Mistake]
    pairs: SkillPairBlocks
    count: Callable[[str], int]

    def __post_init__(self) -> None:
        if not self.skills or not self.mistakes:
            raise UserError("the off-topic items need at least one skill and one mistake; add what is missing")

    def like(self, pair: SkillPair, key: str) -> SkillPair:
        """The off-topic pair nearest in length; `key` alone chooses among those that are equally near.

        Of a pair with one side only, the stand-in has that side only.
        """
        target = self.tokens(pair)
        estimates = self._estimates(pair.skill is not None, pair.mistake is not None)
        miss = np.abs(estimates - target)
        near = np.argwhere(miss <= miss.min() + NEAR).tolist()
        best, least = pair, float("inf")
        for i, j in random.Random(key).sample(near, min(CANDIDATES, len(near))):
            other = self._pair(i, j, pair)
            if (missed := abs(self.tokens(other) - target)) < least:
                best, least = other, missed
            if not missed:
                break
        return best

    def tokens(self, pair: SkillPair) -> int:
        text = self.pairs.block(pair).text
        return self.count(text or "")

    def _pair(self, i: int, j: int, place: SkillPair) -> SkillPair:
        skill = None if place.skill is None else self._cut_skills[i]
        mistake = None if place.mistake is None else self._cut_mistakes[j]
        return replace(place, skill=skill, mistake=mistake)

    def _estimates(self, skill: bool, mistake: bool) -> np.ndarray:
        """Tokens of skill i with mistake j, [S, M]; [S, 1] or [1, M] without the other side."""
        if not mistake:
            return self._skill_tokens[:, None]
        if not skill:
            return self._mistake_tokens[None, :]
        both = self.tokens(SkillPair(self._cut_skills[0], self._cut_mistakes[0], 0.0, 1.0))
        shared = self._skill_tokens[0] + self._mistake_tokens[0] - both
        return self._skill_tokens[:, None] + self._mistake_tokens[None, :] - shared

    @cached_property
    def _cut_skills(self) -> list[Skill]:
        return [
            replace(skill, principle=principle, when_to_apply=when)
            for skill in self.skills
            for principle, when in product(beginnings(skill.principle), beginnings(skill.when_to_apply))
        ]

    @cached_property
    def _cut_mistakes(self) -> list[Mistake]:
        return [
            replace(mistake, why_it_happens=why, how_to_avoid=how)
            for mistake in self.mistakes
            for why, how in product(beginnings(mistake.why_it_happens), beginnings(mistake.how_to_avoid))
        ]

    @cached_property
    def _skill_tokens(self) -> np.ndarray:
        return np.array([self.tokens(SkillPair(skill, None, 0.0, 1.0)) for skill in self._cut_skills])

    @cached_property
    def _mistake_tokens(self) -> np.ndarray:
        return np.array([self.tokens(SkillPair(None, mistake, 0.0, 1.0)) for mistake in self._cut_mistakes])


def beginnings(text: str) -> list[str]:
    """The first sentence, the first two, …, all of them."""
    sentences = re.split(r"(?<=[.!?])\s+", text.strip())
    return [" ".join(sentences[:n]) for n in range(1, len(sentences) + 1)]


@dataclass(frozen=True)
class IrrelevantBlocks:
    """The control `irrelevant`: in the place of each pair an off-topic one of its length and weight."""

    pairs: SkillPairBlocks
    off_topic: OffTopic

    def __call__(self, problems: Sequence[Problem]) -> list[tuple[Block, ...]]:
        pools = self.pairs.retrieve([problem.text for problem in problems])
        return [
            tuple(self._block(pair, f"irrelevant/{problem.id}/{rank}") for rank, pair in enumerate(pool))
            for problem, pool in zip(problems, pools, strict=True)
        ]

    def _block(self, pair: SkillPair, key: str) -> Block:
        return self.pairs.block(self.off_topic.like(pair, key), "irrelevant")


@dataclass(frozen=True)
class NullTeacherBlocks:
    """The null teacher of a stance by contrast: one off-topic block a problem, as long as its pool's middle pair."""

    pairs: SkillPairBlocks
    off_topic: OffTopic

    def __call__(self, problems: Sequence[Problem]) -> list[tuple[Block, ...]]:
        pools = self.pairs.retrieve([problem.text for problem in problems])
        return [(self._block(problem, pool),) for problem, pool in zip(problems, pools, strict=True)]

    def _block(self, problem: Problem, pool: Sequence[SkillPair]) -> Block:
        by_length = sorted(pool, key=self.off_topic.tokens)
        middle = replace(by_length[len(by_length) // 2], weight=1.0)
        return self.pairs.block(self.off_topic.like(middle, f"null/{problem.id}"), "null_teacher")


@dataclass(frozen=True)
class ShuffledBlocks:
    """The control `shuffled`: the pairs retrieved for another problem, never its own.

    Of a few drawn by the problem's id it takes the one whose pairs have the fewest items in common with its own: a
    problem of the same kind would retrieve the same pairs, and nothing would be shuffled.
    """

    pairs: SkillPairBlocks
    others: Sequence[Problem]

    def __call__(self, problems: Sequence[Problem]) -> list[tuple[Block, ...]]:
        drawn = [self._drawn(problem) for problem in problems]
        texts = [text for problem, others in zip(problems, drawn) for text in (problem.text, *others)]
        pools = iter(self.pairs.retrieve(texts))
        return [self._farthest(next(pools), [next(pools) for _ in others]) for others in drawn]

    def _drawn(self, problem: Problem) -> list[str]:
        places = random.Random(f"shuffled/{problem.id}").sample(
            range(len(self.others)), min(CANDIDATES, len(self.others))
        )
        others = [self.others[place] for place in places]
        texts = [other.text for other in others if other.id != problem.id and other.text != problem.text]
        if not texts:
            raise UserError(f"problem {problem.id}: there is no other problem to take its pairs from; give more data")
        return texts

    def _farthest(self, own: Sequence[SkillPair], pools: Sequence[Sequence[SkillPair]]) -> tuple[Block, ...]:
        items = item_ids(own)
        chosen = min(pools, key=lambda pool: len(items & item_ids(pool)))
        return tuple(self.pairs.block(pair, "shuffled") for pair in chosen)


@dataclass(frozen=True)
class RandomPairBlocks:
    """The control `random`: pairs that retrieval by chance brings, so called in the run's records."""

    pairs: SkillPairBlocks  # whose retriever draws

    def __call__(self, problems: Sequence[Problem]) -> list[tuple[Block, ...]]:
        pools = self.pairs.retrieve([problem.text for problem in problems])
        return [tuple(self.pairs.block(pair, "random") for pair in pool) for pool in pools]


def item_ids(pool: Sequence[SkillPair]) -> set[str]:
    return {item for pair in pool for item in pair.item_ids}
