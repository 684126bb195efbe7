"""Builds everything a run needs from its configuration, in one place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from sgsd.bank import (
    Bank,
    open_bank,
)
from sgsd.config.run_config import RunConfig
from sgsd.contexts import (
    AnyProvider,
    NoContextProvider,
    PromptBuilder,
    fitting,
    load_prompts,
    thinking_mode,
)
from sgsd.data.problems import load_problems
from sgsd.distributed.launcher import make_strategy
from sgsd.distributed.processes import from_first
from sgsd.distributed.replicated import Strategy
from sgsd.evaluate import Evaluator
from sgsd.hub.public import is_hub_name
from sgsd.methods import Method
from sgsd.notices import warn
from sgsd.records.run_files import Records
from sgsd.rollout import Engine, TransformersEngine
from sgsd.scorer import Scorer
from sgsd.train.contexts.controls import make_nulls
from sgsd.train.contexts.critic import WriterCritic, make_critic
from sgsd.train.contexts.off_policy import check_solutions
from sgsd.train.contexts.pools import made_of_rollouts, make_eval_prompts, make_provider, make_train_prompts
from sgsd.train.engines import make_engine
from sgsd.train.evidence_log import EvidenceLog
from sgsd.train.microbatch import Budgets, warmup
from sgsd.train.models import check_vocabulary, load_model, load_tokenizer, make_scorer
from sgsd.train.run_bank import STORE, RunBank
from sgsd.train.teachers import TeacherUpdater
from sgsd.types import Problem, UserError
from sgsd.verify import Verifier, load_verifier


@dataclass
class Parts:
    """A run, taken apart: the loop below reads like the method because everything is here by name."""

    config: RunConfig
    method: Method
    accelerator: Accelerator
    scorer: Any  # what accelerator.prepare made of the Scorer
    optimizer: torch.optim.Optimizer
    tokenizer: Any
    engine: Engine
    verifier: Verifier
    maker: PromptBuilder
    provider: AnyProvider
    problems: Sequence[Problem]
    teacher_updater: TeacherUpdater
    evaluator: Evaluator | None
    bank: RunBank | None
    evidence_log: EvidenceLog
    ignored_token_ids: frozenset[int]
    nulls: AnyProvider | None = None  # of the null teacher, where the stance is a contrast to one
    skipped_problems: int = 0  # left out because the student's prompt does not fit
    strategy: Strategy = field(default_factory=Strategy)
    critic: WriterCritic | None = None  # where teachers are shown its words
    train_prompts: PromptBuilder = field(
        init=False
    )  # words the prompts of the student that trains: `maker`, or with pairs
    budgets: Budgets = field(init=False)  # of passes; a process that runs out of memory halves them for all

    def __post_init__(self) -> None:
        self.train_prompts = self.maker
        self.budgets = Budgets(self.config.compute.student_tokens, self.config.compute.teacher_tokens)

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    @property
    def bare_scorer(self) -> Scorer:
        return self.accelerator.unwrap_model(self.scorer)

    def token_mask(self, token_ids: Sequence[int]) -> Tensor:
        """Which tokens the loss is of: all, or all but special ones, think tags and runs of newlines."""
        every = self.method.tokens == "all"
        return torch.tensor([every or token not in self.ignored_token_ids for token in token_ids])

    def all_sum(self, value: Any) -> Any:
        tensor = torch.as_tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return self.accelerator.reduce(tensor, "sum").cpu()

    def all_max(self, value: int) -> int:
        return int(self.largest(value))

    def largest(self, value: float) -> float:
        tensor = torch.tensor([value], dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.gather(tensor).max())

    @property
    def may_leave_out(self) -> bool:
        """Whether a teacher may be missing; a property of the run, so that all processes count alike."""
        return self.config.prompts.unfit == "skip" or made_of_rollouts(self.method.context)

    def follow_bank(self) -> None:
        """Make contexts from what the bank holds now."""
        bank, ledger = self.bank.current if self.bank else None, lambda: self.evidence_log.ledger
        self.provider = make_provider(
            self.config,
            self.method,
            self.maker,
            bank,
            ledger,
            problems=self.problems,
            engine=self.engine,
            critic=self.critic,
        )
        self.nulls = make_nulls(self.method, self.provider, self.config.prompts.folder)
        self.train_prompts = make_train_prompts(self.config, self.method, self.maker, bank, ledger)
        if self.evaluator is not None:
            self.evaluator = replace(self.evaluator, maker=make_eval_prompts(self.config, self.maker, bank, ledger))


def build_parts(config: RunConfig, accelerator: Accelerator) -> Parts:
    """Load, wire and prepare.

    Raises:
        UserError: something the configuration names is missing or does not fit.
    """
    if config.compute.threads is not None:
        torch.set_num_threads(config.compute.threads)
    method = config.build_method()
    strategy = make_strategy(accelerator)
    check_strategy(config, method, accelerator)
    warn_of_moving_names(config)
    # What is quick to check comes first: a missing file should not wait for a model.
    problems = load_problems(config.data)
    bank = from_first(accelerator, lambda: load_bank_for(config, method))
    tokenizer = load_tokenizer(config.model)
    maker = PromptBuilder(load_prompts(config.prompts.folder), tokenizer, config.prompts.max_tokens)
    warn_of_template(config, method, tokenizer)
    usable = usable_problems(config, make_train_prompts(config, method, maker, bank), problems)
    check_solutions(method, usable, maker.control_tokens)
    evidence_log = EvidenceLog(accelerator, Records(config.folder))
    verifier = make_verifier(config)
    model = load_model(config.model)
    check_vocabulary(model, tokenizer)
    checkpointing = config.model.gradient_checkpointing
    scorer = make_scorer(model, method, config.lora, config.seed, gradient_checkpointing=checkpointing)
    trained = [p for p in scorer.parameters() if p.requires_grad]
    o = config.optimizer
    optimizer = torch.optim.AdamW(trained, lr=o.lr, betas=o.betas, weight_decay=o.weight_decay)
    teacher_updater = TeacherUpdater(method.teacher, config.teacher, scorer.model, scorer.teacher_copy, strategy)
    sampler = scorer.model
    scorer, optimizer = strategy.prepare(scorer, optimizer, config.model, o)
    own = TransformersEngine(sampler, tokenizer, token_budget=config.compute.rollout_tokens)
    engine = make_engine(config, accelerator, strategy, sampler, own)
    parts = Parts(
        config=config,
        method=method,
        accelerator=accelerator,
        strategy=strategy,
        scorer=scorer,
        optimizer=optimizer,
        tokenizer=tokenizer,
        engine=engine,
        verifier=verifier,
        maker=maker,
        provider=NoContextProvider(),
        critic=make_critic(config, method, accelerator, engine, tokenizer),
        problems=usable,
        teacher_updater=teacher_updater,
        evaluator=make_evaluator(config, accelerator, engine, verifier, maker),
        evidence_log=evidence_log,
        bank=None if bank is None else RunBank.configured(bank, config.folder / STORE, bank_file(config)),
        ignored_token_ids=find_ignored_token_ids(tokenizer) | own.end_ids,
        skipped_problems=len(problems) - len(usable),
    )
    parts.follow_bank()
    strategy.start(lambda: warmup(parts))
    return parts


def usable_problems(config: RunConfig, maker: PromptBuilder, problems: Sequence[Problem]) -> list[Problem]:
    """All of them, or those that fit where the others are to be left out. Raises UserError for one that does not."""
    p = config.prompts
    kept, reasons = fitting(problems, maker, thinking=p.student_thinking, unfit=p.unfit)
    if reasons:
        warn(f"prompts.unfit: {len(reasons)} of {len(problems)} problems are left out; the first: {reasons[0]}")
    return kept


def warn_of_template(config: RunConfig, method: Method, tokenizer: Any) -> None:
    """Say which thinking settings the model's template does not heed, and what else it does that nobody asked for."""
    p = config.prompts
    if "strftime_now" in str(tokenizer.chat_template):
        warn(f"the chat template of {config.model.path} writes today's date into every prompt: each day is another run")
    mode = thinking_mode(tokenizer)
    if mode == "switch":
        return
    always = mode == "always"
    roles = {"student": p.student_thinking}
    if method.has_teachers:
        roles["teacher"] = p.teacher_thinking
    if config.evaluation.data is not None:
        roles["evaluation"] = p.evaluation_thinking
    if ignored := [f"prompts.{role}_thinking" for role, on in roles.items() if on != always]:
        why = "always opens a think block" if always else "knows no switch for thinking"
        names, value = " and ".join(ignored), str(always).lower()
        warn(f"{names}: ignored, the chat template of {config.model.path} {why}; set {value} to say so")


