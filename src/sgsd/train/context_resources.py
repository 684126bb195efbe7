"""All prompts of a run: what its contexts are made from, and the builders that its method and configuration ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from sgsd.bank import (
    Bank,
    CurrentLedger,
    Hit,
    Ledger,
    Ranker,
    RerankedRetriever,
    Retriever,
    load_bank,
    make_retriever,
    pairs_for,
    render_pair,
    reweigh,
)
from sgsd.config.run_config import RunConfig
from sgsd.contexts.base import Block, Context, Critic, Graded, Resources, make_pools
from sgsd.contexts.controls import RandomPairs, null_teacher
from sgsd.contexts.off_topic import OffTopic
from sgsd.contexts.prompt_builders import PromptBuilder, SkillPromptBuilder, TeacherPrompts, UnfitPrompt
from sgsd.contexts.prompts import BUNDLED, Quote, load_prompts
from sgsd.contexts.skill_pairs import PairSide, SkillPairs, pair_text
from sgsd.methods import Method
from sgsd.methods.method import RetrievalSoftmax
from sgsd.rollout import Engine
from sgsd.types import Mistake, Problem, Skill, SkillPair, UserError

OFF_TOPIC = "off_topic.json"
REASON_SEED = 2_000_003  # away from the rollouts' seeds and from the evaluation's


@dataclass(frozen=True)
class Contexts:
    """The prompts of a run for one state of its bank."""

    train_prompts: PromptBuilder
    eval_prompts: PromptBuilder
    teachers: TeacherPrompts
    null_teachers: TeacherPrompts | None  # one a rollout, where the stance is a contrast to it

    def prepare(self, problems: Sequence[Problem]) -> None:
        """Make now, and check, every teacher's prompt that neither rollouts nor the evidence on items can change.

        Raises UserError: one cannot be shown.
        """
        for teachers in filter(None, (self.teachers, self.null_teachers)):
            retrieve = teachers.resources.retrieve
            moving = isinstance(retrieve, PairRetrieval) and retrieve.follows_evidence
            if not teachers.context.sees_rollouts and not moving:
                teachers.prepare(problems)

    def before_rollouts(self) -> Contexts:
        """The same, of the teachers that can be shown before there are rollouts."""
        nulls = None if self.null_teachers is None else _before_rollouts(self.null_teachers)
        return replace(self, teachers=_before_rollouts(self.teachers), null_teachers=nulls)


def _before_rollouts(teachers: TeacherPrompts) -> TeacherPrompts:
    return teachers.of(teachers.context.before_rollouts())


def make_contexts(
    config: RunConfig,
    method: Method,
    prompts: PromptBuilder,
    bank: Bank | None,
    ledger: CurrentLedger = Ledger,
    *,
    problems: Sequence[Problem] = (),
    engine: Engine | None = None,
    critic: Critic | None = None,
) -> Contexts:
    """All prompts, made from what the bank holds now; `ledger` is asked anew at every use.

    Args:
        prompts: builds the student's prompts without anything added.
        problems: those of the training set, for contexts that show something of another one.
        engine: for teachers that reason first.
        critic: for teachers that are shown a critique.

    Raises:
        UserError: the bank is empty, an embedding model is missing, or the off-topic items are no bank.
    """
    resources = make_resources(config, method, prompts, bank, ledger, problems, engine, critic)
    teachers = TeacherPrompts(method.context, resources, prompts, config.prompts.teacher_thinking, config.prompts.unfit)
    nulls = teachers.of(null_teacher(method.context)) if method.stance.needs_null else None
    for made in (teachers, nulls):
        if made is not None:
            prepare(made.context, resources)
    skills = config.evaluation.skills
    return Contexts(
        train_prompts=with_pairs(config, prompts, resources, check_student_context(method)),
        eval_prompts=with_pairs(config, prompts, resources, SkillPairs(skills) if skills else None),
        teachers=teachers,
        null_teachers=nulls,
    )


def make_resources(
    config: RunConfig,
    method: Method,
    prompts: PromptBuilder,
    bank: Bank | None,
    ledger: CurrentLedger = Ledger,
    problems: Sequence[Problem] = (),
    engine: Engine | None = None,
    critic: Critic | None = None,
) -> Resources:
    temperature = method.weights.temperature if isinstance(method.weights, RetrievalSoftmax) else float("inf")
    resources = Resources(
        templates=prompts.templates,
        quote=Quote(prompts.control_tokens),
        seed=config.seed,
        problems=problems,
        retrieve=None if bank is None else PairRetrieval(config, bank, ledger, temperature),
        render_pair=render_pair,
        count_tokens=partial(count_tokens, prompts.tokenizer),
        critic=critic,
        reasoner=None if engine is None else EngineReasoner(engine, prompts, config),
    )
    return replace(resources, load_off_topic=partial(load_off_topic, config.prompts.folder, resources))


def prepare(context: Context, resources: Resources) -> None:
    """Make now what a context would make at its first use. Raises UserError where it cannot be made."""
    for leaf in context.leaves():
        make_pools(leaf.before_rollouts(), [], resources)
    if "off_topic" in context.all_needs():
        _ = resources.off_topic


def make_prompts(config: RunConfig, tokenizer: Any) -> PromptBuilder:
    """Plain prompts, as students, teachers and evaluations start from."""
    p = config.prompts
    return PromptBuilder(load_prompts(p.folder), tokenizer, p.max_tokens, template_kwargs=p.template_kwargs)


# ── The student's prompts ──────────────────────────────────────────────────────────────────────────────────────────


def make_train_prompts(config: RunConfig, method: Method, prompts: PromptBuilder, bank: Bank | None) -> PromptBuilder:
    """The builder that `make_contexts` makes for training, alone, from the bank at the beginning."""
    resources = make_resources(config, method, prompts, bank)
    return with_pairs(config, prompts, resources, check_student_context(method))


def check_student_context(method: Method) -> SkillPairs | None:
    """The pairs that the student itself is shown while it trains. Raises UserError for a control."""
    if method.student_context is not None and not isinstance(method.student_context, SkillPairs):
        raise UserError(f"method {method.name}: the student is shown retrieved pairs or random ones, no other control")
    return method.student_context


def with_pairs(
    config: RunConfig, prompts: PromptBuilder, resources: Resources, pairs: SkillPairs | None
) -> PromptBuilder:
    """`prompts` itself where there are no pairs to show."""
    if pairs is None:
        return prompts
    assert isinstance(resources.retrieve, PairRetrieval), "the configuration has been checked for a bank"
    retrieve = replace(resources.retrieve, temperature=float("inf"))
    retrieve.retriever(pairs)
    return SkillPromptBuilder(
        prompts.templates,
        prompts.tokenizer,
        prompts.max_tokens,
        partial(retrieve, pairs),
        render_pair,
        unfit=config.prompts.unfit,
        template_kwargs=prompts.template_kwargs,
    )


# ── Retrieval of pairs, as the configuration says ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class PairRetrieval:
    """Retrieves a pool of pairs for each query, as a declaration says; those of `RandomPairs` are drawn by chance.

    `temperature` is that of the pairs' weights; `ledger` is asked anew at every use.
    """

    config: RunConfig
    bank: Bank
    ledger: CurrentLedger
    temperature: float
    _made: dict[bool, Retriever] = field(default_factory=dict)

    @property
    def follows_evidence(self) -> bool:
        """True where what was seen of the items in a run moves what is retrieved for a problem, or its weights."""
        return bool(self.config.bank.rerank or self.config.bank.reweigh)

    def __call__(self, pairs: SkillPairs, queries: Sequence[str]) -> list[tuple[SkillPair, ...]]:
        chosen = self.config.bank
        retriever = one_sided(self.retriever(pairs), pairs.side)
        if not queries:
            return []
        pools = pairs_for(retriever, queries, pairs.k, self.temperature, chosen.pairing)
        if not chosen.reweigh:
            return pools
        return [reweigh(pool, self.ledger(), chosen.reweigh, self.temperature) for pool in pools]

    def retriever(self, pairs: SkillPairs) -> Retriever:
        """Made once for each kind. Raises UserError for an empty bank, or a model that cannot be had."""
        by_chance = isinstance(pairs, RandomPairs)
        if by_chance not in self._made:
            self._made[by_chance] = self._random() if by_chance else self._configured()
        return self._made[by_chance]

    def _random(self) -> Retriever:
        return make_retriever("random", self.bank, seed=self.config.seed)

    def _configured(self) -> Retriever:
        chosen = self.config.bank
        embedding = chosen.embedding.to_settings() if chosen.embedding else None
        retriever = make_retriever(
            chosen.retrieval, self.bank, seed=self.config.seed, diversity=chosen.diversity, embedding=embedding
        )
        return RerankedRetriever(retriever, self.ledger, chosen.rerank) if chosen.rerank else retriever


@dataclass(frozen=True)
class _Nothing:
    def rank(self, queries: Sequence[str], k: int) -> list[list[Hit[Any]]]:
        return [[] for _ in queries]


@dataclass(frozen=True)
class _OneSided:
    skills: Ranker[Skill]
    mistakes: Ranker[Mistake]


def one_sided(retriever: Retriever, side: PairSide) -> Retriever:
    """Retrieval of skills without mistakes, or the reverse: scores and weights are that side's own."""
    if side == "pair":
        return retriever
    if side == "skill":
        return _OneSided(retriever.skills, _Nothing())
    return _OneSided(_Nothing(), retriever.mistakes)


