"""A context is one class: its declaration, what it needs of a run, and the text that its teachers are shown.

`blocks` is handed a whole batch at once, so that queries are embedded together and a context may look at neighbours. A
`Context` is handed problems and nothing else: no teacher made by it can know how the rollout it scores came out. A
`RolloutContext` is handed the graded rollouts of a step. What either draws is decided by the seed and the problem's id,
or the rollout's index and group, never by the rest of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from sgsd.types import Problem, Rollout, SkillPair, UserError, Verdict

if TYPE_CHECKING:
    from sgsd.contexts.prompts import PromptSet, Quote

Need = Literal["bank", "answer", "solution", "group", "rubric", "writer", "engine", "problems", "off_topic"]


@dataclass(frozen=True, slots=True)
class Block:
    """The text that one teacher is shown, or a part of it; the weights of a pool sum to 1.

    No text (None): nothing is shown on purpose. An empty text: there is nothing to show, and so no teacher. That, and a
    prompt that is too long, is an error unless the block is `optional`: then its teacher is left out and counted.
    """

    source: str  # by what records call it; several joined by "+"
    text: str | None
    weight: float = 1.0
    item_ids: tuple[str, ...] = ()
    optional: bool = False
    pair: SkillPair | None = None  # that the text was made from


Pool = tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Graded:
    """A rollout and its verdict."""

    rollout: Rollout
    verdict: Verdict

    @property
    def problem(self) -> Problem:
        return self.rollout.problem

    @property
    def index(self) -> int:
        return self.rollout.completion.index

    @property
    def outcome(self) -> int:
        return self.verdict.outcome


Batch = Sequence[Problem] | Sequence[Graded]
Critic = Callable[[Sequence[Graded], Sequence[str]], Sequence[str | None]]
Reasoner = Callable[[Sequence[Graded], Sequence[Block]], Sequence[str]]


class StandIns(Protocol):
    """Off-topic text."""

    def like(self, block: Block, key: str) -> Block:
        """A block of the same length and weight about something else; `key` decides among those equally near."""


@dataclass(frozen=True)
class Resources:
    """All that contexts are made from; a run makes it once for each state of its bank.

    Args:
        templates: those of the prompt set.
        quote: takes what may be shown from what a model wrote.
        problems: those of the training set, for contexts that show something of another one.
        retrieve: from a declaration of pairs (`SkillPairs`) and queries to a pool of pairs for each.
        render_pair: from a pair and a template to text.
        count_tokens: the number of the model's tokens in a text.
        load_off_topic: reads the off-topic items of the prompt set.
        critic: answers a question about each rollout, or None where it fails.
        reasoner: what the model writes under a teacher's prompt, for each rollout.
    """

    templates: PromptSet
    quote: Quote
    seed: int = 0
    problems: Sequence[Problem] = ()
    retrieve: Callable[[Any, Sequence[str]], Sequence[Sequence[SkillPair]]] | None = None
    render_pair: Callable[[SkillPair, str], str] | None = None
    count_tokens: Callable[[str], int] = len
    load_off_topic: Callable[[], StandIns] | None = None
    critic: Critic | None = None
    reasoner: Reasoner | None = None

    def render(self, template: str, **values: Any) -> str:
        """The template `NAME.txt` of the prompt set, filled in. Raises UserError where that cannot be done."""
        return self.templates.render(template, **values)

    @cached_property
    def off_topic(self) -> StandIns:
        assert self.load_off_topic is not None, "a run has off-topic items"
        return self.load_off_topic()


@dataclass(frozen=True)
class Context:
    """A kind of teacher that is made from problems alone.

    A subclass is a frozen dataclass with `block` or, for several teachers or whole batches, `blocks`; `teachers` and
    `needs` where they are not as here.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()  # what a run must have for it
    controlled: ClassVar[bool] = True  # whether controls take its place where there are no pairs; references say no

    @property
    def teachers(self) -> int:
        """The number of teachers that score a rollout."""
        return 1

    @property
    def sees_rollouts(self) -> bool:
        """True where `blocks` is handed graded rollouts; such a teacher may have to be left out."""
        return False

    def blocks(self, batch: Sequence[Any], resources: Resources) -> list[Pool]:
        """A pool of blocks for each member of the batch. Raises UserError for what cannot be shown."""
        return [(self.block(member, resources),) for member in batch]

    def block(self, member: Any, resources: Resources) -> Block:
        """The block of the one teacher of a problem or rollout."""
        raise NotImplementedError(f"{type(self).__name__} must define block(problem, resources) or blocks")

    def leaves(self) -> Iterator[Context]:
        """The contexts it is made of that are not made of others."""
        yield self

    def all_needs(self) -> frozenset[Need]:
        return self.needs

    def substitute(self, change: Callable[[Context], Context]) -> Context:
        """The same context with `change` applied to each of its leaves."""
        return change(self)

    def before_rollouts(self) -> Context:
        """The part of it that can be shown before there are rollouts; `NoContext()` where nothing can."""
        return NoContext() if self.sees_rollouts else self

    def sampled_kinds(self) -> list[str]:
        """The kinds of its teachers that are made of rollouts, in words."""
        return [type(self).__name__.lower()] if self.sees_rollouts else []


