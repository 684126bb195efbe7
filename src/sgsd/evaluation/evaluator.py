"""Evaluation on held-out problems: greedy, and the mean over k samples, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sgsd.contexts.prompt_builders import PromptBuilder
from sgsd.contexts.prompts import with_open_thoughts
from sgsd.evaluation.stats import Estimate, avg_at_k, wilson
from sgsd.notices import warn
from sgsd.rollout import Engine, Sampling
from sgsd.types import Problem, Status
from sgsd.verify import Verifier, grade_problems

KNOWN = {Status.CORRECT, Status.INCORRECT}


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
        self._warn_of_ungraded([(*one, *several) for one, several in zip(greedy, sampled, strict=True)])
        return Evaluation(
            problems=len(self.problems),
            samples=self.samples,
            greedy=wilson(sum(row[0] is Status.CORRECT for row in greedy), len(greedy)),
            avg_at_k=avg_at_k([[status is Status.CORRECT for status in row] for row in sampled], seed=self.seed),
            truncated=sum(map(sum, cut_off)) / len(statuses),
            unknown=sum(status not in KNOWN for status in statuses) / len(statuses),
        )

    def _warn_of_ungraded(self, statuses: Sequence[Sequence[Status]]) -> None:
        """Say which problems have no verdict on any sample: they count as wrong, whatever the model writes."""
        ungraded = [(p, row[0]) for p, row in zip(self.problems, statuses) if not set(row) & KNOWN]
        if ungraded:
            problem, status = ungraded[0]
            warn(
                f"held-out: {len(ungraded):,} of {len(self.problems):,} problems have no verdict and count as wrong;"
                f" the first is problem {problem.id}, reference {str(problem.gold)[:60]!r} ({status}): mend the"
                " reference or the verifier"
            )

    def _grade(self, samples: int, sampling: Sampling) -> tuple[list[list[Status]], list[list[bool]]]:
        """Return the status of each sample of every problem, and whether its length cut it off."""
        first, processes = self.share
        mine = range(first, len(self.problems), processes)
        places = [(i, i * samples + j) for i in mine for j in range(samples)]
        prompts = {i: self.prompts.student(self.problems[i], thinking=self.thinking) for i in mine}
        asked = [prompts[i] for i, _ in places]
        done = self.engine.sample(asked, [n for _, n in places], sampling, seed=self.seed)
        done = with_open_thoughts(self.prompts.tokenizer, asked, done)
        problems = [self.problems[i] for i, _ in places]
        verdicts = grade_problems(self.verifier, [c.text for c in done], problems, [c.token_ids for c in done])
        found = [(n, verdict.status, c.finish == "length") for (_, n), verdict, c in zip(places, verdicts, done)]
        every = sorted(self.gather(found), key=lambda sample: sample[0])
        by_problem = [every[i : i + samples] for i in range(0, len(every), samples)]
        statuses = [[status for _, status, _ in row] for row in by_problem]
        return statuses, [[cut_off for _, _, cut_off in row] for row in by_problem]