# ── Off-topic items ────────────────────────────────────────────────────────────────────────────────────────────────


def load_off_topic(folder: str, resources: Resources) -> OffTopic:
    """The off-topic items of a prompt set, measured by the model's own tokens. Raises UserError: they are no bank."""
    items = off_topic_items(folder)
    return OffTopic(items.skills, items.mistakes, partial(pair_text, resources=resources), resources.count_tokens)


def count_tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def off_topic_items(folder: str) -> Bank:
    """The lab's own, those of the folder's off_topic.json, or the bundled ones, which are about anything but maths.

    Raises UserError: the folder's file is not a bank.
    """
    if folder == "lab":
        from sgsd.lab.demo_bank import off_topic_bank

        return off_topic_bank()
    own = Path(folder) / OFF_TOPIC
    return load_bank(own if own.is_file() else BUNDLED / "math" / OFF_TOPIC)


# ── Teachers that reason first ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class EngineReasoner:
    """Samples as the rollouts are sampled, from the policy as it is now, `teacher.reason_tokens` at most.

    The rollout's index and the prompt decide what is drawn; of the rollout nothing else is looked at.
    """

    engine: Engine
    prompts: PromptBuilder
    config: RunConfig

    def __call__(self, rollouts: Sequence[Graded], blocks: Sequence[Block]) -> list[str]:
        """Returns an empty text where the prompt does not fit: the teacher's own is refused, or left out, likewise."""
        prompts = [self._prompt(rollout, block) for rollout, block in zip(rollouts, blocks, strict=True)]
        asked = [place for place, prompt in enumerate(prompts) if prompt]
        sampling = replace(self.config.sampling.to_sampling(), max_tokens=self.config.teacher.reason_tokens)
        # Also where nothing is asked: with weights in parts, all processes sample together.
        done = self.engine.sample(
            [prompts[place] for place in asked],
            [rollouts[place].index for place in asked],
            sampling,
            seed=self.config.seed + REASON_SEED,
        )
        written = {place: completion.text for place, completion in zip(asked, done, strict=True)}
        return [written.get(place, "") for place in range(len(rollouts))]

    def _prompt(self, rollout: Graded, block: Block) -> tuple[int, ...]:
        thinking = self.config.prompts.teacher_thinking
        try:
            return self.prompts.teacher(rollout.problem, block.text or "", thinking=thinking, name=block.source)
        except UnfitPrompt:
            return ()
