"""`sgsd train CONFIG --dry-run`: everything up to the first step, looked at and not taken; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sgsd.cli.formatting import count_words
from sgsd.config.run_config import RunConfig
from sgsd.contexts import Answer
from sgsd.distributed.launcher import make_accelerator
from sgsd.distributed.processes import check_processes
from sgsd.plan.memory import Memory
from sgsd.plan.meta_model import MetaModel
from sgsd.plan.sizes import Lengths
from sgsd.records.tracking import check_tracker
from sgsd.train.resume_run import check_folder
from sgsd.train.setup import Run, build_run
from sgsd.types import Problem, Status, UserError, Verdict
from sgsd.verify.grader import gold_text

TEACHER_PROBLEMS = 64  # whose teachers' prompts are built; every problem's student prompt is


def dry_run(config: RunConfig, console: Console, *, resume: bool = False) -> None:
    """Build and check what a run would use, and print what came out.

    Raises:
        UserError: the first thing that would stop the run.
    """
    accelerator = make_accelerator()
    check_processes(accelerator.num_processes)
    if accelerator.is_main_process:
        check_folder(config.folder, config, resume=resume)
        check_tracker(config.track)
    run = build_run(config, accelerator)
    if not accelerator.is_main_process:
        return
    with run.verifier:
        rows = table_rows(run)
    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    console.print(table)
    console.print("Nothing was trained and nothing was written.")


def table_rows(run: Run) -> dict[str, str]:
    """What the table says, by the name of its row. Raises UserError for what would stop the run."""
    config, problems = run.config, run.problems
    rows = {"problems": f"{len(problems):,}" + _skipped(run.skipped_problems)}
    answer = run.method.part(Answer)
    if answer is not None and answer.show != "answer":
        rows["with a solution"] = with_solutions(run)
    thinking = config.prompts.student_thinking
    asked = (
        problems if run.sampler.prompts is run.prompts else problems[:TEACHER_PROBLEMS]
    )  # retrieving for all takes long
    students = [len(run.sampler.prompts.student(problem, thinking=thinking)) for problem in asked]
    shown = run.contexts.before_rollouts().teachers.views(problems[:TEACHER_PROBLEMS])
    views = [view for pool in shown for view in pool]
    teachers = [len(view.prompt_ids) for view in views if view.prompt_ids]
    check_positions(run, max([*students, *teachers]))
    rows["student's prompt"] = _lengths(students) + ("" if len(asked) == len(problems) else f" (first {len(asked)})")
    if views:
        left_out = f", {len(views) - len(teachers)} left out" if len(teachers) < len(views) else ""
        rows["teachers' prompts"] = f"{_lengths(teachers)} (first {min(TEACHER_PROBLEMS, len(problems))}{left_out})"
    if kinds := run.method.context.sampled_kinds():
        rows["made of rollouts"] = ", ".join(kinds)
    rows["reference answers"] = References.of(run, problems).words(config.verifier.name)
    rows["parameters"] = trained_parameters(run)
    rows["sampled"] = budget(run)
    rows["processes"] = str(run.accelerator.num_processes)
    rows["memory, estimated"] = memory(run, students, teachers).words()
    rows["would write"] = f"{config.folder}/: " + ", ".join(files(run))
    return rows


def _skipped(count: int) -> str:
    return f" ({count:,} left out: their prompts do not fit)" if count else ""


def _lengths(lengths: Sequence[int]) -> str:
    if not lengths:
        return "none"
    return f"{min(lengths):,} / {int(median(lengths)):,} / {max(lengths):,} tokens (least / median / most)"


def with_solutions(run: Run) -> str:
    """Raises UserError where the method insists on a solution and a problem has none."""
    without = [problem.id for problem in run.problems if problem.solution is None]
    if without and "solution" in run.method.context.all_needs():
        raise UserError(
            f"problem {without[0]}: it has no solution ({len(without):,} of {len(run.problems):,} have none), and"
            f" {run.method.name} shows one; name its column by data.solution, or set method.show: solution_or_answer"
        )
    there = len(run.problems) - len(without)
    return f"{there:,}" + ("; the others' teachers see the answer" if without else "")


def check_positions(run: Run, longest: int) -> None:
    """Raises UserError where the longest prompt and its completion are more than the model has positions for."""
    positions = getattr(_model_config(run), "max_position_embeddings", None)
    needed = longest + run.config.sampling.max_tokens
    if positions is not None and needed > positions:
        raise UserError(
            f"sampling.max_tokens: a prompt of {longest:,} tokens and {run.config.sampling.max_tokens:,} sampled ones"
            f" are more than the model's {positions:,} positions; lower it, or prompts.max_tokens with unfit: skip"
        )


# ── References ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class References:
    """What the verifier says of the reference answers themselves."""

    problems: Sequence[Problem]
    verdicts: Sequence[Verdict]

    @classmethod
    def of(cls, run: Run, problems: Sequence[Problem]) -> References:
        """Grade every reference against itself, written as an answer; a verifier of one's own may want it bare."""
        golds = [problem.gold for problem in problems]
        verdicts = run.verifier.grade([written(gold, run.config.verifier.name) for gold in golds], golds)
        if run.config.verifier.name not in ("math", "gym"):
            bare = run.verifier.grade([str(gold) for gold in golds], golds)
            verdicts = [b if b.status is Status.CORRECT else a for a, b in zip(verdicts, bare)]
        return cls(problems, verdicts)

    def words(self, verifier: str) -> str:
        """Raises UserError where not one of them is read."""
        total, read = len(self.verdicts), self._with(Status.CORRECT)
        if not read:
            first = self.problems[0]
            raise UserError(
                f"verifier {verifier}: it reads none of the {total:,} reference answers; the first is {first.gold!r}"
                f" of problem {first.id}; is it the right column, and the right verifier?"
            )
        said = [f"{len(read):,} of {total:,} readable ({len(read) / total:.1%})"]
        for status, what in (
            (Status.UNPARSED, "unparsed: their rollouts teach nothing"),
            (Status.INCORRECT, "not recognised as their own answer"),
            (Status.TIMEOUT, "timed out"),
        ):
            if found := self._with(status):
                said.append(f"{len(found):,} {what}; first: problem {found[0].id}, {str(found[0].gold)[:60]!r}")
        return "\n".join(said)

    def _with(self, status: Status) -> list[Problem]:
        return [problem for problem, verdict in zip(self.problems, self.verdicts) if verdict.status is status]


