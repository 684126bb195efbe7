"""Evaluation on held-out problems: greedy, and the mean over k samples, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sgsd.contexts.prompt_builders import PromptBuilder
from sgsd.evaluate.stats import Estimate, avg_at_k, wilson
from sgsd.rollout import Engine, Sampling
from sgsd.types import Problem, Status
from sgsd.verify import Verifier, grade_problems


@dataclass(frozen=True)
class Evaluation:
    """Results of one evaluation."""

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
            "ungraded": self.unknown,
        }


@dataclass(frozen=True)
class Evaluator:
    """The same engine, prompts and verifier as in training; seeds of its own.

    Of several processes each takes its part of the problems: `share` is (which of them, of how many), and `gather` lays
    all processes' lists end to end. A sample's seed goes by its place among all, so the result is one process's.
    """

    engine: Engine
    verifier: Verifier
    prompts: PromptBuilder
    problems: Sequence[Problem]
    sampling: Sampling
    samples: int
    thinking: bool
    seed: int
    share: tuple[int, int] = (0, 1)
    gather: Callable[[list[Any]], list[Any]] = list

    def run(self) -> Evaluation:
        """Grade one greedy answer and `samples` sampled ones a problem; the same result on every process."""
        greedy, _ = self._grade(1, replace(self.sampling, temperature=0.0))
        sampled, cut_off = self._grade(self.samples, self.sampling)
        statuses = [status for row in sampled for status in row]
        return Evaluation(
            problems=len(self.problems),
            samples=self.samples,
            greedy=wilson(sum(row[0] is Status.CORRECT for row in greedy), len(greedy)),
            avg_at_k=avg_at_k([[status is Status.CORRECT for status in row] for row in sampled], seed=self.seed),
            truncated=sum(map(sum, cut_off)) / len(statuses),
            unknown=sum(s not in (Status.CORRECT, Status.INCORRECT) for s in statuses) / len(statuses),
        )

    def _grade(self, samples: int, sampling: Sampling) -> tuple[list[list[Status]], list[list[bool]]]:
        """Return the status of each sample of every problem, and whether its length cut it off."""
        first, processes = self.share
        mine = range(first, len(self.problems), processes)
        places = [(i, i * samples + j) for i in mine for j in range(samples)]
        prompts = {i: self.prompts.student(self.problems[i], thinking=self.thinking) for i in mine}
        done = self.engine.sample([prompts[i] for i, _ in places], [n for _, n in places], sampling, seed=self.seed)
        verdicts = grade_problems(self.verifier, [c.text for c in done], [self.problems[i] for i, _ in places])
        found = [(n, verdict.status, c.finish == "length") for (_, n), verdict, c in zip(places, verdicts, done)]
        every = sorted(self.gather(found), key=lambda sample: sample[0])
        by_problem = [every[i : i + samples] for i in range(0, len(every), samples)]
        statuses = [[status for _, status, _ in row] for row in by_problem]
        return statuses, [[cut_off for _, _, cut_off in row] for row in by_problem]