def check_strategy(config: RunConfig, method: Method, accelerator: Accelerator) -> None:
    """Raises UserError for what several processes, or weights in parts, cannot do."""
    groups, count, strategy = (
        config.rollouts // config.group_size,
        accelerator.num_processes,
        make_strategy(accelerator),
    )
    if groups < count:
        raise UserError(f"rollouts: {groups} groups cannot be shared by {count} processes")
    writes = "writer" in method.context.all_needs() or (method.retrieves and config.skills.every > 0)
    if strategy.in_parts and writes and config.writer.kind == "policy":
        raise UserError(
            f"writer.kind: policy writes on one process, which under {strategy.kind} holds only a part of the weights;"
            " use a writer of kind server, or a launch that keeps them whole"
        )


def load_bank_for(config: RunConfig, method: Method) -> Bank | None:
    if not (method.retrieves or config.evaluation.skills):
        return None
    path = bank_file(config)
    if path is None:
        from sgsd.lab.demo_bank import demo_bank

        return demo_bank()
    return open_bank(path)


def bank_file(config: RunConfig) -> Path | None:
    """Where the configured bank is read from; none: it is the bundled one."""
    assert config.bank.path is not None, "the configuration has been checked for this"
    return None if config.bank.path == "lab" else Path(config.bank.path)


