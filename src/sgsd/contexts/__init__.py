"""Contexts: what the teachers are shown. Declarations import neither torch nor templates.

`sgsd.contexts.prompts` has the wording, `sgsd.contexts.prompt_builders` makes the ids that the model reads.
"""

from sgsd.contexts.base import (
    Block,
    Context,
    Graded,
    Joined,
    Mixed,
    NoContext,
    Pool,
    Resources,
    RolloutContext,
    make_pools,
)
from sgsd.contexts.controls import Irrelevant, Null, NullTeacher, RandomPairs, Shuffled
from sgsd.contexts.names import named_context
from sgsd.contexts.references import Answer, Demonstration, OtherProblem, ReasonFirst, Rubric, WrongAnswer
from sgsd.contexts.rollouts import Critique, Feedback, Hints, Sibling
from sgsd.contexts.skill_pairs import SkillPairs

__all__ = [
    "Answer",
    "Block",
    "Context",
    "Critique",
    "Demonstration",
    "Feedback",
    "Graded",
    "Hints",
    "Irrelevant",
    "Joined",
    "Mixed",
    "NoContext",
    "Null",
    "NullTeacher",
    "OtherProblem",
    "Pool",
    "RandomPairs",
    "ReasonFirst",
    "Resources",
    "RolloutContext",
    "Rubric",
    "Shuffled",
    "Sibling",
    "SkillPairs",
    "WrongAnswer",
    "make_pools",
    "named_context",
]
