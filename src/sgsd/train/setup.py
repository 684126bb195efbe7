"""Builds everything a run needs from its configuration, in one place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from torch import Tensor

from sgsd.bank import (
    Bank,
    Ledger,
    LedgerNow,
    Retriever,
    TrustingRetriever,
    make_retriever,
    open_bank,
    pairs_for,
    render_pair,
    weighed,
)
from sgsd.contexts import (
    AnswerBlocks,
    BlockMaker,
    BlockProvider,
    ContextProvider,
    JoinedBlocks,
    NoContextProvider,
    PromptMaker,
    PromptSet,
    SkillPairBlocks,
    fitting,
    load_prompts,
    thinking_mode,
)
from sgsd.evaluate import Evaluator
from sgsd.method import Method
from sgsd.method.joints import FollowOutcome, RetrievalSoftmax, SkillPairs
from sgsd.rollout import Engine, TransformersEngine
from sgsd.scorer import Scorer
from sgsd.train.books import Books
from sgsd.train.config import RunConfig
from sgsd.train.controls import make_nulls
from sgsd.train.data import load_problems
from sgsd.train.models import check_vocabulary, load_model, load_tokenizer, make_scorer, warn
from sgsd.train.processes import from_first
from sgsd.train.public import is_hub_name
from sgsd.train.records import Records
from sgsd.train.run_bank import RunBank
from sgsd.train.teachers import TeacherKeeper
from sgsd.types import Problem, SkillPair, UserError
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
    maker: PromptMaker
    provider: ContextProvider
    problems: Sequence[Problem]
    keeper: TeacherKeeper
    evaluator: Evaluator | None
    bank: RunBank | None
    books: Books
    silent_ids: frozenset[int]
    nulls: ContextProvider | None = None  # of the null teacher, where the stance is a contrast to one
    skipped_problems: int = 0  # left out because the student's prompt does not fit

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    @property
    def bare_scorer(self) -> Scorer:
        return self.accelerator.unwrap_model(self.scorer)

    def token_mask(self, token_ids: Sequence[int]) -> Tensor:
        """Which tokens the loss is of: all, or all but special ones, think tags and runs of newlines."""
        every = self.method.tokens == "all"
        return torch.tensor([every or token not in self.silent_ids for token in token_ids])

    def all_sum(self, value: Any) -> Any:
        tensor = torch.as_tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return self.accelerator.reduce(tensor, "sum").cpu()

    def all_max(self, value: int) -> int:
        return int(self.largest(value))

    def largest(self, value: float) -> float:
        tensor = torch.tensor([value], dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.gather(tensor).max())

    def follow_bank(self) -> None:
        """Make contexts from what the bank holds now."""
        if self.bank is not None:
            bank, ledger = self.bank.current, lambda: self.books.ledger
            self.provider = make_provider(self.config, self.method, self.maker, bank, ledger)
            self.nulls = make_nulls(self.method, self.provider, self.config.prompts.folder)


def build_parts(config: RunConfig, accelerator: Accelerator) -> Parts:
    """Load, wire and prepare.

    Raises:
        UserError: something the configuration names is missing or does not fit.
    """
    if config.compute.threads is not None:
        torch.set_num_threads(config.compute.threads)
    method = config.build_method()
    warn_of_moving_names(config)
    # What is quick to check comes first: a missing file should not wait for a model.
    problems = load_problems(config.data)
    bank = from_first(accelerator, lambda: load_bank_for(config, method))
    tokenizer = load_tokenizer(config.model)
    maker = PromptMaker(load_prompts(config.prompts.folder), tokenizer, config.prompts.max_tokens)
    warn_of_template(config, method, tokenizer)
    usable = usable_problems(config, maker, problems)
    books = Books(accelerator, Records(config.folder))
    provider = make_provider(config, method, maker, bank, lambda: books.ledger)
    verifier = make_verifier(config)
    model = load_model(config.model)
    check_vocabulary(model, tokenizer)
    checkpointing = config.model.gradient_checkpointing
    scorer = make_scorer(model, method, config.lora, config.seed, gradient_checkpointing=checkpointing)
    trained = [p for p in scorer.parameters() if p.requires_grad]
    check_launch(config, method, accelerator)
    o = config.optimizer
    optimizer = torch.optim.AdamW(trained, lr=o.lr, betas=o.betas, weight_decay=o.weight_decay)
    keeper = TeacherKeeper(method.teacher, config.teacher, scorer.model, scorer.teacher_copy)
    sampler = scorer.model
    scorer, optimizer = accelerator.prepare(scorer, optimizer)
    engine = TransformersEngine(sampler, tokenizer, token_budget=config.compute.rollout_tokens)
    return Parts(
        config=config,
        method=method,
        accelerator=accelerator,
        scorer=scorer,
        optimizer=optimizer,
        tokenizer=tokenizer,
        engine=engine,
        verifier=verifier,
        maker=maker,
        provider=provider,
        nulls=make_nulls(method, provider, config.prompts.folder),
        problems=usable,
        keeper=keeper,
        evaluator=make_evaluator(config, engine, verifier, maker),
        books=books,
        bank=None if bank is None else RunBank.configured(bank, config.folder / "bank.sqlite"),
        silent_ids=silent_token_ids(tokenizer) | engine.end_ids,
        skipped_problems=len(problems) - len(usable),
    )


def usable_problems(config: RunConfig, maker: PromptMaker, problems: Sequence[Problem]) -> list[Problem]:
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


def check_launch(config: RunConfig, method: Method, accelerator: Accelerator) -> None:
    """Raises UserError for launches this version cannot do right."""
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU):
        raise UserError(f"accelerate: {accelerator.distributed_type} is not supported yet; use plain data parallelism")
    groups = config.rollouts // config.group_size
    if groups < accelerator.num_processes:
        raise UserError(f"rollouts: {groups} groups cannot be shared by {accelerator.num_processes} processes")
    if method.follows_trust and accelerator.num_processes > 1:
        raise UserError("method.name: trusted takes its baseline from one process's rollouts; launch one process")
    batch_scaled = isinstance(method.direction, FollowOutcome) and method.direction.scale == "batch"
    if batch_scaled and accelerator.num_processes > 1:
        raise UserError("method.scale_rewards: 'batch' sees one process's rollouts only; use 'group' or 'none'")


def load_bank_for(config: RunConfig, method: Method) -> Bank | None:
    if not isinstance(method.context, SkillPairs):
        return None
    if config.bank.path == "lab":
        from sgsd.lab.bank import demo_bank

        return demo_bank()
    assert config.bank.path is not None, "the configuration has been checked for this"
    return open_bank(Path(config.bank.path))


def make_provider(
    config: RunConfig, method: Method, maker: PromptMaker, bank: Bank | None, ledger: LedgerNow = Ledger
) -> ContextProvider:
    """The provider of the method's context; `ledger` is asked anew at every use."""
    if not method.has_teachers:
        return NoContextProvider()
    blocks = make_blocks(config, method, maker.prompts, bank, ledger)
    return BlockProvider(maker, blocks, config.prompts.teacher_thinking, config.prompts.unfit)


