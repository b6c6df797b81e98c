"""How much a price moves: close-to-close volatility, the range's volatility, the average true range; pure.

With candles of one length, C the close, H the high, L the low, n returns and Y candles per year:

    return           r_t = ln(C_t / C_(t-1)), of candles in direct succession
    volatility       s = sqrt(sum((r_t - mean(r))^2) / (n - 1)), per candle; a sample's standard deviation
    annualized       s * sqrt(Y)
    Parkinson        sqrt(sum(ln(H_t / L_t)^2) / (4 n ln 2)) * sqrt(Y): of the range, annualized (Parkinson 1980)
    true range       max(H_t, C_(t-1)) - min(L_t, C_(t-1)); its mean is the ATR, in units of the price

A return over a hole (a weekend, a lost feed) is none: it is not one candle's, and would be annualized as one. Sums are
exact (``math.fsum``), so the order and the size of the prices do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

TRADING_DAYS = 260  # a year's days on which currencies are traded, around the clock
LEAST_RETURNS = 2  # a standard deviation of fewer is none


class Bar(NamedTuple):
    """A closed candle: its start in Unix seconds, and prices above 0."""

    time: int
    high: float
    low: float
    close: float

    @property
    def sound(self) -> bool:
        """Whether logarithms can be taken of it; one that is not sound counts as missing."""
        return 0 < self.low <= self.close <= self.high < math.inf


class Volatility(NamedTuple):
    """What :func:`volatility` found; every number is finite.

    Attributes:
        time: Unix seconds, the end of the newest candle.
        returns: how many went into it.
        per_candle, annualized, parkinson: fractions, 0.1 is 10 %.
        atr: in units of the price.
    """

    time: int
    returns: int
    per_candle: float
    annualized: float
    parkinson: float
    atr: float


def candles_per_year(step_s: int) -> float:
    """How many candles of ``step_s`` seconds a trading year has."""
    return TRADING_DAYS * 86_400 / step_s


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample of two or more (``ddof=1``)."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def volatility(bars: Sequence[Bar], step_s: int, periods: int) -> Volatility | None:
    """The volatility of the newest ``periods`` candles.

    Args:
        bars: oldest first, times unique; ``periods + 1`` of them or more are used best.
        step_s: the length of a candle in seconds.
        periods: returns to look back, at most; holes make it fewer.

    Returns:
        ``None`` where fewer than :data:`LEAST_RETURNS` returns are known.
    """
    sound = [bar for bar in bars if bar.sound][-(periods + 1) :]
    pairs = [(last, bar) for last, bar in pairwise(sound) if bar.time - last.time == step_s]
    if len(pairs) < LEAST_RETURNS:
        return None
    year = math.sqrt(candles_per_year(step_s))
    per_candle = deviation([math.log(bar.close / last.close) for last, bar in pairs])
    ranges = math.fsum(math.log(bar.high / bar.low) ** 2 for _, bar in pairs)
    true_ranges = [max(bar.high, last.close) - min(bar.low, last.close) for last, bar in pairs]
    return Volatility(
        time=sound[-1].time + step_s,
        returns=len(pairs),
        per_candle=per_candle,
        annualized=per_candle * year,
        parkinson=math.sqrt(ranges / (4 * len(pairs) * math.log(2))) * year,
        atr=math.fsum(true_ranges) / len(pairs),
    )
