"""The pools of teachers of a run: what its method declares as contexts, as the providers that make their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sgsd.bank import (
    Bank,
    CurrentLedger,
    Ledger,
    RerankedRetriever,
    Retriever,
    make_retriever,
    pairs_for,
    render_pair,
    reweigh,
)
from sgsd.config.run_config import RunConfig
from sgsd.contexts import (
    AnswerBlocks,
    AnyProvider,
    BlockMaker,
    BlockProvider,
    ContextProvider,
    Critic,
    CritiqueBlocks,
    DemonstrationBlocks,
    FeedbackBlocks,
    HintBlocks,
    IrrelevantBlocks,
    JoinedBlocks,
    MixedBlocks,
    NoContextProvider,
    OfProblems,
    OtherProblemBlocks,
    PromptBuilder,
    Quote,
    RandomPairBlocks,
    ReasonedBlocks,
    RolloutMaker,
    RolloutProvider,
    RubricBlocks,
    ShuffledBlocks,
    SiblingBlocks,
    SkillPairBlocks,
    SkillPromptBuilder,
    WrongAnswerBlocks,
    no_context,
)
from sgsd.contexts.blocks import PairRetrieval
from sgsd.methods import Method
from sgsd.methods.context import (
    Answer,
    Context,
    Critique,
    Demonstration,
    Feedback,
    Hints,
    Irrelevant,
    Joined,
    Mixed,
    NoContext,
    Null,
    OtherProblem,
    RandomPairs,
    Rubric,
    Shuffled,
    Sibling,
    SkillPairs,
    WrongAnswer,
)
from sgsd.methods.joints import RetrievalSoftmax, Uniform
from sgsd.rollout import Engine
from sgsd.train.contexts.controls import off_topic
from sgsd.train.contexts.one_sided import one_sided
from sgsd.train.contexts.reasons import EngineReasoner
from sgsd.types import Problem, SkillPair, UserError


def make_provider(
    config: RunConfig,
    method: Method,
    maker: PromptBuilder,
    bank: Bank | None,
    ledger: CurrentLedger = Ledger,
    *,
    problems: Sequence[Problem] = (),
    engine: Engine | None = None,
    critic: Critic | None = None,
) -> AnyProvider:
    """The provider of the method's context; `ledger` is asked anew at every use.

    Args:
        problems: those of the training set, for contexts that show something of another one.
        engine: for teachers that reason first.
        critic: for teachers that are shown a critique.
    """
    if not method.has_teachers:
        return NoContextProvider()
    pools = Pools(config, maker, method.weights, bank, ledger, problems, engine, critic)
    p = config.prompts
    if made_of_rollouts(method.context):
        return RolloutProvider(maker, pools.of_rollouts(method.context), p.teacher_thinking, p.unfit)
    return BlockProvider(maker, pools.of_problems(method.context), p.teacher_thinking, p.unfit)


def make_foreseen(
    config: RunConfig, method: Method, maker: PromptBuilder, bank: Bank | None, problems: Sequence[Problem]
) -> ContextProvider:
    """The provider of those teachers that can be shown before there is a rollout."""
    context = foreseen(method.context)
    if not context.teachers:
        return NoContextProvider()
    pools = Pools(config, maker, method.weights, bank, Ledger, problems)
    return BlockProvider(maker, pools.of_problems(context), config.prompts.teacher_thinking, config.prompts.unfit)


def made_of_rollouts(context: Context) -> bool:
    """Whether some of its teachers are shown something that was sampled, so that one may have to be left out."""
    return any(_of_rollouts(leaf) for leaf in context.leaves())


def sampled_kinds(method: Method) -> list[str]:
    """The kinds of teachers that are shown what has yet to be sampled."""
    kinds = (type(leaf).__name__.lower() for leaf in method.context.leaves() if _of_rollouts(leaf))
    return [f"{kind} with reasons" if kind == "answer" else kind for kind in dict.fromkeys(kinds)]


def _of_rollouts(leaf: Context) -> bool:
    return isinstance(leaf, Sibling | Hints | Feedback | Critique) or (isinstance(leaf, Answer) and leaf.reason_first)


def foreseen(context: Context) -> Context:
    """What of a context does not depend on rollouts: of an answer with reasons the answer."""
    if isinstance(context, Mixed):
        kept = tuple(part for part in map(foreseen, context.parts) if part.teachers)
        return Mixed(kept) if kept else NoContext()
    if isinstance(context, Joined):
        parts = tuple(map(foreseen, context.parts))
        whole = all(part.teachers == declared.teachers for part, declared in zip(parts, context.parts, strict=True))
        return Joined(parts) if whole else NoContext()
    if isinstance(context, Answer):
        return replace(context, reason_first=False)
    return NoContext() if _of_rollouts(context) else context


# ── The students ───────────────────────────────────────────────────────────────────────────────────────────────────


def make_train_prompts(
    config: RunConfig, method: Method, maker: PromptBuilder, bank: Bank | None, ledger: CurrentLedger = Ledger
) -> PromptBuilder:
    """Who words the student's prompts while it trains: `maker` itself, or one that shows the pairs of `inject`."""
    if method.inject is None:
        return maker
    if isinstance(method.inject, Irrelevant | Shuffled):
        raise UserError(f"method {method.name}: the student is shown retrieved pairs or random ones, no other control")
    return _injecting(config, maker, bank, ledger, method.inject)


