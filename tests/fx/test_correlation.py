"""Correlations: the same numbers as numpy's, on the common times of each two series."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fx.correlation import Correlation, Ranked, correlations, log_returns, pearson, stand_out
from tests.fx.recorded import bars, minutes

STEP = 60


def test_recorded_series() -> None:
    """Three series that really were recorded, put on one timeline, each with its own holes."""
    quotes, bid = minutes("eurusd-ticks"), {time: close for time, _, _, close in bars("gbpusd-m1-bid")}
    ask = {time: close for time, _, _, close in bars("gbpusd-m1-ask")}
    shift = min(bid) - min(quotes) // 86_400 * 86_400
    series = {"ASK": ask, "BID": bid, "EUR_USD": {time + shift: mid for time, mid in quotes.items()}}
    found = correlations(series, STEP, least=10)
    assert [(one.first, one.second) for one in found] == [("ASK", "BID"), ("ASK", "EUR_USD"), ("BID", "EUR_USD")]
    for first, second, value, observations in found:
        one, other = series[first], series[second]
        times = [time for time in one if time in other and time - STEP in one and time - STEP in other]
        returns = [[math.log(closes[time] / closes[time - STEP]) for time in times] for closes in (one, other)]
        assert observations == len(times) > 100
        assert value == pytest.approx(float(np.corrcoef(np.array(returns))[0, 1]), rel=1e-9, abs=1e-12)
    assert found[0].value > 0.9


samples = st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=40)


@given(samples)
def test_pearson_is_numpys(pairs: list[tuple[float, float]]) -> None:
    first, second = map(list, zip(*pairs, strict=True))
    found = pearson(first, second)
    spread = min(float(np.std(first)), float(np.std(second)))
    if found is None:
        assert spread < 1e-6  # numpy would divide by it and say NaN
    elif spread > 1e-3:  # below, it is rounding that numpy and we compare
        assert found == pytest.approx(float(np.corrcoef(first, second)[0, 1]), abs=1e-6)
    assert found is None or -1 <= found <= 1
    assert pearson(second, first) == found


@given(st.dictionaries(st.integers(0, 60).map(lambda i: i * STEP), st.floats(0.5, 2), max_size=60))
def test_a_series_moves_with_itself_and_against_its_inverse(closes: dict[int, float]) -> None:
    series = {"A": closes, "B": closes, "C": {time: 1 / close for time, close in closes.items()}}
    for one in correlations(series, STEP, least=2):
        assert one.observations == len(log_returns(closes, STEP))
        assert one.value == pytest.approx(1.0 if (one.first, one.second) == ("A", "B") else -1.0)


@pytest.mark.parametrize("constant", [1.1, 86.655])
def test_a_price_that_does_not_vary_has_no_correlation(constant: float) -> None:
    moving = {i * STEP: 1 + i % 3 / 10 for i in range(20)}
    assert correlations({"A": moving, "B": dict.fromkeys(moving, constant)}, STEP, least=2) == []
    assert pearson([0.1] * 10, list(range(10))) is None
    growing = {time: constant * 1.001**i for i, time in enumerate(moving)}  # returns differ by rounding only
    assert correlations({"A": moving, "B": growing}, STEP, least=2) == []


def test_too_few_common_times_have_none() -> None:
    one = {i * STEP: 1 + i % 3 / 10 for i in range(12)}
    other = {i * STEP: 1 + i % 5 / 10 for i in range(6, 30)}
    assert [c.observations for c in correlations({"A": one, "B": other}, STEP, least=5)] == [5]
    assert correlations({"A": one, "B": other}, STEP, least=6) == []
    assert correlations({"A": one, "B": {}}, STEP, least=0) == []
    assert correlations({"A": {0: 1.0}, "B": {0: 1.0}}, STEP, least=0) == []


@pytest.mark.parametrize("price", [0.0, -1.0, math.nan, math.inf])
def test_a_price_that_is_none_counts_as_missing(price: float) -> None:
    one = {i * STEP: 1 + i % 3 / 10 for i in range(12)}
    (found,) = correlations({"A": one, "B": {**one, 5 * STEP: price}}, STEP, least=2)
    assert found.value == pytest.approx(1.0)
    assert found.observations == 9


def test_the_pairs_that_stand_out() -> None:
    found = [
        Correlation("A", "B", 0.9, 50),
        Correlation("A", "C", -0.8, 50),
        Correlation("A", "D", 0.0, 50),
        Correlation("B", "C", -0.85, 50),
        Correlation("B", "D", 0.1, 50),
        Correlation("C", "D", 0.9, 50),
    ]
    ranked = stand_out(reversed(found), 2)
    assert ranked == [
        Ranked("most", 1, found[0]),
        Ranked("most", 2, found[5]),
        Ranked("inverse", 1, found[3]),
        Ranked("inverse", 2, found[1]),
        Ranked("least", 1, found[2]),
        Ranked("least", 2, found[4]),
    ]
    assert stand_out([], 5) == []