@dataclass(frozen=True)
class RolloutContext(Context):
    """A kind of teacher that is made from the graded rollouts of a step."""

    @property
    def sees_rollouts(self) -> bool:
        return True


def make_pools(context: Context, batch: Batch, resources: Resources) -> list[Pool]:
    """A pool of blocks for each member; a context that is made from problems is handed problems, whatever the batch."""
    problems = [member.problem if isinstance(member, Graded) else member for member in batch]
    pools = context.blocks(batch if context.sees_rollouts else problems, resources)
    for problem, pool in zip(problems, pools, strict=True):
        if pool and not math.isclose(sum(block.weight for block in pool), 1.0, abs_tol=1e-6):
            weights = ", ".join(f"{block.weight:g}" for block in pool)
            raise UserError(
                f"problem {problem.id}: {type(context).__name__} shows blocks of the weights {weights}, whose sum is"
                " not 1: give each of K blocks weight=1/K"
            )
    return pools


@dataclass(frozen=True)
class NoContext(Context):
    """There is no teacher."""

    controlled: ClassVar[bool] = False

    @property
    def teachers(self) -> int:
        return 0

    def blocks(self, problems: Sequence[Problem], resources: Resources) -> list[Pool]:
        return [() for _ in problems]


# ── Of several ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Combined(Context):
    """Contexts made of others."""

    parts: tuple[Context, ...]

    @property
    def sees_rollouts(self) -> bool:
        return any(part.sees_rollouts for part in self.parts)

    def leaves(self) -> Iterator[Context]:
        for part in self.parts:
            yield from part.leaves()

    def all_needs(self) -> frozenset[Need]:
        return self.needs.union(*(part.all_needs() for part in self.parts))

    def substitute(self, change: Callable[[Context], Context]) -> Context:
        return replace(self, parts=tuple(part.substitute(change) for part in self.parts))

    def sampled_kinds(self) -> list[str]:
        return list(dict.fromkeys(kind for part in self.parts for kind in part.sampled_kinds()))


@dataclass(frozen=True)
class Joined(Combined):
    """Every teacher of one part sees, beside its own, what each teacher of the others sees: K pairs × 1 answer = K.

    Weights multiply. An empty text leaves the whole empty: half a context is not what was asked for. A block that
    shows nothing on purpose adds nothing.
    """

    @property
    def teachers(self) -> int:
        return math.prod(part.teachers for part in self.parts)

    def before_rollouts(self) -> Context:
        parts = tuple(part.before_rollouts() for part in self.parts)
        whole = all(part.teachers == declared.teachers for part, declared in zip(parts, self.parts, strict=True))
        return Joined(parts) if whole else NoContext()

    def blocks(self, batch: Sequence[Any], resources: Resources) -> list[Pool]:
        made = [make_pools(part, batch, resources) for part in self.parts]
        return [tuple(_join(blocks, resources) for blocks in product(*pools)) for pools in zip(*made, strict=True)]


def _join(blocks: Sequence[Block], resources: Resources) -> Block:
    return Block(
        source="+".join(block.source for block in blocks),
        text=_join_texts([block.text for block in blocks if block.text is not None], resources),
        weight=math.prod(block.weight for block in blocks),
        item_ids=tuple(item for block in blocks for item in block.item_ids),
        optional=any(block.optional for block in blocks),
    )


def _join_texts(texts: list[str], resources: Resources) -> str | None:
    if not texts:
        return None
    return resources.render("join", blocks=texts) if all(text.strip() for text in texts) else ""


@dataclass(frozen=True)
class Mixed(Combined):
    """Teachers of several kinds in one pool; each kind weighs by its share of the teachers, n_part / Σ n."""

    @property
    def teachers(self) -> int:
        return sum(part.teachers for part in self.parts)

    def before_rollouts(self) -> Context:
        kept = tuple(part for part in (part.before_rollouts() for part in self.parts) if part.teachers)
        return Mixed(kept) if kept else NoContext()

    def blocks(self, batch: Sequence[Any], resources: Resources) -> list[Pool]:
        made = [make_pools(part, batch, resources) for part in self.parts]
        return [_mix(pools) for pools in zip(*made, strict=True)]


def _mix(pools: Sequence[Pool]) -> Pool:
    count = sum(map(len, pools))
    return tuple(replace(block, weight=block.weight * len(pool) / count) for pool in pools for block in pool)


def joined(context: Context, *others: Context) -> Context:
    """The context itself where there is nothing to join it with."""
    return Joined((context, *others)) if others else context


def mixed(context: Context, *others: Context) -> Context:
    """The context itself where there is nothing to mix it with."""
    return Mixed((context, *others)) if others else context