def written(gold: Any, verifier: str) -> str:
    """A reference the way a model would write it as its answer."""
    if verifier == "gym":
        return f"<answer>{gold}</answer>"
    return f"\\boxed{{{gold_text(gold) or gold}}}"


# ── Size ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def trained_parameters(run: Run) -> str:
    parameters = list(run.policy.bare_scorer.model.parameters())
    trained, total = (sum(p.numel() for p in ps) for ps in ([p for p in parameters if p.requires_grad], parameters))
    return f"{count_words(trained)} trained of {count_words(total)} ({'LoRA' if run.config.lora else 'all weights'})"


def budget(run: Run) -> str:
    """Steps × rollouts × tokens, and how often each problem comes up."""
    config = run.config
    tokens = config.steps * config.rollouts * config.sampling.max_tokens
    passes = config.steps * config.rollouts / config.group_size / len(run.problems)
    return (
        f"{config.steps:,} steps × {config.rollouts:,} rollouts × {config.sampling.max_tokens:,} tokens at most"
        f" = {count_words(tokens)}; {passes:.2g} passes over the problems"
    )


def memory(run: Run, students: Sequence[int], teachers: Sequence[int]) -> Memory:
    """At the worst moment, if completions are as long as they may be and prompts as long as the longest of these."""
    longest = run.config.sampling.max_tokens
    lengths = Lengths(max(students), max(teachers, default=0), longest, longest)
    strategy, processes = run.policy.strategy, run.accelerator.num_processes
    return Memory.of(
        MetaModel.of(run.config),
        lengths,
        processes=processes,
        in_parts=strategy.in_parts,
        device=run.accelerator.device.type,
    )


def _model_config(run: Run) -> Any:
    return run.policy.bare_scorer.model.config


def files(run: Run) -> list[str]:
    """What a finished run leaves in its folder."""
    found = ["config.yaml", "metrics.jsonl", "timings.jsonl"]
    found += ["rollouts.jsonl"] if run.config.logged_rollouts else []
    found += ["evaluations.jsonl"] if run.evaluator else []
    found += ["bank.sqlite", "ledger.json", "items.json", "sightings.jsonl"] if run.bank else []
    return [*found, "checkpoints/", "adapter/" if run.config.lora else "model/", "summary.json", "report.html"]
