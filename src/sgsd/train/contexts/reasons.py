"""Teachers that reason first: what the model itself writes under a teacher's prompt, before the teacher judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sgsd.config.run_config import RunConfig
from sgsd.contexts import Block, Graded, PromptBuilder, UnfitPrompt
from sgsd.rollout import Engine

SEED = 2_000_003  # away from the rollouts' seeds and from the evaluation's


@dataclass(frozen=True)
class EngineReasoner:
    """Samples as the rollouts are sampled, from the policy as it is now, `teacher.reason_tokens` at most.

    What is drawn is decided by the rollout's index and the prompt; of the rollout nothing else is looked at.
    """

    engine: Engine
    maker: PromptBuilder
    config: RunConfig

    def __call__(self, rollouts: Sequence[Graded], blocks: Sequence[Block]) -> list[str]:
        """Empty where the prompt does not fit: whoever makes the teacher's own will say so."""
        prompts = [self._prompt(rollout, block) for rollout, block in zip(rollouts, blocks, strict=True)]
        asked = [place for place, prompt in enumerate(prompts) if prompt]
        sampling = replace(self.config.sampling.to_sampling(), max_tokens=self.config.teacher.reason_tokens)
        # Also where nothing is asked: with weights in parts, all processes sample together.
        done = self.engine.sample(
            [prompts[place] for place in asked],
            [rollouts[place].index for place in asked],
            sampling,
            seed=self.config.seed + SEED,
        )
        written = {place: completion.text for place, completion in zip(asked, done, strict=True)}
        return [written.get(place, "") for place in range(len(rollouts))]

    def _prompt(self, rollout: Graded, block: Block) -> tuple[int, ...]:
        thinking = self.config.prompts.teacher_thinking
        try:
            return self.maker.teacher(rollout.problem, block.text or "", thinking=thinking, name=block.source)
        except UnfitPrompt:
            return ()
