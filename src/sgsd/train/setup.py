"""Builds everything a run needs from its configuration, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from torch import Tensor

from sgsd.bank import Bank, Bm25Retriever, RandomRetriever, open_bank, pairs_for, render_pair
from sgsd.contexts import (
    AnswerProvider,
    ContextProvider,
    NoContextProvider,
    PromptMaker,
    SkillPairProvider,
    load_prompts,
)
from sgsd.evaluate import Evaluator
from sgsd.method import Method
from sgsd.method.spec import Answer, FollowOutcome, RetrievalSoftmax, SkillPairs
from sgsd.rollout import Engine, TransformersEngine
from sgsd.scorer import Scorer
from sgsd.train.config import RunConfig
from sgsd.train.data import load_problems
from sgsd.train.models import load_model, load_tokenizer, make_scorer
from sgsd.train.teachers import TeacherKeeper
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
    maker: PromptMaker
    provider: ContextProvider
    problems: Sequence[Problem]
    keeper: TeacherKeeper
    evaluator: Evaluator | None
    bank: Bank | None
    silent_ids: frozenset[int]

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    @property
    def bare_scorer(self) -> Scorer:
        return self.accelerator.unwrap_model(self.scorer)

    def token_mask(self, token_ids: Sequence[int]) -> Tensor:
        """Which tokens teach: not special ones, not think tags, not runs of newlines."""
        return torch.tensor([token not in self.silent_ids for token in token_ids])

    def all_sum(self, value: Any) -> Any:
        tensor = torch.as_tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return self.accelerator.reduce(tensor, "sum").cpu()

    def all_max(self, value: int) -> int:
        gathered = self.accelerator.gather(torch.tensor([value], device=self.accelerator.device))
        return int(gathered.max())


def build_parts(config: RunConfig, accelerator: Accelerator) -> Parts:
    """Load, wire and prepare.

    Raises:
        UserError: something the configuration names is missing or does not fit.
    """
    if config.compute.threads is not None:
        torch.set_num_threads(config.compute.threads)
    method = config.build_method()
    # What is quick to check comes first: a missing file should not wait for a model.
    problems = load_problems(config.data)
    bank = load_bank_for(config, method)
    tokenizer = load_tokenizer(config.model)
    maker = PromptMaker(load_prompts(config.prompts.folder), tokenizer, config.prompts.max_tokens)
    provider = make_provider(config, method, maker, bank)
    verifier = load_verifier(config.verifier.name, **config.verifier.options)
    model = load_model(config.model)
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
        problems=problems,
        keeper=keeper,
        evaluator=make_evaluator(config, engine, verifier, maker),
        bank=bank,
        silent_ids=silent_token_ids(tokenizer),
    )


def check_launch(config: RunConfig, method: Method, accelerator: Accelerator) -> None:
    """Raises UserError for launches this version cannot do right."""
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU):
        raise UserError(f"accelerate: {accelerator.distributed_type} is not supported yet; use plain data parallelism")
    groups = config.rollouts // config.group_size
    if groups < accelerator.num_processes:
        raise UserError(f"rollouts: {groups} groups cannot be shared by {accelerator.num_processes} processes")
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


def make_provider(config: RunConfig, method: Method, maker: PromptMaker, bank: Bank | None) -> ContextProvider:
    """The provider of the method's context."""
    thinking = config.prompts.teacher_thinking
    if isinstance(method.context, Answer):
        return AnswerProvider(maker, thinking, show_solution=method.context.show == "solution")
    if not isinstance(method.context, SkillPairs) or bank is None:
        return NoContextProvider()
    retriever = Bm25Retriever(bank) if config.bank.retrieval == "bm25" else RandomRetriever(bank, config.seed)
    k, weights = method.context.k, method.weights
    temperature = weights.temperature if isinstance(weights, RetrievalSoftmax) else float("inf")
    return SkillPairProvider(maker, partial(pairs_for, retriever, k=k, temperature=temperature), render_pair, thinking)


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
    special = set(tokenizer.all_special_ids)
    tags = {tokenizer.convert_tokens_to_ids(tag) for tag in ("<think>", "</think>")} - {None, tokenizer.unk_token_id}
    runs = {
        token for token in range(len(tokenizer)) if set(text := tokenizer.decode([token])) == {"\n"} and len(text) > 1
    }
    return frozenset(special | tags | runs)