def make_blocks(
    config: RunConfig, method: Method, prompts: PromptSet, bank: Bank | None, ledger: LedgerNow
) -> BlockMaker:
    """What the method's teachers are shown."""
    context, weights = method.context, method.weights
    answer = None if context.shown is None else AnswerBlocks(prompts, context.shown)
    if not isinstance(context, SkillPairs):
        assert answer is not None, "a context without pairs shows the reference"
        return answer
    assert bank is not None, "the configuration has been checked for this"
    chosen = config.bank
    embedding = chosen.embedding.to_settings() if chosen.embedding else None
    retriever: Retriever = make_retriever(
        chosen.retrieval, bank, seed=config.seed, diversity=chosen.diversity, embedding=embedding
    )
    if chosen.rerank:
        retriever = TrustingRetriever(retriever, ledger, chosen.rerank)
    temperature = weights.temperature if isinstance(weights, RetrievalSoftmax) else float("inf")

    def retrieve(queries: Sequence[str]) -> list[tuple[SkillPair, ...]]:
        pools = pairs_for(retriever, queries, context.k, temperature, chosen.pairing)
        return [weighed(pool, ledger(), chosen.reweigh, temperature) for pool in pools] if chosen.reweigh else pools

    pairs = SkillPairBlocks(prompts, retrieve, render_pair)
    return pairs if answer is None else JoinedBlocks(prompts, (pairs, answer))


def make_verifier(config: RunConfig) -> Verifier:
    """The verifier by its name; "gym" is the one that asks the puzzles themselves. Raises UserError."""
    name = "sgsd.train.gym:GymVerifier" if config.verifier.name == "gym" else config.verifier.name
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


def make_evaluator(config: RunConfig, engine: Engine, verifier: Verifier, maker: PromptMaker) -> Evaluator | None:
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
    )


def silent_token_ids(tokenizer: Any) -> frozenset[int]:
    """Tokens that never teach: special ones, think tags, and runs of two newlines or more."""
    # A tokenizer lists only those with a name among its special ones; the flag marks the others.
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    special |= set(tokenizer.all_special_ids)
    tags = {tokenizer.convert_tokens_to_ids(tag) for tag in ("<think>", "</think>")} - {None, tokenizer.unk_token_id}
    runs = {
        token for token in range(len(tokenizer)) if set(text := tokenizer.decode([token])) == {"\n"} and len(text) > 1
    }
    return frozenset(special | tags | runs)
