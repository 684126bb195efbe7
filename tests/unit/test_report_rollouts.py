"""Which rollouts are shown, and what colours their tokens."""

from __future__ import annotations

import math
import re
from typing import TypeVar

import pytest

from sgsd.records.rollout_schema import RolloutRecord, TeacherRecord
from sgsd.report import rollout_section as rollouts
from sgsd.report.labels import signed

Record = TypeVar("Record", RolloutRecord, TeacherRecord)

TEACHER = TeacherRecord(
    source="skill_pair",
    items=("gen_001",),
    weight=0.25,
    support=0.1,
    stance=1,
    polarity=1,
    delta=(0.5, -1.0, 2.0),
    gate=(0.4, 0.3, 0.1),
)
TRACE = RolloutRecord(
    step=1,
    index=0,
    problem_id="p",
    problem="1 + 1",
    gold="2",
    completion="a b<eos>",
    tokens=("a", " b", "<eos>"),
    status="correct",
    answer="2",
    outcome=1,
    mask=(True, True, False),
    advantages=(0.2, -0.1, 5.0),
    teachers=(TEACHER,),
)


def replace(record: Record, **changes: object) -> Record:
    return record.model_copy(update=changes)


def classes(html: str) -> list[str]:
    return re.findall(r'<span(?: class="([^"]*)")?>', html)


def test_each_outcome_has_its_share_of_the_places_and_order_is_by_step() -> None:
    many = [replace(TRACE, step=i, outcome=1 if i % 10 else -1) for i in range(100)]
    chosen = rollouts.choose(many)
    assert len(chosen) == 12
    assert sum(rollout.outcome == 1 for rollout in chosen) == 6
    assert [rollout.step for rollout in chosen] == sorted(rollout.step for rollout in chosen)
    assert chosen[0].step == 0
    assert chosen[-1].step == 99


def test_places_that_an_outcome_cannot_fill_go_to_the_others() -> None:
    few = [replace(TRACE, step=i, outcome=-1 if i == 3 else 1) for i in range(40)]
    assert [rollout.outcome for rollout in rollouts.choose(few)].count(1) == 11
    assert rollouts.choose([]) == ()


def test_shades_are_symmetric_saturate_and_leave_small_values_plain() -> None:
    assert [rollouts.shade(v, 1.0) for v in (0.1, 0.2, 0.5, 1.0, 9.0)] == [0, 1, 2, 4, 4]
    assert [rollouts.shade(-v, 1.0) for v in (0.1, 0.2, 0.5, 1.0, 9.0)] == [0, -1, -2, -4, -4]
    assert rollouts.shade(math.nan, 1.0) == 0


def test_a_token_out_of_the_mask_is_marked_and_never_coloured() -> None:
    spans = rollouts.token_spans(TRACE, TRACE.advantages, 0.2)
    assert classes(spans) == ["q4", "q-2", "out"]
    assert "&lt;eos&gt;" in spans


def test_colour_limits_are_round_and_ignore_what_the_mask_leaves_out() -> None:
    limits = rollouts.limits([TRACE])
    assert (limits.advantage, limits.delta) == (0.2, 1.0)
    assert rollouts.full_at([]) == rollouts.full_at([0.0, math.nan]) == 1.0
    assert rollouts.full_at([0.0123]) == pytest.approx(0.015)


def test_the_first_teacher_colours_where_there_is_no_advantage() -> None:
    card = rollouts.card(replace(TRACE, advantages=()), rollouts.Limits(1.0, 1.0))
    assert card.colouring == "delta"
    assert classes(card.tokens) == ["q2", "q-4", "out"]
    bare = rollouts.card(replace(TRACE, advantages=(), teachers=()), rollouts.Limits(1.0, 1.0))
    assert bare.colouring == "none"
    assert classes(bare.tokens) == ["", "", "out"]


def test_numbers_for_the_script_are_thousandths_and_blank_where_unknown() -> None:
    assert rollouts.thousandths([0.1234, -2.0, math.nan, 0.0]) == "123,-2000,,0"


def test_a_long_rollout_keeps_its_beginning_and_its_end_in_every_list() -> None:
    n = 1000
    numbers = tuple(float(i) for i in range(n))
    teacher = replace(TEACHER, delta=numbers, gate=())
    tokens = tuple(f"{i} " for i in range(n))
    long = replace(TRACE, tokens=tokens, mask=(True,) * n, advantages=numbers, teachers=(teacher,) * 15)
    short, remarks = rollouts.shorten(long)
    assert [int(token) for token in short.tokens] == [*range(360), *range(860, 1000)]
    assert short.advantages == tuple(float(token) for token in short.tokens) == short.teachers[0].delta
    assert short.teachers[0].gate == ()
    assert remarks == ("500 tokens between token 360 and token 861 are not shown.", "3 more teachers are not shown.")
    assert rollouts.shorten(TRACE) == (TRACE, ())


def cells(teacher: TeacherRecord) -> tuple[tuple[str, str, str], str, str]:
    return rollouts.stance(teacher), rollouts.polarity(teacher), signed(teacher.support, 3)


def test_a_stance_is_shown_only_of_a_teacher_that_was_judged() -> None:
    assert cells(replace(TEACHER, stance=0, polarity=0)) == (("•", "neutral", "neutral"), "neutral", "+0.100")
    unjudged = replace(TEACHER, stance=None, polarity=None, support=math.nan)
    assert cells(unjudged) == (("", "–", "neutral"), "", "–")
    assert cells(replace(unjudged, skipped=True)) == (("", "left out", "neutral"), "", "–")


def test_an_unknown_status_is_shown_as_it_stands() -> None:
    card = rollouts.card(replace(TRACE, status="<odd>", outcome=0), rollouts.Limits(1.0, 1.0))
    assert (card.mark, card.verdict) == ("?", "<odd>")


def test_the_chosen_colour_is_of_a_teacher_that_has_gaps() -> None:
    """Without advantages the first teacher with gaps colours the tokens; one that was left out cannot."""
    gone = replace(TEACHER, delta=(), gate=(), stance=None, polarity=None, skipped=True)
    shown = rollouts.card(replace(TRACE, advantages=(), teachers=(gone, TEACHER)), rollouts.limits([TRACE]))
    assert (shown.colouring, shown.coloured_by) == ("delta", 2)
    assert rollouts.card(TRACE, rollouts.limits([TRACE])).coloured_by == 0
    blank = rollouts.card(replace(TRACE, advantages=(), teachers=(gone,)), rollouts.limits([TRACE]))
    assert (blank.colouring, blank.coloured_by) == ("none", 0)
