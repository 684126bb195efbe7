"""Off-topic text: pairs about something else, as long as the pair in whose place they stand."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np

from sgsd.contexts.base import Block
from sgsd.types import Mistake, Skill, SkillPair, UserError

CANDIDATES = 16  # pairs that are measured exactly
NEAR = 2  # tokens by which the estimated length of a measured pair may miss the best one
NOTHING = SkillPair(None, None, 0.0, 1.0)


@dataclass(frozen=True)
class OffTopic:
    """Well-formed skills and mistakes about something else, cut at sentences so that there are some of every length.

    `text` makes text of a pair, `count` gives the number of tokens of a text.
    """

    skills: Sequence[Skill]
    mistakes: Sequence[Mistake]
    text: Callable[[SkillPair], str]
    count: Callable[[str], int]

    def __post_init__(self) -> None:
        if not self.skills or not self.mistakes:
            raise UserError("the off-topic items need at least one skill and one mistake; add what is missing")

    def like(self, block: Block, key: str) -> Block:
        """An off-topic block nearest in length; `key` alone chooses among those that are equally near.

        In the place of a pair with one side only, the stand-in has that side only.
        """
        skill = block.pair is None or block.pair.skill is not None
        mistake = block.pair is None or block.pair.mistake is not None
        target = self.count(block.text or "")
        estimates = self._estimates(skill, mistake)
        miss = np.abs(estimates - target)
        near = np.argwhere(miss <= miss.min() + NEAR).tolist()
        best, least = NOTHING, float("inf")
        for i, j in random.Random(key).sample(near, min(CANDIDATES, len(near))):
            other = replace(
                NOTHING,
                skill=self._cut_skills[i] if skill else None,
                mistake=self._cut_mistakes[j] if mistake else None,
            )
            if (missed := abs(self.tokens(other) - target)) < least:
                best, least = other, missed
            if not missed:
                break
        return replace(block, text=self.text(best), item_ids=best.item_ids, pair=best)

    def tokens(self, pair: SkillPair) -> int:
        return self.count(self.text(pair))

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
