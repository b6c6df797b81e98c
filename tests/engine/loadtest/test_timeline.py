from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.loadtest.commands import PublisherSecond, Second
from engine.loadtest.latency import Latency
from engine.loadtest.resources import ResourceSample
from engine.loadtest.timeline import Row, Timeline

NOTHING = Latency().encode()


def encoded(us: int, count: int) -> str:
    latency = Latency()
    latency.record(us, count)
    return latency.encode()


def ignored(_row: Row) -> None:
    pass


def second(
    t: float, process: int = 0, open_: int = 10, delivered: int = 0, latency: str = NOTHING, cpu: float = 0.1
) -> Second:
    return Second(
        process=process,
        t=t,
        open=open_,
        delivered=delivered,
        latency=latency,
        answers=NOTHING,
        recoveries=[],
        lost=0,
        cpu=cpu,
        lag_ms=10 * cpu,
        gaps=0,
        problems={},
    )


def published(t: float, count: int) -> PublisherSecond:
    return PublisherSecond(
        t=t, published=count, answered=count, errors={}, behind=NOTHING, blocked=0.0, cpu=0.5, lag_ms=1.0
    )


def test_a_row_is_a_second_of_all_processes() -> None:
    timeline = Timeline(100.0, 3, ignored)
    timeline.add(second(101.02, 0, 10, 500, encoded(1_000, 99)))
    timeline.add_publisher(published(101.1, 50))
    timeline.add(second(101.3, 1, 20, 1_000, encoded(40_000, 1), cpu=0.8))
    timeline.finish()
    (row,) = timeline.rows
    assert row == Row(1.0, 30, 50, 1_500, row.p50, row.p99, row.worst, 80.0, 8.0)
    assert row.p50 == pytest.approx(1.0, rel=0.01)
    assert row.worst == pytest.approx(40.0, rel=0.01)


def test_a_second_of_which_nothing_came_has_no_latency() -> None:
    timeline = Timeline(0.0, 1, ignored)
    timeline.add(second(1.0))
    timeline.finish()
    assert timeline.rows == [Row(1.0, 10, 0, 0, None, None, None, 10.0, 1.0)]


def test_what_was_before_the_begin_is_left_out() -> None:
    timeline = Timeline(100.0, 1, ignored)
    timeline.add(second(98.7))
    timeline.add(second(99.7))
    timeline.add(second(100.7, delivered=7))
    timeline.finish()
    assert [(row.t, row.delivered) for row in timeline.rows] == [(1.0, 7)]


def test_a_process_that_was_held_up_tells_of_a_later_second() -> None:
    timeline = Timeline(0.0, 1, ignored)
    timeline.add(second(1.0, delivered=1))
    timeline.add(second(4.0, delivered=2, open_=9))
    timeline.finish()
    assert [(row.t, row.delivered, row.open) for row in timeline.rows] == [
        (1, 1, 10),
        (2, 0, 10),
        (3, 0, 10),
        (4, 2, 9),
    ]


def test_a_process_that_was_held_up_once_is_not_behind_for_good() -> None:
    timeline = Timeline(0.0, 1, ignored)
    for t in (1.0, 2.7, 3.0, 4.0, 5.0):
        timeline.add(second(t, delivered=1))
    timeline.finish()
    assert [(row.t, row.delivered) for row in timeline.rows] == [(1, 1), (2, 0), (3, 1), (4, 2), (5, 1)]


def test_rows_are_told_when_all_have_told_of_their_second() -> None:
    rows: list[Row] = []
    timeline = Timeline(0.0, 2, rows.append)
    timeline.add(second(0.9))
    timeline.add(second(1.9))
    assert rows == []
    timeline.add_publisher(published(2.1, 50))
    assert [(row.t, row.published) for row in rows] == [(1, 0), (2, 50)]


def test_who_tells_nothing_is_waited_for_three_seconds() -> None:
    rows: list[Row] = []
    timeline = Timeline(0.0, 2, rows.append)
    for at in range(1, 11):
        timeline.add(second(float(at)))
    assert [row.t for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    timeline.add_publisher(published(4.0, 50))
    timeline.finish()
    assert rows == timeline.rows
    assert [row.published for row in rows] == [0, 0, 0, 0, 0, 0, 0, 50, 0, 0]


def test_rows_are_bounded() -> None:
    timeline = Timeline(0.0, 1, ignored, longest=5)
    for at in range(1, 20):
        timeline.add(second(float(at)))
    timeline.finish()
    assert [row.t for row in timeline.rows] == [15, 16, 17, 18, 19]


@given(st.lists(st.floats(0, 0.99), min_size=1, max_size=4), st.integers(1, 12), st.integers(0, 2**32))
def test_every_delivery_is_in_one_row(offsets: list[float], seconds: int, seed: int) -> None:
    """Processes that tick at any time of the second, each up to 0.4 s late."""
    late = random.Random(seed)
    timeline = Timeline(50.0, len(offsets), ignored)
    told = [
        second(51 + at + offset + (late.uniform(0, 0.4) if at else 0.0), process, delivered=1 << process)
        for process, offset in enumerate(offsets)
        for at in range(seconds)
    ]
    for one in sorted(told, key=lambda second: second.t):
        timeline.add(one)
    timeline.finish()
    assert sum(row.delivered for row in timeline.rows) == seconds * sum(1 << process for process in range(len(offsets)))
    assert [row.t for row in timeline.rows] == [float(1 + at) for at in range(len(timeline.rows))]
    for process in range(len(offsets)):
        assert sum(row.delivered >> process & 1 for row in timeline.rows) == seconds


def test_throughput_is_of_whole_seconds_within_the_phases() -> None:
    timeline = Timeline(0.0, 1, ignored)
    for at, delivered in enumerate((9_000, 100, 300, 200, 8_000), start=1):
        timeline.add(second(float(at), delivered=delivered))
    timeline.finish()
    found = timeline.throughput(0.5, 4.5)
    assert (found.peak, found.sustained) == (300, 200)
    assert timeline.throughput(10.0, 11.0).peak == 0


def test_series_take_the_sample_that_was_current() -> None:
    timeline = Timeline(100.0, 1, ignored)
    for at in range(1, 4):
        timeline.add(second(100.0 + at))
    timeline.finish()
    samples = [ResourceSample(101.9, 20.0, 30.0, 1.5, None, None), ResourceSample(102.9, 40.0, 30.0, 1.5, 90.0, 64.0)]
    series = timeline.series(samples)
    assert series.t == [1, 2, 3]
    assert series.machine_cpu == [None, 20.0, 40.0]
    assert series.server_cpu == [None, None, 90.0]
    assert series.client_cpu == [10.0, 10.0, 10.0]
    assert series.open == [10, 10, 10]
