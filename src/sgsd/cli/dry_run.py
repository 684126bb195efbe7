"""`sgsd train CONFIG --dry-run`: everything up to the first step, looked at and not taken; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

from accelerate.utils import gather_object
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
from sgsd.records.first_look import first_look
from sgsd.records.tracking import check_tracker
from sgsd.train.batch import grade
from sgsd.train.engines import close_engine
from sgsd.train.lora_targets import adapted_layers
from sgsd.train.resume_run import check_folder
from sgsd.train.setup import Run, build_run
from sgsd.types import Status, UserError
from sgsd.verify import FunctionVerifier
from sgsd.verify.grader import gold_text, is_readable_gold

TEACHER_PROBLEMS = 64  # whose teachers' prompts are built where those of the run's problems cannot be known yet


def dry_run(config: RunConfig, console: Console, *, resume: bool = False, sample: int = 0) -> None:
    """Build and check what a run would use, and print what came out; sample and verify some rollouts where asked.

    Raises UserError: the first thing that would stop the run.
    """
    accelerator = make_accelerator()
    check_processes(accelerator.num_processes)
    if accelerator.is_main_process:
        check_folder(config.folder, config, resume=resume)
        check_tracker(config.track)
    run = build_run(config, accelerator)
    with run.verifier, ExitStack() as closing:
        closing.callback(close_engine, run.engine)
        looks = sampled(run, sample) if sample else []
        if not accelerator.is_main_process:
            return
        rows = table_rows(run)
    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    console.print(table)
    for line in looks:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print("Nothing was trained and nothing was written.")


def sampled(run: Run, count: int) -> list[str]:
    """The verifier's verdicts on the run's first rollouts, of which each process answers its share, in words."""
    steps = 1 + (count - 1) // run.config.rollouts
    share = -(-count // run.accelerator.num_processes)
    requests = [request for step in range(1, steps + 1) for request in run.sampler.requests(step)][:share]
    run.engine.sync()
    rollouts = run.sampler.answer(requests)
    return first_look(rollouts, gather_object(grade(run.verifier, rollouts)))


def table_rows(run: Run) -> dict[str, str]:
    """The rows of the table by name. Raises UserError for what would stop the run."""
    config, problems = run.config, run.problems
    skipped = run.skipped_problems
    rows = {
        "problems": f"{len(problems):,}" + (f" ({skipped:,} left out: their prompts do not fit)" if skipped else "")
    }
    answer = run.method.part(Answer)
    if answer is not None and answer.show != "answer":
        rows["with a solution"] = with_solutions(run)
    thinking = config.prompts.student_thinking
    asked = (
        problems if run.sampler.prompts is run.prompts else problems[:TEACHER_PROBLEMS]
    )  # retrieving for all takes long
    students = [len(run.sampler.prompts.student(problem, thinking=thinking)) for problem in asked]
    taught = run.contexts.teachers
    ahead = run.sampler.problems_ahead() if taught.prepared else problems[:TEACHER_PROBLEMS]
    shown = (taught if taught.prepared else run.contexts.before_rollouts().teachers).views(ahead)
    views = [view for pool in shown for view in pool]
    teachers = [len(view.prompt_ids) for view in views if view.prompt_ids]
    check_positions(run, max([*students, *teachers]))
    rows["student's prompt"] = _lengths(students) + ("" if len(asked) == len(problems) else f" (first {len(asked)})")
    if views:
        left_out = f", {len(views) - len(teachers)} left out" if len(teachers) < len(views) else ""
        rows["teachers' prompts"] = f"{_lengths(teachers)} ({len(ahead):,} problems{left_out})"
    if kinds := run.method.context.sampled_kinds():
        rows["made of rollouts"] = ", ".join(kinds)
    rows["reference answers"] = references(run)
    rows["parameters"] = trained_parameters(run)
    rows["sampled"] = budget(run)
    rows["processes"] = str(run.accelerator.num_processes)
    rows["memory, estimated"] = memory(run, students, teachers).words()
    rows["would write"] = f"{config.folder}/: " + ", ".join(files(run))
    return rows


def _lengths(lengths: Sequence[int]) -> str:
    if not lengths:
        return "none"
    return f"{min(lengths):,} / {int(median(lengths)):,} / {max(lengths):,} tokens (least / median / most)"


def with_solutions(run: Run) -> str:
    there = sum(problem.solution is not None for problem in run.problems)
    return f"{there:,}" + ("; the others' teachers see the answer" if there < len(run.problems) else "")


def check_positions(run: Run, longest: int) -> None:
    """Raises UserError where the longest prompt and its completion are more than the model has positions for."""
    positions = getattr(run.policy.model.config, "max_position_embeddings", None)
    needed = longest + run.config.sampling.max_tokens
    if positions is not None and needed > positions:
        raise UserError(
            f"sampling.max_tokens: a prompt of {longest:,} tokens and {run.config.sampling.max_tokens:,} sampled ones"
            f" are more than the model's {positions:,} positions; lower it, or prompts.max_tokens with unfit: skip"
        )


# ── References ─────────────────────────────────────────────────────────────────────────────────────────────────────


def references(run: Run) -> str:
    """How many references can be read. Raises UserError where not one of them is.

    A gold is readable when it was parsed: that it equals itself, letter by letter, says nothing. A verifier of one's
    own is shown nothing that it would not get in a run.
    """
    name, problems = run.config.verifier.name, run.problems
    golds = [problem.gold for problem in problems]
    if isinstance(run.verifier, FunctionVerifier):
        return f"{len(problems):,}; {name} reads them in its own way (--sample 16 shows what it says of rollouts)"
    verdicts = run.verifier.grade([written(gold, name) for gold in golds], golds)
    statuses = [verdict.status for verdict in verdicts]
    if name == "math":
        statuses = [s if is_readable_gold(gold) else Status.UNPARSED for s, gold in zip(statuses, golds)]
    found = {s: [p for p, status in zip(problems, statuses) if status is s] for s in Status}
    total, read = len(problems), len(found[Status.CORRECT])
    if not read:
        raise UserError(
            f"verifier {name}: it reads none of the {total:,} reference answers; the first is {golds[0]!r}"
            f" of problem {problems[0].id}; is it the right column, and the right verifier?"
        )
    said = [f"{read:,} of {total:,} readable ({read / total:.1%})"]
    for status, what in (
        (Status.UNPARSED, "unparsed: their rollouts teach nothing"),
        (Status.INCORRECT, "not recognised as their own answer"),
        (Status.TIMEOUT, "timed out"),
    ):
        if some := found[status]:
            said.append(f"{len(some):,} {what}; first: problem {some[0].id}, {str(some[0].gold)[:60]!r}")
    return "\n".join(said)


def written(gold: Any, verifier: str) -> str:
    """A reference the way a model would write it as its answer."""
    if verifier == "gym":
        return f"<answer>{gold}</answer>"
    return f"\\boxed{{{gold_text(gold) or gold}}}"


# ── Size ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def trained_parameters(run: Run) -> str:
    parameters = list(run.policy.model.parameters())
    trained, total = (sum(p.numel() for p in ps) for ps in ([p for p in parameters if p.requires_grad], parameters))
    return f"{count_words(trained)} trained of {count_words(total)} ({what_trains(run)})"


def what_trains(run: Run) -> str:
    return "all weights" if run.config.lora is None else f"LoRA on {', '.join(adapted_layers(run.policy.model))}"


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


def files(run: Run) -> list[str]:
    """The files that a finished run leaves in its folder."""
    found = ["config.yaml", "metrics.jsonl", "timings.jsonl"]
    found += ["rollouts.jsonl"] if run.config.logged_rollouts else []
    found += ["evaluations.jsonl"] if run.evaluator else []
    found += ["bank.sqlite", "ledger.json", "items.json", "sightings.jsonl"] if run.bank else []
    return [*found, "checkpoints/", "adapter/" if run.config.lora else "model/", "summary.json", "report.html"]