def make_eval_prompts(
    config: RunConfig, maker: PromptBuilder, bank: Bank | None, ledger: CurrentLedger = Ledger
) -> PromptBuilder:
    """Who words the prompts of an evaluation: `maker` itself, or one that shows `evaluation.skills` pairs."""
    skills = config.evaluation.skills
    return _injecting(config, maker, bank, ledger, SkillPairs(skills)) if skills else maker


def _injecting(
    config: RunConfig, maker: PromptBuilder, bank: Bank | None, ledger: CurrentLedger, pairs: SkillPairs
) -> PromptBuilder:
    retrieve = retrieval(config, bank, ledger, pairs, Uniform())
    return SkillPromptBuilder(
        maker.prompts, maker.tokenizer, maker.max_tokens, retrieve, render_pair, unfit=config.prompts.unfit
    )


# ── Pairs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def retrieval(
    config: RunConfig, bank: Bank | None, ledger: CurrentLedger, pairs: SkillPairs, weights: RetrievalSoftmax | Uniform
) -> PairRetrieval:
    """From problems' texts to their pools of pairs, as configured; of `RandomPairs` drawn by chance."""
    assert bank is not None, "the configuration has been checked for this"
    chosen = config.bank
    retriever: Retriever
    if isinstance(pairs, RandomPairs):
        retriever = make_retriever("random", bank, seed=config.seed)
    else:
        embedding = chosen.embedding.to_settings() if chosen.embedding else None
        retriever = make_retriever(
            chosen.retrieval, bank, seed=config.seed, diversity=chosen.diversity, embedding=embedding
        )
        if chosen.rerank:
            retriever = RerankedRetriever(retriever, ledger, chosen.rerank)
    retriever = one_sided(retriever, pairs.side)
    temperature = weights.temperature if isinstance(weights, RetrievalSoftmax) else float("inf")

    def retrieve(queries: Sequence[str]) -> list[tuple[SkillPair, ...]]:
        pools = pairs_for(retriever, queries, pairs.k, temperature, chosen.pairing)
        return [reweigh(pool, ledger(), chosen.reweigh, temperature) for pool in pools] if chosen.reweigh else pools

    return retrieve


# ── Blocks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Pools:
    """Makers of blocks for declared contexts."""

    config: RunConfig
    maker: PromptBuilder
    weights: RetrievalSoftmax | Uniform
    bank: Bank | None
    ledger: CurrentLedger
    problems: Sequence[Problem] = ()
    engine: Engine | None = None
    critic: Critic | None = None

    def of_problems(self, context: Context) -> BlockMaker:
        """For a context that no rollout has a part in."""
        prompts, seed = self.maker.prompts, self.config.seed
        match context:
            case Joined():
                return JoinedBlocks[Problem](prompts, tuple(map(self.of_problems, context.parts)))
            case Mixed():
                return MixedBlocks[Problem](tuple(map(self.of_problems, context.parts)))
            case SkillPairs():
                return self._of_bank(context)
            case Answer(reason_first=False):
                return AnswerBlocks(prompts, context.show)
            case Demonstration():
                return DemonstrationBlocks(prompts)
            case Rubric():
                return RubricBlocks(prompts)
            case WrongAnswer():
                return WrongAnswerBlocks(prompts, self.problems, seed)
            case OtherProblem():
                return OtherProblemBlocks(prompts, self.problems, seed)
            case Null():
                return no_context
        raise UserError(f"method: nobody knows how to show a context of kind {type(context).__name__} before a rollout")

    def of_rollouts(self, context: Context) -> RolloutMaker:
        """For any context; the parts that no rollout has a part in are handed problems all the same."""
        if not made_of_rollouts(context):
            return OfProblems(self.of_problems(context))
        prompts, seed = self.maker.prompts, self.config.seed
        quote = Quote(self.maker.control_tokens)
        match context:
            case Joined():
                return JoinedBlocks(prompts, tuple(map(self.of_rollouts, context.parts)))
            case Mixed():
                return MixedBlocks(tuple(map(self.of_rollouts, context.parts)))
            case Sibling():
                return SiblingBlocks(prompts, quote, seed)
            case Hints():
                return HintBlocks(prompts, quote, context.wrong, seed)
            case Feedback():
                return FeedbackBlocks(prompts, quote)
            case Critique():
                assert self.critic is not None, "a run with such teachers has a critic"
                return CritiqueBlocks(prompts, quote, self.critic)
            case Answer():
                assert self.engine is not None, "a run has an engine"
                reasoner = EngineReasoner(self.engine, self.maker, self.config)
                return ReasonedBlocks(prompts, AnswerBlocks(prompts, context.show), quote, reasoner)
        raise UserError(f"method: nobody knows how to show a context of kind {type(context).__name__}")

    def _of_bank(self, context: SkillPairs) -> BlockMaker:
        retrieve = retrieval(self.config, self.bank, self.ledger, context, self.weights)
        pairs = SkillPairBlocks(self.maker.prompts, retrieve, render_pair)
        match context:
            case Irrelevant():
                return IrrelevantBlocks(pairs, off_topic(self.maker, self.config.prompts.folder, pairs))
            case Shuffled():
                return ShuffledBlocks(pairs, self.problems)
            case RandomPairs():
                return RandomPairBlocks(pairs)
        return pairs
