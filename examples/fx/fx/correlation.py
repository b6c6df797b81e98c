"""Which pairs move together: correlations of log returns, and the pairs that stand out; pure.

A return belongs to the end of its candle, and is known where this candle and the one directly before it are. Two
series are compared where both have returns, so a hole in one takes nothing from the others (as pandas' ``corr`` does):

    r = sum((x - mean(x)) * (y - mean(y))) / sqrt(sum((x - mean(x))^2) * sum((y - mean(y))^2))
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

_NOISE = 1e-12  # of a return relative to its mean: below, a series is constant and only rounding varies


class Correlation(NamedTuple):
    """Of two instruments, ``first < second``: -1 to 1, from ``observations`` common returns."""

    first: str
    second: str
    value: float
    observations: int


class Ranked(NamedTuple):
    """One of the pairs that stand out: the ``rank``-th (from 1) of ``category`` most, inverse or least."""

    category: str
    rank: int
    correlation: Correlation


def log_returns(closes: Mapping[int, float], step_s: int) -> dict[int, float]:
    """The returns by the start of their candle; prices that are not above 0 and finite count as missing."""
    found = {}
    for time, close in closes.items():
        before = closes.get(time - step_s, 0.0)
        if 0 < before < math.inf and 0 < close < math.inf:
            found[time] = math.log(close / before)
    return found


def pearson(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The correlation of two samples of one length, within -1 and 1; ``None``: one of them does not vary."""
    if len(first) < 2:
        return None
    one, other = _centred(first), _centred(second)
    spread = math.sqrt(math.fsum(x * x for x in one)) * math.sqrt(math.fsum(y * y for y in other))
    if spread == 0.0:
        return None
    return max(-1.0, min(1.0, math.fsum(x * y for x, y in zip(one, other, strict=True)) / spread))


def correlations(series: Mapping[str, Mapping[int, float]], step_s: int, least: int) -> list[Correlation]:
    """The upper half of the matrix, by name.

    Args:
        series: closes by the candle's start in Unix seconds, by instrument.
        step_s: the length of a candle in seconds.
        least: common returns that a correlation needs; with fewer, or where a price does not vary, it is left out.

    Costs a pass over the common times for each two instruments: 20 instruments and a month of hours are about 0.1 s.
    """
    returns = {name: log_returns(closes, step_s) for name, closes in series.items()}
    found = []
    for first, second in combinations(sorted(returns), 2):
        times = sorted(returns[first].keys() & returns[second].keys())
        if len(times) >= least:
            value = pearson([returns[first][time] for time in times], [returns[second][time] for time in times])
            if value is not None:
                found.append(Correlation(first, second, value, len(times)))
    return found


def stand_out(found: Iterable[Correlation], count: int) -> list[Ranked]:
    """The ``count`` most correlated (above 0), most inverse (below 0) and least correlated pairs, best first."""
    known = sorted(found)
    chosen = {
        "most": sorted((one for one in known if one.value > 0), key=lambda one: -one.value),
        "inverse": sorted((one for one in known if one.value < 0), key=lambda one: one.value),
        "least": sorted(known, key=lambda one: abs(one.value)),
    }
    return [
        Ranked(category, rank, one)
        for category, ranking in chosen.items()
        for rank, one in enumerate(ranking[:count], 1)
    ]


def _centred(values: Sequence[float]) -> list[float]:
    """The values without their mean; zeros where they vary by nothing but rounding."""
    mean = math.fsum(values) / len(values)
    centred = [value - mean for value in values]
    return centred if max(map(abs, centred)) > _NOISE * abs(mean) else [0.0] * len(values)
