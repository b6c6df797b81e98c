"""Volatility: the same numbers as numpy's, also where candles are missing."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fx.volatility import Bar, candles_per_year, deviation, volatility
from tests.fx.recorded import bars, minutes

STEP = 60


def plain(closes: list[float], start: int = 0) -> list[Bar]:
    return [Bar(start + STEP * i, close, close, close) for i, close in enumerate(closes)]


def by_numpy(sound: list[Bar], periods: int) -> tuple[int, float, float, float]:
    """Returns, deviation, Parkinson and ATR of the last candles; holes taken out by a mask."""
    time, high, low, close = (np.array(column) for column in zip(*sound[-(periods + 1) :], strict=True))
    direct = np.diff(time) == STEP
    returns = np.diff(np.log(close))[direct]
    parkinson = np.sqrt(np.mean(np.log(high[1:] / low[1:])[direct] ** 2) / (4 * np.log(2)))
    ranges = np.maximum(high[1:], close[:-1]) - np.minimum(low[1:], close[:-1])
    return len(returns), float(np.std(returns, ddof=1)), float(parkinson), float(ranges[direct].mean())


@pytest.mark.parametrize("periods", [2, 24, 60, 1_440, 10_000])
def test_recorded_bars(periods: int) -> None:
    recorded = [Bar(*bar) for bar in bars("gbpusd-m1-bid")]
    found = volatility(recorded, STEP, periods)
    assert found is not None
    returns, per_candle, parkinson, atr = by_numpy(recorded, periods)
    year = math.sqrt(260 * 24 * 60)
    assert found.returns == returns
    assert found.per_candle == pytest.approx(per_candle, rel=1e-12)
    assert found.annualized == pytest.approx(per_candle * year, rel=1e-12)
    assert found.parkinson == pytest.approx(parkinson * year, rel=1e-12)
    assert found.atr == pytest.approx(atr, rel=1e-9)
    assert found.time == recorded[-1].time + STEP


def test_recorded_quotes_with_holes() -> None:
    recorded = [Bar(time, mid, mid, mid) for time, mid in minutes("usdjpy-ticks").items()]
    missing = sum(after.time - bar.time != STEP for bar, after in pairwise(recorded))
    found = volatility(recorded, STEP, 10_000)
    assert missing > 0
    assert found is not None
    returns, per_candle, _, _ = by_numpy(recorded, 10_000)
    assert found.returns == returns == len(recorded) - 1 - missing
    assert found.per_candle == pytest.approx(per_candle, rel=1e-12)


prices = st.floats(0.5, 200)


@given(
    st.lists(st.tuples(st.integers(1, 3), prices, prices, prices), min_size=1, max_size=40),
    st.integers(2, 50),
)
def test_any_candles(rows: list[tuple[int, float, float, float]], periods: int) -> None:
    time, sound = 0, []
    for steps, *three in rows:
        time += steps * STEP
        low, close, high = sorted(three)
        sound.append(Bar(time, high, low, close))
    found = volatility(sound, STEP, periods)
    recent = sound[-(periods + 1) :]
    if sum(after.time - bar.time == STEP for bar, after in pairwise(recent)) < 2:
        assert found is None
        return
    assert found is not None
    returns, per_candle, parkinson, atr = by_numpy(sound, periods)
    year = math.sqrt(candles_per_year(STEP))
    assert found.returns == returns
    assert found.per_candle == pytest.approx(per_candle, rel=1e-9, abs=1e-14)
    assert found.parkinson == pytest.approx(parkinson * year, rel=1e-9, abs=1e-12)
    assert found.atr == pytest.approx(atr, rel=1e-9, abs=1e-12)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=50))
def test_deviation_is_numpys(values: list[float]) -> None:
    assert deviation(values) == pytest.approx(float(np.std(values, ddof=1)), rel=1e-9, abs=1e-9)


def test_constant_prices_do_not_move() -> None:
    found = volatility(plain([1.1] * 30), STEP, 24)
    assert found is not None
    assert found[1:] == (24, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_too_few_candles_have_none(rows: int) -> None:
    assert volatility(plain([1.1, 1.2, 1.3][:rows]), STEP, 24) is None


def test_a_weekend_is_no_candle() -> None:
    friday, monday = plain([1.10, 1.11, 1.12]), plain([1.50, 1.51, 1.52], start=200_000)
    found = volatility([*friday, *monday], STEP, 24)
    assert found is not None
    assert found.returns == 4
    assert found.per_candle < 0.01  # the jump of 34 % is not in it


@pytest.mark.parametrize("price", [0.0, -1.0, math.nan, math.inf])
def test_a_price_that_is_none_counts_as_missing(price: float) -> None:
    closes = [1.10, 1.11, 1.12, 1.13, 1.14, 1.15]
    broken = plain([1.10, 1.11, price, 1.13, 1.14, 1.15])
    found, whole = volatility(broken, STEP, 24), volatility(plain(closes), STEP, 24)
    assert found is not None
    assert whole is not None
    assert (found.returns, whole.returns) == (3, 5)
    assert all(map(math.isfinite, found))
