"""The drawing primitives and the words: numbers in, exact marks and phrases out."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from markupsafe import Markup

from sgsd.report import curves, labels, svg
from sgsd.report.headline import Comparison
from sgsd.report.values import Estimate

FRAME = svg.Frame(120, 110, left=10, right=10, top=5, bottom=5)
X, Y = FRAME.x((0.0, 10.0)), FRAME.y((0.0, 1.0))
moderate = st.floats(-1e12, 1e12, allow_nan=False)


def test_scales_put_the_ends_of_the_domain_at_the_margins() -> None:
    assert (X(0), X(10), Y(0), Y(1), Y(0.5)) == (10, 110, 105, 5, 55)


@given(moderate, moderate)
def test_ticks_are_few_even_round_and_inside(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    assume(high - low > max(1e-6 * max(abs(low), abs(high)), svg.TINY))  # what else a domain cannot be
    ticks = svg.nice_ticks((low, high))
    assert 1 <= len(ticks) <= 9
    slack = 1e-5 * (high - low)
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    steps = [after - before for before, after in pairwise(ticks)]
    assert all(step == pytest.approx(steps[0], rel=1e-3) for step in steps)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30), st.booleans())
def test_a_domain_holds_every_finite_value_and_is_never_empty(values: list[float], from_zero: bool) -> None:
    values = [value if abs(value) < 1e30 else math.nan for value in values]
    low, high = svg.nice_domain(values, from_zero)
    assert low < high
    slack = 1e-5 * (high - low)
    assert all(low - slack <= value <= high + slack for value in values if math.isfinite(value))
    assert not from_zero or low <= 0 <= high


def test_step_ticks_are_whole_numbers() -> None:
    assert svg.nice_ticks((0.0, 3.0), 5, whole=True) == (0, 1, 2, 3)
    assert svg.nice_ticks((0.0, 60.0), 5, whole=True) == (0, 20, 40, 60)
    assert svg.nice_ticks((0.0, 1.0), 4) == (0, 0.25, 0.5, 0.75, 1)


def test_a_line_stops_at_a_value_that_is_not_finite_and_goes_on_after_it() -> None:
    drawn = svg.line([(0, 0.0), (2, 1.0), (4, math.nan), (6, 0.5), (8, math.inf), (9, 0.0), (10, 1.0)], X, Y, "loss")
    assert re.findall(r' d="([^"]*)"', drawn) == ["M10 105L30 5M100 105L110 5"]
    assert '<circle cx="70" cy="55" r="2" class="dot loss lone"/>' in drawn
    assert svg.line([(0, math.nan)], X, Y, "loss") == ""


def test_a_band_runs_along_the_upper_edge_and_back_along_the_lower() -> None:
    drawn = svg.band([(0, 0.0), (5, math.nan), (10, 0.0)], [(0, 1.0), (5, 1.0), (10, 0.5)], X, Y, "train")
    assert drawn == '<path d="M10 5L110 55L110 105L10 105Z" class="area train"/>'


def test_stacked_layers_stand_on_each_other() -> None:
    areas = svg.stacked_areas([0, 10], [[0.25, 0.5], [0.75, 0.5]], X, Y, ["a", "b"])
    assert re.findall(r' d="([^"]*)"', areas) == ["M10 80L110 55L110 105L10 105Z", "M10 5L110 5L110 55L10 80Z"]
    bars = svg.stacked_bars([5], [[0.25], [math.nan], [0.25]], X, Y, ["a", "b", "c"])
    assert re.findall(r' d="([^"]*)"', bars) == ["M48 105V80h24V105Z", "M48 80V55h24V80Z"]


def test_text_and_attributes_are_escaped_and_hidden_characters_spelt_out() -> None:
    element = svg.tag("text", '<b>"\u202e', class_='a" onload="x')
    assert isinstance(element, Markup)
    assert element == '<text class="a&#34; onload=&#34;x">&lt;b&gt;&#34;⟨U+202E⟩</text>'


def test_a_drawing_is_named_for_those_who_listen() -> None:
    drawn = svg.drawing(FRAME, "Loss & <more>", svg.EMPTY)
    assert drawn.count("Loss &amp; &lt;more&gt;") == 2
    assert 'role="img"' in drawn


@pytest.mark.parametrize(
    ("share", "n", "low", "high"), [(0.8, 10, 0.4902, 0.9433), (0.0, 10, 0.0, 0.2775), (0.5, 1000, 0.4691, 0.5309)]
)
def test_wilson_gives_the_published_intervals(share: float, n: int, low: float, high: float) -> None:
    estimate = curves.wilson(share, n)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("share", "n"), [(math.nan, 10), (0.5, 0), (0.5, math.nan), (1.5, 10)])
def test_wilson_claims_nothing_about_what_is_no_share(share: float, n: float) -> None:
    assert not curves.wilson(share, n).has_interval


def test_condensing_keeps_the_mean_and_skips_what_is_not_finite() -> None:
    points = [(float(i), float(i)) for i in range(600)]
    short = curves.condense(points, most=300)
    assert len(short) == 300
    assert sum(v for _, v in short) / 300 == pytest.approx(sum(v for _, v in points) / 600)
    assert curves.condense([(0, 1.0), (1, math.nan), (2, math.nan), (3, math.nan)], most=2)[0] == (0.5, 1.0)
    assert math.isnan(curves.condense([(0, 1.0), (1, math.nan), (2, math.nan), (3, math.nan)], most=2)[1][1])


def test_a_rolling_mean_is_centred_and_shorter_at_the_ends() -> None:
    points = [(0, 0.0), (1, 3.0), (2, math.nan), (3, 9.0)]
    assert [v for _, v in curves.rolling_mean(points, 3)] == [1.5, 1.5, 6.0, 9.0]


def test_one_spike_does_not_flatten_the_rest_and_ordinary_noise_is_no_spike() -> None:
    calm = [1 + math.sin(i) for i in range(60)]
    assert curves.without_spikes(calm) is None
    assert curves.without_spikes([*calm, 1e6, math.nan]) == (min(calm), max(calm))


def test_spreading_takes_the_first_and_the_last() -> None:
    assert curves.spread_evenly(100, 3) == [0, 50, 99] or curves.spread_evenly(100, 3) == [0, 49, 99]
    assert curves.spread_evenly(2, 5) == [0, 1]
    assert curves.spread_evenly(9, 1) == [0]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0214, "21 ms"), (4.21, "4.2 s"), (9.96, "10 s"), (14.2, "14 s"), (59.7, "1 min"), (200, "3 min 20 s"),
     (3600, "1 h"), (7500, "2 h 5 min"), (math.nan, "–"), (-1, "–"), (0, "0 s")],
)  # fmt: skip
def test_durations_are_said_as_a_person_says_them(seconds: float, said: str) -> None:
    assert labels.duration(seconds).replace("\u00a0", " ") == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0"), (23.14, "23.1"), (2000, "2,000"), (0.00012, "1.2e−4"), (-0.5, "−0.5"), (1e-4, "1e−4"),
     (2.4e6, "2.4e6"), (999999, "999,999"), (math.inf, "not a number")],
)  # fmt: skip
def test_numbers_are_short(value: float, said: str) -> None:
    assert labels.number(value) == said


def test_intervals_show_a_decimal_only_where_whole_numbers_would_hide_them() -> None:
    assert labels.with_interval(Estimate(0.4214, 0.401, 0.442)).replace("\u00a0", " ") == "42.1 % (40–44)"
    assert labels.with_interval(Estimate(0.4214, 0.418, 0.4251)).replace("\u00a0", " ") == "42.1 % (41.8–42.5)"
    assert labels.with_interval(Estimate(0.4214)).replace("\u00a0", " ") == "42.1 %"


def test_a_sign_is_written_only_for_what_does_not_round_to_zero() -> None:
    assert [labels.signed(v) for v in (0.125, -0.3, -0.0004, math.nan)] == ["+0.12", "−0.30", "0.00", "–"]


def test_visible_text_marks_breaks_and_cuts_and_says_so() -> None:
    assert labels.visible("a\tb\n") == 'a<span class="ctl">⇥</span>\tb<span class="ctl">↵</span>\n'
    assert labels.visible("<>" * 50, limit=2) == '&lt;&gt;<span class="ctl"> … 98 more characters</span>'


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_no_hidden_character_survives(text: str) -> None:
    for shown in (labels.plain(text), str(labels.visible(text))):
        assert all(character.isprintable() or character in "\n\t" or character.isspace() for character in shown)
        shown.encode("utf-8")


@pytest.mark.parametrize(
    ("before", "after", "overlaps"),
    [((0.40, 0.44), (0.44, 0.48), True), ((0.40, 0.44), (0.45, 0.48), False), ((0.45, 0.48), (0.40, 0.44), False),
     ((0.30, 0.60), (0.40, 0.44), True), ((math.nan, 0.4), (0.5, 0.6), None)],
)  # fmt: skip
def test_overlap_is_symmetric_and_unknown_without_an_interval(
    before: tuple[float, float], after: tuple[float, float], overlaps: bool | None
) -> None:
    one, other = Estimate(0.42, *before), Estimate(0.46, *after)
    assert Comparison("avg@4", one, other).overlaps is overlaps
    assert Comparison("avg@4", other, one).overlaps is overlaps