def make_verifier(config: RunConfig) -> Verifier:
    """The verifier by its name; "gym" is the one that asks the puzzles themselves. Raises UserError."""
    name = "sgsd.data.gym:GymVerifier" if config.verifier.name == "gym" else config.verifier.name
    return load_verifier(name, **config.verifier.options)


def warn_of_moving_names(config: RunConfig) -> None:
    """Say which of the things that come from the hub may be another one tomorrow."""
    named = {"model": config.model, "data": config.data, "evaluation.data": config.evaluation.data}
    for key, section in named.items():
        if section is None or not is_hub_name(section.path):
            continue
        if not re.fullmatch("[0-9a-f]{40}", section.revision or ""):
            what = f"{section.revision} can move" if section.revision else "not pinned"
            warn(f"{key} {section.path}: {what}: results may change; add {key}.revision: <commit>")


def make_evaluator(
    config: RunConfig, accelerator: Accelerator, engine: Engine, verifier: Verifier, maker: PromptBuilder
) -> Evaluator | None:
    """The held-out evaluation, if the configuration names data for one."""
    if config.evaluation.data is None:
        return None
    problems = load_problems(config.evaluation.data)
    if len(problems) < config.evaluation.problems:
        raise UserError(
            f"evaluation.problems: {config.evaluation.problems} were asked for,"
            f" {config.evaluation.data.path} has {len(problems)}"
        )
    return Evaluator(
        engine=engine,
        verifier=verifier,
        maker=maker,
        problems=problems[: config.evaluation.problems],
        sampling=config.evaluation.sampling.to_sampling(),
        samples=config.evaluation.samples,
        thinking=config.prompts.evaluation_thinking,
        seed=config.seed + 1_000_003,  # away from the training rollouts' seeds
        share=(accelerator.process_index, accelerator.num_processes),
        gather=gather_object,
    )


def find_ignored_token_ids(tokenizer: Any) -> frozenset[int]:
    """Tokens that never teach: special ones, think tags, and runs of two newlines or more."""
    # A tokenizer lists only those with a name among its special ones; the flag marks the others.
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    special |= set(tokenizer.all_special_ids)
    tags = {tokenizer.convert_tokens_to_ids(tag) for tag in ("<think>", "</think>")} - {None, tokenizer.unk_token_id}
    runs = {
        token for token in range(len(tokenizer)) if set(text := tokenizer.decode([token])) == {"\n"} and len(text) > 1
    }
    return frozenset(special | tags | runs)
