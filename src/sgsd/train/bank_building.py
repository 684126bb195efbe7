"""A cold start as configured: by the config of the run that will train with the bank."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sgsd.bank import BankStore, save_bank
from sgsd.config.migrate import migrate
from sgsd.config.run_config import RunConfig
from sgsd.contexts.prompts import PromptSet, load_prompts
from sgsd.data.problems import load_problems, problem_at
from sgsd.distributed.launcher import make_accelerator
from sgsd.files import write_atomic
from sgsd.rollout import Engine, TransformersEngine, Untrained
from sgsd.skills import (
    TEMPLATES,
    AnswerCache,
    BuildSettings,
    Layer,
    LeakFilter,
    Memory,
    MemorySampler,
    WriterClient,
    build_bank,
    forecast,
)
from sgsd.skills import Progress as BuildProgress
from sgsd.train.configured_writer import make_writer
from sgsd.train.context_resources import make_prompts
from sgsd.train.engines import close_engine, outside_engine
from sgsd.train.models import load_model, load_tokenizer
from sgsd.train.resume_run import differences
from sgsd.train.setup import make_verifier
from sgsd.types import Problem, UserError

#: The sections that decide a cold start; the rest of a run's config may change without a new one.
DECIDING = ("seed", "model", "data", "prompts", "sampling", "verifier", "writer", "skills")


def build_from_config(config: RunConfig, console: Console, *, dry_run: bool = False) -> Path | None:
    """Build the bank at `bank.path`, or say what that would cost; returns the bank's path.

    The work is kept in `BANK.build/`, so that the same command goes on after a kill. Raises UserError: `bank.path` is
    taken or missing, the settings differ from those the work was begun with, or something they name is not there;
    WriterError: too many calls failed.
    """
    target = _target(config)
    folder = target.with_name(target.name + ".build")
    refuse_other_settings(folder, config)
    problems = load_problems(config.data)
    tokenizer = load_tokenizer(config.model)
    student = make_prompts(config, tokenizer)
    prompts = load_prompts(config.writer.prompts, required=TEMPLATES)
    settings = BuildSettings.from_config(config.skills)
    if dry_run:
        _print_forecast(config, settings, prompts, problems, tokenizer, console)
        return None
    engine = _engine(config, tokenizer, folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "config.json", json.dumps(deciding(config), indent=1))
    with ExitStack() as stack:
        stack.callback(close_engine, engine)
        verifier = stack.enter_context(make_verifier(config))
        cache = stack.enter_context(AnswerCache(folder / "answers.sqlite"))
        writer = stack.enter_context(make_writer(config, engine, tokenizer))
        client = WriterClient(writer, prompts, cache, config.writer.failure_budget)
        bar = stack.enter_context(_progress(console))
        sampler = MemorySampler(
            engine,
            verifier,
            student,
            problems,
            config.sampling.to_sampling(),
            config.prompts.student_thinking,
            config.seed,
        )
        built = build_bank(
            folder,
            settings,
            sampler.sample,
            client,
            item_filter=LeakFilter(problems),
            metadata=_metadata(config),
            progress=BuildProgress(_Stages(bar, client).show, _layer_line(console)),
        )
    write_atomic(folder / "build.json", json.dumps(built.to_dict(), indent=1))
    _deliver(folder / "bank.sqlite", target)
    _print_result(built.to_dict(), target, console)
    return target


def deciding(config: RunConfig) -> dict[str, Any]:
    whole = config.model_dump(mode="json")
    return {name: whole[name] for name in DECIDING}


def refuse_other_settings(folder: Path, config: RunConfig) -> None:
    """A build that was begun goes on with the settings it was begun with. Raises UserError."""
    saved = folder / "config.json"
    if not saved.is_file():
        return
    before, _ = migrate(json.loads(saved.read_text(encoding="utf-8")), str(saved), saved=True)
    changed = differences(before, deciding(config))
    if changed:
        shown = "; ".join(f"{key}: was {old!r}, now {new!r}" for key, (old, new) in list(changed.items())[:8])
        raise UserError(
            f"{folder}: this cold start was begun with other settings ({shown}); put them back or remove it"
        )


def _target(config: RunConfig) -> Path:
    if config.bank.path in (None, "lab"):
        raise UserError("bank.path: say where the bank is to be written, for instance my_bank.sqlite or my_bank.json")
    target = Path(str(config.bank.path))
    if target.exists():
        raise UserError(f"bank.path: {target} is there already; name another, or move it away")
    return target


def _engine(config: RunConfig, tokenizer: Any, folder: Path) -> Engine:
    """The engine that the run will sample from, with the model as it is before the run."""
    own = TransformersEngine(load_model(config.model).eval(), tokenizer, token_budget=config.compute.rollout_tokens)
    if config.rollout.engine == "transformers":
        own.model.to("cuda" if torch.cuda.is_available() else "cpu")
        return own
    # Nothing of it belongs into the run's folder, no adapter is there yet, and the policy may be the one that writes.
    skills = config.skills.model_copy(update={"every": 1})
    alone = config.model_copy(update={"output": str(folder), "lora": None, "skills": skills})
    return outside_engine(alone, make_accelerator(), own, Untrained())


def _metadata(config: RunConfig) -> dict[str, Any]:
    source = f"sgsd {version('sgsd')}, cold start"
    return {"source": source, "model": config.model.path, "skills": config.skills.model_dump(mode="json")}


def _deliver(store: Path, target: Path) -> None:
    """A JSON file or a store, as the name asks for; written whole or not at all."""
    with BankStore(store, read_only=True) as source:
        bank = source.snapshot()
    if target.suffix == ".json":
        save_bank(bank, target)
        return
    write_atomic(target, store.read_bytes())


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[cost]}"), console=console, transient=True)


class _Stages:
    """One bar a stage, with what the writer has cost so far."""

    def __init__(self, bar: Progress, client: WriterClient) -> None:
        self.bar, self.client = bar, client
        self.tasks: dict[str, Any] = {}

    def show(self, name: str, done: int, total: int) -> None:
        if name not in self.tasks:
            self.tasks[name] = self.bar.add_task(name, total=total or None, cost="")
        usage = self.client.usage
        cost = f"{usage.prompt_tokens + usage.completion_tokens:,} tokens, {usage.cached} cached" if usage.calls else ""
        self.bar.update(self.tasks[name], completed=done, cost=cost)


def _layer_line(console: Console) -> Any:
    def show(kind: str, layer: Layer) -> None:
        groups = "one group" if layer.groups == 1 else f"{layer.groups} groups"
        console.print(f"merged {kind}: {layer.before} → {layer.after} in {groups}", highlight=False)

    return show


def _print_forecast(
    config: RunConfig,
    settings: BuildSettings,
    prompts: PromptSet,
    problems: Sequence[Problem],
    tokenizer: Any,
    console: Console,
) -> None:
    """The policy's tokenizer counts for any writer: theirs differ by less than the estimate does."""
    problem = problem_at(problems, 0, config.seed)
    example = Memory(0, problem.id, problem.text, "", correct=True)
    cost = forecast(
        settings, example, prompts, lambda text: len(tokenizer(text)["input_ids"]), config.sampling.max_tokens
    )
    console.print(
        f"{cost.rollouts} rollouts of at most {config.sampling.max_tokens} tokens; then at most"
        f" {cost.extract_calls} calls to extract and about {cost.merge_calls} to merge:"
        f" about {cost.prompt_tokens:,} tokens in, {cost.completion_tokens:,} out. Nothing was written.",
        soft_wrap=True,
        highlight=False,
    )


def _print_result(built: dict[str, Any], target: Path, console: Console) -> None:
    usage = built["writer"]
    lost = sum(usage["failures"].values())
    console.print(
        f"{target}: {built['skills']} skills and {built['mistakes']} mistakes from {built['memories']} rollouts"
        f" ({built['successes']} right, {built['failures']} wrong, {built['unknown']} undecided);"
        f" {usage['calls']} calls, {usage['cached']} answers from the cache, {lost} without an answer,"
        f" {usage['prompt_tokens']:,} tokens in, {usage['completion_tokens']:,} out.",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
