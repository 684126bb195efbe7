"""The values that cross rooms: small, frozen, importing nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class UserError(ValueError):
    """Something the user can mend: one line that says what was wrong, where, and what to do."""


class RunFailure(RuntimeError):
    """Something stopped a run that is not the user's mistake; the command line prints it and leaves with code 1."""


class Status(StrEnum):
    """The verdicts that a verifier can give on one completion."""

    CORRECT = "correct"
    INCORRECT = "incorrect"  # wrong, or no answer at all
    UNPARSED = "unparsed"  # the reference itself could not be read: nothing is known
    TIMEOUT = "timeout"  # the grader was stopped: nothing is known
    UNKNOWN = "unknown"  # the verifier cannot tell, or failed and may: nothing is known


@dataclass(frozen=True, slots=True)
class Verdict:
    """One graded completion: the status, the answer that was read, the seconds it took.

    Where there is a reward it is a share of full marks, from 0 to 1; without one a verdict is all or nothing.
    """

    status: Status
    answer: str | None = None
    seconds: float = 0.0
    reward: float | None = None

    @property
    def outcome(self) -> int:
        """+1 correct, −1 incorrect, 0 unknown; a time-out is not a failure and turns no polarity."""
        return {Status.CORRECT: 1, Status.INCORRECT: -1}.get(self.status, 0)

    @property
    def signed_reward(self) -> float:
        """The outcome, or the reward on the same scale: 2 · reward − 1."""
        return float(self.outcome) if self.reward is None or not self.outcome else 2.0 * self.reward - 1.0


@dataclass(frozen=True, slots=True)
class Problem:
    """One training or evaluation problem; `gold` is the reference answer, which the verifier compares with.

    `answer` is the reference as the row holds it where `gold` is not (another JSON type, a derivation), `columns`
    the whole row: a verifier of one's own is handed these.
    """

    id: str
    text: str
    gold: str | None = None
    solution: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)
    answer: Any = field(default=None, compare=False)
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Completion:
    """The tokens that an engine sampled for one prompt, end token included when the model wrote one."""

    index: int  # global index of the rollout in the run; it alone decides the seed
    token_ids: tuple[int, ...]
    text: str
    finish: str  # "stop" | "length"
    logps: tuple[float, ...] = ()  # of the sampled tokens, as the sampler saw them (temperature 1)


@dataclass(frozen=True, slots=True)
class Rollout:
    """A completion together with the problem and the prompt it answered."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    completion: Completion
    group: int = 0  # rollouts of one prompt share a group


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """A prompt that is to be answered by one rollout."""

    index: int  # of the rollout in the run
    group: int
    problem: Problem
    prompt_ids: tuple[int, ...]

    def answered(self, completion: Completion) -> Rollout:
        return Rollout(self.problem, self.prompt_ids, completion, self.group)


@dataclass(frozen=True, slots=True)
class Skill:
    """A general skill: something worth doing, and when."""

    id: str
    title: str
    principle: str
    when_to_apply: str
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Mistake:
    """A common mistake: what goes wrong, why, and the way round it."""

    id: str
    description: str
    why_it_happens: str
    how_to_avoid: str
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)


BankItem = Skill | Mistake


@dataclass(frozen=True, slots=True)
class SkillPair:
    """One hypothesis: the skill and the mistake of the same retrieval rank, and the weight of the pair."""

    skill: Skill | None
    mistake: Mistake | None
    score: float
    weight: float

    @property
    def item_ids(self) -> tuple[str, ...]:
        return tuple(item.id for item in (self.skill, self.mistake) if item is not None)


@dataclass(frozen=True, slots=True)
class TeacherView:
    """The prompt under which the model scores a rollout as its own teacher; weights of a pool sum to 1."""

    source: str  # what made it: "skill_pair", "answer", "null", …
    prompt_ids: tuple[int, ...]
    weight: float
    item_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn from a model's logits z; the defaults draw from softmax(z).

    Equation: p ∝ exp(penalised(z) / temperature), filtered by top_k, top_p and min_p in this order.

    Args:
        temperature: 0 takes the likeliest token.
        top_p: The least set of likeliest tokens with this probability is kept; 1 keeps all.
        top_k: So many likeliest tokens are kept; 0 keeps all.
        min_p: Tokens below this share of the likeliest one's probability are dropped.
        repetition_penalty: Divides positive logits of tokens in prompt and completion, multiplies negative ones.
        presence_penalty: Subtracted from the logits of tokens in the completion.
        max_tokens: Tokens of a completion at most, its end token included.

    Raises:
        ValueError: a value outside its range.

    >>> Sampling(temperature=0.6, top_p=0.95).top_k
    0
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # over prompt and completion
    presence_penalty: float = 0.0  # over the completion
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("top_k", self.top_k >= 0, "0 (all) or more"),
            ("min_p", 0 <= self.min_p <= 1, "in [0, 1]"),
            ("repetition_penalty", self.repetition_penalty > 0, "positive"),
            ("presence_penalty", -2 <= self.presence_penalty <= 2, "in [-2, 2]"),
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
        ):
            if not good:
                raise ValueError(f"{name} must be {wanted}, not {getattr(self, name)}")
