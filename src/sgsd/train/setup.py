"""Builds everything a run needs from its configuration, in one place."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

import sgsd
from sgsd.bank import Bank, open_bank
from sgsd.config.run_config import RunConfig
from sgsd.contexts.prompt_builders import PromptBuilder
from sgsd.data.problems import load_problems
from sgsd.distributed.launcher import make_strategy
from sgsd.distributed.processes import from_first
from sgsd.evaluation import Evaluator
from sgsd.methods import Method
from sgsd.records.run_files import Records
from sgsd.rollout import Engine, TransformersEngine
from sgsd.scorer.module import causal_lm
from sgsd.train.checks import (
    check_shown_solutions,
    check_strategy,
    usable_problems,
    warn_of_groups,
    warn_of_moving_names,
    warn_of_overlap,
    warn_of_template,
)
from sgsd.train.context_resources import Contexts, make_contexts, make_prompts, make_train_prompts
from sgsd.train.critic import WriterCritic, make_critic
from sgsd.train.engines import make_engine
from sgsd.train.evidence_log import EvidenceLog
from sgsd.train.lora_targets import tell_layers
from sgsd.train.microbatch import warmup
from sgsd.train.models import check_vocabulary, load_model, load_tokenizer, make_scorer, weights_hash
from sgsd.train.policy import Budgets, Policy
from sgsd.train.run_bank import STORE, RunBank
from sgsd.train.sampling import Sampler, check_solutions
from sgsd.train.step import Learner
from sgsd.train.teachers import TeacherUpdater
from sgsd.types import Problem, UserError
from sgsd.verify import Contract, Verifier, load_verifier

PACKAGES = ("torch", "transformers", "accelerate", "peft", "numpy", "math-verify", "bm25s")


@dataclass
class Run:
    """The parts of a run by name. The loop holds it; functions take the parts they use."""

    config: RunConfig
    method: Method
    policy: Policy  # the model that trains
    learner: Learner  # scores, computes the loss, updates
    sampler: Sampler  # asks the engine for rollouts
    verifier: Verifier
    prompts: PromptBuilder  # plain prompts, as teachers and evaluations start from
    teacher_updater: TeacherUpdater
    evidence_log: EvidenceLog
    bank: RunBank | None
    evaluator: Evaluator | None
    critic: WriterCritic | None = None  # where teachers are shown its words
    skipped_problems: int = 0  # left out because the student's prompt does not fit
    contexts: Contexts = field(init=False)  # makes the prompts of the student and of its teachers

    @property
    def engine(self) -> Engine:
        return self.sampler.engine

    @engine.setter
    def engine(self, engine: Engine) -> None:
        self.sampler.engine = engine

    @property
    def problems(self) -> Sequence[Problem]:
        return self.sampler.problems

    @property
    def accelerator(self) -> Accelerator:
        return self.policy.accelerator

    @property
    def tokenizer(self) -> Any:
        return self.policy.tokenizer

    @property
    def vocabulary(self) -> int:
        """The number of tokens that a uniform guess has the choice of."""
        return int(causal_lm(self.policy.model).config.get_text_config().vocab_size)

    def provenance(self) -> dict[str, Any]:
        """Everything but the configuration that a figure depends on."""
        return {
            "model": self.config.model.path,
            "model_sha256": weights_hash(self.config.model),
            "bank_version": self.bank.current.version if self.bank else None,
            "versions": {"sgsd": sgsd.__version__, **{name: version(name) for name in PACKAGES}},
            "machine": {
                "python": platform.python_version(),
                "system": platform.platform(),
                "device": str(self.accelerator.device),
                "threads": torch.get_num_threads(),
                "cpu": torch.backends.cpu.get_cpu_capability(),
            },
        }

    def follow_bank(self) -> None:
        """Make contexts and prompts from what the bank holds now."""
        bank, ledger = self.bank.current if self.bank else None, lambda: self.evidence_log.ledger
        config, method, prompts = self.config, self.method, self.prompts
        self.contexts = make_contexts(
            config, method, prompts, bank, ledger, problems=self.problems, engine=self.engine, critic=self.critic
        )
        self.sampler.prompts = self.contexts.train_prompts
        if self.evaluator is not None:
            self.evaluator = replace(self.evaluator, prompts=self.contexts.eval_prompts)


def build_run(config: RunConfig, accelerator: Accelerator) -> Run:
    """Load, wire and prepare everything.

    Raises UserError: something the configuration names is missing or does not fit.
    """
    if config.compute.threads is not None:
        torch.set_num_threads(config.compute.threads)
    method = config.build_method()
    check_strategy(config, method, accelerator)
    warn_of_groups(config, method)
    warn_of_moving_names(config)
    # What is quick to check comes first: a missing file should not wait for a model.
    problems = load_problems(config.data)
    bank = from_first(accelerator, lambda: load_bank_for(config, method))
    tokenizer = load_tokenizer(config.model)
    prompts = make_prompts(config, tokenizer)
    warn_of_template(config, method, tokenizer)
    usable = usable_problems(config, make_train_prompts(config, method, prompts, bank), problems)
    check_shown_solutions(method, usable)
    check_solutions(method, usable, prompts.control_tokens)
    evidence_log = EvidenceLog(accelerator, Records(config.folder))
    verifier = make_verifier(config)
    policy, engine, end_ids = build_policy(config, method, tokenizer, accelerator)
    scorer, share = policy.bare_scorer, (accelerator.process_index, accelerator.num_processes)
    run = Run(
        config=config,
        method=method,
        policy=policy,
        learner=Learner(
            config,
            method,
            policy,
            engine,
            evidence_log,
            find_ignored_token_ids(tokenizer) | end_ids,
            may_leave_out(config, method),
            config.group_size,
        ),
        sampler=Sampler(config, engine, usable, prompts, tokenizer, method.on_policy, config.group_size, share),
        verifier=verifier,
        prompts=prompts,
        critic=make_critic(config, method, accelerator, engine, tokenizer),
        teacher_updater=TeacherUpdater(
            method.teacher, config.teacher, scorer.model, scorer.teacher_copy, policy.strategy
        ),
        evaluator=make_evaluator(config, accelerator, engine, verifier, prompts),
        evidence_log=evidence_log,
        bank=None if bank is None else RunBank.configured(bank, config.folder / STORE, bank_file(config)),
        skipped_problems=len(problems) - len(usable),
    )
    if run.evaluator is not None:
        warn_of_overlap(usable, run.evaluator.problems)
    run.follow_bank()
    run.contexts.prepare(run.sampler.problems_ahead())
    policy.strategy.start(lambda: warmup(policy))
    return run


def build_policy(
    config: RunConfig, method: Method, tokenizer: Any, accelerator: Accelerator
) -> tuple[Policy, Engine, frozenset[int]]:
    """Load the model, prepare it and its optimizer, and make the engine; also returns end tokens."""
    model = load_model(config.model)
    check_vocabulary(model, tokenizer)
    checkpointing = config.model.gradient_checkpointing
    temperature = config.sampling.temperature if config.rollout.logprobs == "processed" else 1.0
    bare = make_scorer(
        model, method, config.lora, config.seed, gradient_checkpointing=checkpointing, temperature=temperature
    )
    o, sampled = config.optimizer, bare.model
    if config.lora is not None:
        tell_layers(sampled, config.lora.target_modules)
    trained = [p for p in bare.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=o.lr, betas=o.betas, weight_decay=o.weight_decay)
    strategy = make_strategy(accelerator)
    scorer, _ = strategy.prepare(bare, optimizer, config.model, o)
    budgets = Budgets(config.compute.student_tokens, config.compute.teacher_tokens)
    exact = config.model.dtype == "float32" and accelerator.mixed_precision == "no"
    own = TransformersEngine(sampled, tokenizer, token_budget=config.compute.rollout_tokens, logprobs_at=temperature)
    engine = make_engine(config, accelerator, strategy, sampled, own)
    return Policy(scorer, tokenizer, accelerator, strategy, budgets, exact), engine, own.end_ids


def may_leave_out(config: RunConfig, method: Method) -> bool:
    """True where a teacher may be missing; a property of the run, so that all processes count alike."""
    return config.prompts.unfit == "skip" or method.context.sees_rollouts


def load_bank_for(config: RunConfig, method: Method) -> Bank | None:
    if not (method.retrieves or config.evaluation.skills):
        return None
    path = bank_file(config)
    if path is None:
        from sgsd.lab.demo_bank import demo_bank

        return demo_bank()
    return open_bank(path)


def bank_file(config: RunConfig) -> Path | None:
    """The file that the configured bank is read from; none: it is the bundled one."""
    assert config.bank.path is not None, "the configuration has been checked for this"
    return None if config.bank.path == "lab" else Path(config.bank.path)


def make_verifier(config: RunConfig) -> Verifier:
    """The verifier by its name; "gym" is the one that asks the puzzles themselves. Raises UserError."""
    name = "sgsd.data.gym:GymVerifier" if config.verifier.name == "gym" else config.verifier.name
    v = config.verifier
    contract = Contract(v.threshold, v.timeout, v.on_error, v.completions)
    return load_verifier(name, contract=contract, **v.options)


def make_evaluator(
    config: RunConfig, accelerator: Accelerator, engine: Engine, verifier: Verifier, prompts: PromptBuilder
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
        prompts=prompts,
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
