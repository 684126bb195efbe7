"""`sgsd train CONFIG --dry-run`: everything up to the first step, looked at and not taken; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sgsd.train.config import RunConfig
from sgsd.train.processes import check_processes
from sgsd.train.resume import check_folder
from sgsd.train.setup import Parts, build_parts
from sgsd.train.tracking import check_tracker
from sgsd.types import Problem, Status, UserError, Verdict
from sgsd.verify.grader import gold_text

TEACHER_PROBLEMS = 64  # whose teachers' prompts are built; every problem's student prompt is

#: Bytes of activations that a layer keeps for the gradient, per token and hidden unit in 16 bit (arXiv 2205.05198,
#: attention without its matrix).
ACTIVATION_BYTES = 34


def dry_run(config: RunConfig, console: Console, *, resume: bool = False) -> None:
    """Build and check what a run would use, and print what came out.

    Raises:
        UserError: the first thing that would stop the run.
    """
    accelerator = Accelerator(cpu=torch.backends.mps.is_available())
    check_processes(accelerator.num_processes)
    if accelerator.is_main_process:
        check_folder(config.folder, config, resume=resume)
        check_tracker(config.track)
    parts = build_parts(config, accelerator)
    if not accelerator.is_main_process:
        return
    with parts.verifier:
        rows = table_rows(parts)
    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    console.print(table)
    console.print("Nothing was trained and nothing was written.")


def table_rows(parts: Parts) -> dict[str, str]:
    """What the table says, by the name of its row. Raises UserError for what would stop the run."""
    config, problems = parts.config, parts.problems
    rows = {"problems": f"{len(problems):,}" + _skipped(parts.skipped_problems)}
    if parts.method.context.shown in ("solution", "solution_or_answer"):
        rows["with a solution"] = with_solutions(parts)
    thinking = config.prompts.student_thinking
    students = [len(parts.maker.student(problem, thinking=thinking)) for problem in problems]
    views = [view for pool in parts.provider.views(problems[:TEACHER_PROBLEMS]) for view in pool]
    teachers = [len(view.prompt_ids) for view in views if view.prompt_ids]
    check_positions(parts, max([*students, *teachers]))
    rows["student's prompt"] = _lengths(students)
    if views:
        left_out = f", {len(views) - len(teachers)} left out" if len(teachers) < len(views) else ""
        rows["teachers' prompts"] = f"{_lengths(teachers)} (first {min(TEACHER_PROBLEMS, len(problems))}{left_out})"
    rows["reference answers"] = References.of(parts, problems).words(config.verifier.name)
    rows["parameters"] = trained_parameters(parts)
    rows["sampled"] = budget(parts)
    rows["processes"] = str(parts.accelerator.num_processes)
    rows["memory, estimated"] = Memory.of(parts).words()
    rows["would write"] = f"{config.folder}/: " + ", ".join(files(parts))
    return rows


def _skipped(count: int) -> str:
    return f" ({count:,} left out: their prompts do not fit)" if count else ""


def _lengths(lengths: Sequence[int]) -> str:
    if not lengths:
        return "none"
    return f"{min(lengths):,} / {int(median(lengths)):,} / {max(lengths):,} tokens (least / median / most)"


def with_solutions(parts: Parts) -> str:
    """Raises UserError where the method insists on a solution and a problem has none."""
    without = [problem.id for problem in parts.problems if problem.solution is None]
    if without and parts.method.context.shown == "solution":
        raise UserError(
            f"problem {without[0]}: it has no solution ({len(without):,} of {len(parts.problems):,} have none), and"
            f" {parts.method.name} shows one; name its column by data.solution, or set method.show: solution_or_answer"
        )
    there = len(parts.problems) - len(without)
    return f"{there:,}" + ("; the others' teachers see the answer" if without else "")


def check_positions(parts: Parts, longest: int) -> None:
    """Raises UserError where the longest prompt and its completion are more than the model has positions for."""
    positions = getattr(_model_config(parts), "max_position_embeddings", None)
    needed = longest + parts.config.sampling.max_tokens
    if positions is not None and needed > positions:
        raise UserError(
            f"sampling.max_tokens: a prompt of {longest:,} tokens and {parts.config.sampling.max_tokens:,} sampled ones"
            f" are more than the model's {positions:,} positions; lower it, or prompts.max_tokens with unfit: skip"
        )


# ── References ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class References:
    """What the verifier says of the reference answers themselves."""

    problems: Sequence[Problem]
    verdicts: Sequence[Verdict]

    @classmethod
    def of(cls, parts: Parts, problems: Sequence[Problem]) -> References:
        """Grade every reference against itself, written as an answer; a verifier of one's own may want it bare."""
        golds = [problem.gold for problem in problems]
        verdicts = parts.verifier.grade([written(gold, parts.config.verifier.name) for gold in golds], golds)
        if parts.config.verifier.name not in ("math", "gym"):
            bare = parts.verifier.grade([str(gold) for gold in golds], golds)
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


