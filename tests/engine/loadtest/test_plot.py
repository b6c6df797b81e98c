"""Axes, plots and markup: where values stand, what is drawn between them, and that text stays text."""

from __future__ import annotations

import math
import re
from html import unescape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.loadtest import figures
from engine.loadtest.axis import Axis, linear, logarithmic
from engine.loadtest.markup import Markup, join, tag
from engine.loadtest.plot import Band, Line, Mark, Plot, draw

TYPED = st.characters(min_codepoint=32, max_codepoint=0x2FFF)
values = st.lists(st.floats(0, 1e300), max_size=30)


@given(values, st.booleans())
@settings(max_examples=50)
def test_every_value_is_on_its_axis_in_order_and_ticks_are_on_it(seen: list[float], log: bool) -> None:
    axis = logarithmic(seen) if log else linear(seen)
    places = [axis.at(value) for value in sorted(seen)]
    assert places == sorted(places) and all(0 <= place <= 1 for place in places)
    assert axis.low < axis.high and 1 <= len(axis.ticks) <= 20 and list(axis.ticks) == sorted(axis.ticks)
    for tick in axis.ticks:
        place = (math.log10(tick) if log else tick) - axis.low
        assert -1e-6 <= place / (axis.high - axis.low) <= 1 + 1e-6
    positive = [value for value in seen if value > 1e-6]
    if log and positive:  # nothing is cut off
        assert axis.low <= math.log10(min(positive)) + 1e-6 and axis.high >= math.log10(max(positive)) - 1e-6
    elif positive:
        assert axis.high > max(positive)


def test_ticks_are_round() -> None:
    assert linear([5_000.0]).ticks == (0.0, 2_000.0, 4_000.0)
    assert linear([61.0], ticks=8, room=1.0).ticks == (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0)
    assert logarithmic([1.3, 1.6]).ticks == pytest.approx((1, 2, 5, 10))
    assert logarithmic([0.4, 700.0]).ticks == pytest.approx((1, 10, 100, 1_000))
    assert linear([]).high == 1.0 and logarithmic([0.0]) == logarithmic([])


@given(st.text(TYPED), st.text(TYPED))
def test_text_stays_text(text: str, value: str) -> None:
    found = tag("p", text, title=value)
    parts = re.fullmatch(r'<p title="([^"<>]*)">([^<>]*)</p>', found)
    assert parts is not None and (unescape(parts[1]), unescape(parts[2])) == (value, text)
    assert join(found, found) == found * 2


def test_attributes_are_named_as_in_html() -> None:
    assert tag("rect", class_="a", aria_label=None, x=0.04, y=12.25) == '<rect class="a" x="0" y="12.2"></rect>'
    assert tag("meta", name="a") == '<meta name="a">' and isinstance(join(None, "&"), Markup)


def plot(*points: tuple[float, float | None], **more: object) -> str:
    axis = Axis(0.0, 10.0, (0.0, 5.0))
    whole = Plot("Title", [Line("a", points)], axis, axis, figures.seconds, figures.number)
    return draw(whole._replace(**more))


def test_a_line_is_interrupted_where_nothing_was_measured() -> None:
    drawn = plot((0.0, 0.0), (2.0, 5.0), (3.0, None), (4.0, 10.0), (6.0, None), (7.0, 1.0))
    assert 'd="M0.0 170.0h0L200.0 85.0M400.0 0.0h0M700.0 153.0h0"' in drawn
    assert 'aria-label="Title. a from 0 to 10, median 3."' in drawn


def test_pointer_bands_and_marks_have_their_words() -> None:
    drawn = plot((1.0, 2.0), (3.0, 4.0), bands=[Band("wide", 0, 5), Band("thin", 5, 6)], marks=[Mark("cut", 6.0)])
    assert re.findall(r'class="reading" x="(\S+)" width="(\S+)"', drawn) == [("0", "200"), ("200", "800")]
    assert "<title>3 s\na 4</title>" in drawn and "<title>6 s: cut</title>" in drawn and "; cut at 6 s" in drawn
    assert ">wide</text>" in drawn and ">thin</text>" not in drawn  # no room


def test_a_plot_of_nothing_says_so() -> None:
    assert "Not measured." in plot((1.0, None)) and "<svg" not in plot()


def test_many_points_have_a_bounded_number_of_readings() -> None:
    drawn = plot(*((n / 100, 1.0) for n in range(1_000)))
    assert 200 <= drawn.count('class="reading"') <= 300
    assert drawn.count("L") >= 999


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (figures.number(None), "–"),
        (figures.number(0.424), "0.42"),
        (figures.number(12_345.6), "12,346"),
        (figures.number(1_230_000), "1.23 M"),
        (figures.number(100), "100"),
        (figures.ms(0.4), "0.4 ms"),
        (figures.ms(100.4), "100 ms"),
        (figures.ms(1_234), "1.23 s"),
        (figures.ms(61_000), "61 s"),
        (figures.seconds(300), "300 s"),
        (figures.seconds(0.2), "0.2 s"),
        (figures.percentage(71.4), "71 %"),
        (figures.percentage(0), "0 %"),
        (figures.megabytes(90), "90 MB"),
    ],
)
def test_figures_are_written_for_people(written: str, text: str) -> None:
    assert written == text
