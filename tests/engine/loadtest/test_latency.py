from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.loadtest.latency import LONGEST_US, Latency
from engine.loadtest.report import Percentiles
from transport.errors import ConfigError

records = st.lists(st.tuples(st.integers(0, LONGEST_US), st.integers(1, 1_000)), max_size=30)
STEP = 1e-3  # of a value


def recorded(pairs: list[tuple[int, int]]) -> Latency:
    latency = Latency()
    for us, count in pairs:
        latency.record(us, count)
    return latency


@given(records, records)
@settings(max_examples=50)
def test_merged_histograms_are_one_histogram(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    merged, whole = recorded(one), recorded([*one, *other])
    merged.merge(Latency.decode(recorded(other).encode()))
    assert merged.count == whole.count == sum(count for _, count in [*one, *other])
    assert merged.percentiles() == whole.percentiles()


@given(records.filter(bool))
def test_percentiles_are_those_of_the_values(pairs: list[tuple[int, int]]) -> None:
    latency, values = recorded(pairs), sorted(us for us, count in pairs for _ in range(count))
    found = latency.percentiles()
    assert found.worst * 1_000 == pytest.approx(values[-1], rel=STEP, abs=1)
    assert found.mean * 1_000 == pytest.approx(sum(values) / len(values), rel=STEP, abs=1)
    assert values[0] * (1 - STEP) - 1 <= found.p50 * 1_000
    for share, figure in ((0.5, found.p50), (0.9, found.p90), (0.99, found.p99), (0.999, found.p999)):
        rank = max(1, int(share * len(values) + 0.5))
        assert figure * 1_000 == pytest.approx(values[rank - 1], rel=STEP, abs=1)


def test_what_is_beyond_the_ends_counts_as_the_end() -> None:
    latency = recorded([(-5, 1), (10 * LONGEST_US, 2)])
    assert latency.count == 3
    assert latency.percentiles().worst == pytest.approx(LONGEST_US / 1_000, rel=STEP)


def test_the_distribution_ends_with_the_worst() -> None:
    points = recorded([(1_000, 90), (2_000, 9), (50_000, 1)]).distribution()
    assert points == sorted(points)
    assert points[-1] == (100.0, pytest.approx(50.0, rel=STEP))
    assert {round(ms) for _, ms in points} == {1, 2, 50}


def test_nothing_recorded_is_nothing() -> None:
    latency = recorded([(7, 3)])
    latency.clear()
    assert latency.percentiles() == Percentiles()
    assert latency.distribution() == []
    assert Latency.decode(latency.encode()).count == 0


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdrh", None)
    with pytest.raises(ConfigError, match=r"pip install 'heliograph\[loadtest\]'"):
        Latency()