def trained_parameters(parts: Parts) -> str:
    parameters = list(parts.bare_scorer.model.parameters())
    trained, total = (sum(p.numel() for p in ps) for ps in ([p for p in parameters if p.requires_grad], parameters))
    return f"{_count(trained)} trained of {_count(total)} ({'LoRA' if parts.config.lora else 'all weights'})"


def budget(parts: Parts) -> str:
    """Steps × rollouts × tokens, and how often each problem comes up."""
    config = parts.config
    tokens = config.steps * config.rollouts * config.sampling.max_tokens
    passes = config.steps * config.rollouts / config.group_size / len(parts.problems)
    return (
        f"{config.steps:,} steps × {config.rollouts:,} rollouts × {config.sampling.max_tokens:,} tokens at most"
        f" = {_count(tokens)}; {passes:.2g} passes over the problems"
    )


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, by arithmetic and not by trying."""

    weights: float
    optimizer: float  # gradients and AdamW's two moments
    activations: float  # of a pass that keeps them for the gradient
    cache: float  # of keys and values while sampling

    @classmethod
    def of(cls, parts: Parts) -> Memory:
        parameters = list(parts.bare_scorer.parameters())
        c, compute = _model_config(parts), parts.config.compute
        layers, hidden = c.num_hidden_layers, c.hidden_size
        heads = getattr(c, "num_key_value_heads", None) or c.num_attention_heads
        head_size = getattr(c, "head_dim", None) or hidden // c.num_attention_heads
        item = torch.empty((), dtype=getattr(torch, parts.config.model.dtype)).element_size()
        layer = ACTIVATION_BYTES / 2 * item * hidden
        kept = layers * item * hidden + layer if parts.config.model.gradient_checkpointing else layers * layer
        return cls(
            weights=sum(p.numel() * p.element_size() for p in parameters),
            optimizer=sum(3 * p.numel() * p.element_size() for p in parameters if p.requires_grad),
            activations=compute.student_tokens * kept,
            cache=compute.rollout_tokens * layers * 2 * heads * head_size * item,
        )

    def words(self) -> str:
        total = self.weights + self.optimizer + max(self.activations, self.cache)  # never both at once
        parts = {
            "weights": self.weights,
            "gradients and optimizer": self.optimizer,
            "activations": self.activations,
            "or cache while sampling": self.cache,
        }
        listed = ", ".join(f"{name} {_gib(value)}" for name, value in parts.items())
        return f"about {_gib(total)} a process: {listed}"


def _model_config(parts: Parts) -> Any:
    return parts.bare_scorer.model.config


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _count(number: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f} {letter}"
    return f"{number:.0f}"


def files(parts: Parts) -> list[str]:
    """What a finished run leaves in its folder."""
    found = ["config.yaml", "metrics.jsonl", "timings.jsonl"]
    found += ["rollouts.jsonl"] if parts.config.logged_rollouts else []
    found += ["evaluations.jsonl"] if parts.evaluator else []
    found += ["bank.sqlite", "ledger.json", "sightings.jsonl"] if parts.bank else []
    return [*found, "checkpoints/", "adapter/" if parts.config.lora else "model/", "summary.json", "report.html"]
