"""Evaluation on plain prompts: greedy, and the mean over k samples, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sgsd.contexts import PromptMaker
from sgsd.evaluate.stats import Estimate, avg_at_k, wilson
from sgsd.rollout import Engine, Sampling
from sgsd.types import Completion, Problem, Status
from sgsd.verify import Verifier


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found."""

    problems: int
    samples: int
    greedy: Estimate
    avg_at_k: Estimate
    truncated: float  # share of the samples cut off by their length
    unknown: float  # share the verifier could not decide; they count as not correct

    def to_dict(self) -> dict[str, object]:
        return {
            "problems": self.problems,
            "samples": self.samples,
            "greedy": self.greedy.to_dict(),
            "avg_at_k": {**self.avg_at_k.to_dict(), "k": self.samples},
            "truncated": self.truncated,
            "unknown": self.unknown,
        }


@dataclass(frozen=True)
class Evaluator:
    """The same engine, prompts and verifier as in training; seeds of its own."""

    engine: Engine
    verifier: Verifier
    maker: PromptMaker
    problems: Sequence[Problem]
    sampling: Sampling
    samples: int
    thinking: bool
    seed: int

    def run(self) -> Evaluation:
        """Grade one greedy answer and `samples` sampled ones a problem."""
        prompts = [self.maker.student(problem, thinking=self.thinking) for problem in self.problems]
        greedy, _ = self._grade(prompts, 1, replace(self.sampling, temperature=0.0))
        sampled, completions = self._grade(prompts, self.samples, self.sampling)
        statuses = [status for row in sampled for status in row]
        return Evaluation(
            problems=len(self.problems),
            samples=self.samples,
            greedy=wilson(sum(row[0] is Status.CORRECT for row in greedy), len(greedy)),
            avg_at_k=avg_at_k([[status is Status.CORRECT for status in row] for row in sampled], seed=self.seed),
            truncated=sum(c.finish == "length" for c in completions) / len(completions),
            unknown=sum(s in (Status.UNPARSED, Status.TIMEOUT) for s in statuses) / len(statuses),
        )

    def _grade(
        self, prompts: Sequence[tuple[int, ...]], samples: int, sampling: Sampling
    ) -> tuple[list[list[Status]], list[Completion]]:
        repeated = [prompt for prompt in prompts for _ in range(samples)]
        golds = [problem.gold for problem in self.problems for _ in range(samples)]
        completions = self.engine.sample(repeated, range(len(repeated)), sampling, seed=self.seed)
        verdicts = self.verifier.grade([c.text for c in completions], golds)
        statuses = [verdict.status for verdict in verdicts]
        return [statuses[i : i + samples] for i in range(0, len(statuses), samples)], completions
